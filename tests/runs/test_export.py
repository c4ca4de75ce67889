"""``pyro-dvae export``: the networks of a run as plain weights and as graphs, run by another program."""

import numpy as np
import pytest
import torch
from commands import call
from safetensors.torch import load_file

import pyro_dvae as dv
from pyro_dvae.jobs import export as exporting
from pyro_dvae.jobs.export import export
from pyro_dvae.jobs.folder import load_run

SMALL = ["--epochs", "1", "--width", "8", "--latent-size", "2", "--importance-samples", "0", "--quiet"]


@pytest.fixture(scope="module")
def counts(tmp_path_factory):
    """A run on counts, whose decoder is told the totals of the rows."""
    folder = tmp_path_factory.mktemp("export")
    np.save(folder / "counts.npy", np.random.default_rng(0).poisson(3.0, (40, 6)))
    scale = ["--scale", "none"]
    call("train", "--dataset", folder / "counts.npy", *scale, *SMALL, "--output", folder / "run")
    return folder / "run"


PARTS = ("encoder", "decoder")


def test_weights_come_from_the_best_epoch(counts, capsys):
    capsys.readouterr()
    call("export", counts)
    assert capsys.readouterr().out.split() == [str(counts / f"export/{p}.safetensors") for p in PARTS]
    dvae, _ = load_run(counts)
    for part, module in zip(PARTS, (dvae.guide.encoder, dvae.model.decoder), strict=True):
        found = load_file(counts / f"export/{part}.safetensors")
        assert {name: value.tolist() for name, value in found.items()} == {
            name: value.tolist() for name, value in module.state_dict().items()
        }


@pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 11),
    reason="the exporter of torch 2.9 fails for this decoder",
)
def test_graphs_give_what_the_networks_give_for_any_number_of_rows(counts, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    call("export", counts, "--format", "onnx", "--output", tmp_path)
    sessions = [runtime.InferenceSession(str(tmp_path / f"{part}.onnx")) for part in PARTS]
    named = [[[each.name for each in way] for way in (s.get_inputs(), s.get_outputs())] for s in sessions]
    assert named == [[["x"], ["loc", "scale"]], [["z", "total"], ["mean"]]]
    assert all(session.get_inputs()[0].shape[0] == "batch" for session in sessions)
    dvae, _ = load_run(counts)
    for rows in (1, 3, 50):
        x = torch.poisson(torch.full((rows, 6), 3.0))
        loc, scale = sessions[0].run(None, {"x": x.numpy()})
        expected = dvae.encode(x)
        np.testing.assert_allclose(loc, expected[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(scale, expected[1], rtol=1e-4, atol=1e-5)
        total = x.sum(1, keepdim=True)
        (mean,) = sessions[1].run(None, {"z": loc, "total": total.numpy()})
        np.testing.assert_allclose(mean, dvae.decode(torch.tensor(loc), total), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["--encoder", "convolutional", "--decoder", "convolutional"],
        ["--encoder", "gru", "--likelihood", "gaussian-per-pixel", "--binarisation", "none"],
        ["--likelihood", "continuous-bernoulli", "--binarisation", "none"],
        ["--likelihood", "discretised-logistic-mixture", "--binarisation", "none"],
    ],
)
def test_every_network_is_exported(options, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    call("train", "--dataset", "digits", *options, *SMALL, "--output", "run")
    assert [path.name for path in export("run", "onnx", None)] == ["encoder.onnx", "decoder.onnx"]


def test_what_cannot_be_exported_is_refused_in_one_sentence(counts, tmp_path, monkeypatch, capsys):
    with pytest.raises(dv.InputError, match="format: unknown name 'pickle'"):
        export(counts, "pickle", None)
    table = tmp_path / "table.csv"
    table.write_text("a,b\n" + "".join(f"{n % 7}.5,{'xyz'[n % 3]}\n" for n in range(30)))
    call("train", "--dataset", table, *SMALL, "--output", tmp_path / "run")
    capsys.readouterr()
    call("export", tmp_path / "run", "--format", "onnx", code=2)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "the decoder (TableDecoder) has categories, which have no mean to export" in line
    call("export", tmp_path / "run")  # weights need no mean
    other = {
        name: value + 1 for name, value in load_file(tmp_path / "run/export/encoder.safetensors").items()
    }
    monkeypatch.setattr(exporting, "load_file", lambda path: other)
    with pytest.raises(dv.InputError, match="the exported encoder gives other values than the original"):
        export(tmp_path / "run", "safetensors", tmp_path / "other")
    assert not list((tmp_path / "other").glob("*"))
