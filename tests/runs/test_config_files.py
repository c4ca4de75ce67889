"""``--config FILE``, ``info --config``, ``--patience`` and ``--log`` on the command line."""

import csv
import json

import numpy as np
import pytest

from pyro_dvae.jobs.config_file import read

TINY = {
    "dataset": "digits",
    "width": 3,
    "latent_size": 2,
    "decoder_layers": 1,
    "batch_size": 400,
    "importance_samples": 0,
    "epochs": 2,
    "rate_schedule": "constant",
}


@pytest.fixture(autouse=True)
def _inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def options_of(folder):
    return json.loads((folder / "config.json").read_text())["options"]


def test_a_file_gives_options_and_the_line_wins(tmp_path, call):
    text = "\n".join(f"{name.replace('_', '-')} = {json.dumps(value)}" for name, value in TINY.items())
    (tmp_path / "tiny.toml").write_text(f"{text}\nnoise = 0  # a plain VAE\n")
    call("train", "--config", "tiny.toml", "--epochs", 1, "--output", "a", "--quiet")
    found = options_of(tmp_path / "a")
    assert {name: found[name] for name in TINY} == TINY | {"epochs": 1}
    assert found["noise"] == 0
    # The record of a run is such a file, and what info prints is one too: both give the same run again.
    call("train", "--config", "a/config.json", "--output", "b", "--quiet")
    (tmp_path / "printed.toml").write_text(call("info", "a", "--config").out)
    call("train", "--config", "printed.toml", "--output", "c", "--quiet")
    (tmp_path / "printed.json").write_text(call("info", "a", "--config", "--json").out)
    assert json.loads((tmp_path / "printed.json").read_text()) == found
    for name in ("b", "c"):
        assert options_of(tmp_path / name) == found
    results = [json.loads((tmp_path / name / "results.json").read_text())["test_bound"] for name in "abc"]
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("latent_sise = 3", "has the unknown option 'latent_sise'; the nearest is 'latent_size'"),
        ("latent_size = 'three'", "config: latent_size: expected int, got 'three'"),
        ("encoder = 'mpl'", "config: encoder: unknown name 'mpl'; known: mlp, convolutional, gru"),
        ("latent_size = ", "cannot be read as TOML"),
        ('{"latent_size": 3', "cannot be read as JSON"),
        ('{"options": {"epoch": 3}}', "has the unknown option 'epoch'; the nearest is 'epochs'"),
        ("[options]\nseed = -1", "seed: expected"),
        ("noise = 0.1\n[options]\nnoise = 0.2", "has the option 'noise' twice"),
        ("latent-size = 3\nlatent_size = 4", "has the option 'latent_size' twice"),
        ('{"noise": 0.1, "noise": 0.2}', "has the option 'noise' twice"),
        ("compile = true\ncompiled = true", "has the option 'compiled' twice"),
        ("compile = true\nno-compile = true", "has the option 'compiled' twice"),
        ("salt = true", "salt: expected str, got True"),
        ("noise = '0.1'", "noise: expected float, got '0.1'"),
    ],
)
def test_a_file_that_is_refused(tmp_path, call, text, message):
    (tmp_path / "file").write_text(text)
    err = call("train", "--config", "file", "--dataset", "digits", code=2).err
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_names_and_values_are_those_of_the_command_line(tmp_path):
    file = tmp_path / "file"
    file.write_text("salt = 0.25\ncompile = true\nlabel-column = 3\nlatent-size = 4\n", encoding="utf-8-sig")
    found = read(str(file))
    assert found == {"salt": "0.25", "compiled": True, "label_column": "3", "latent_size": 4}
    file.write_text('{"salt": "rate", "compile": null}', encoding="utf-8-sig")
    assert read(str(file)) == {"salt": "rate", "compiled": None}
    file.write_text("no-compile = true")
    assert read(str(file)) == {"compiled": False}


def test_the_record_of_every_run_is_accepted(tmp_path, call):
    rows = np.random.default_rng(0).normal(size=(60, 3))
    table = "\n".join(f"{a:.3f},{b:.3f},{'xy'[int(c > 0)]}" for a, b, c in rows)
    (tmp_path / "t.csv").write_text(f"a,b,c\n{table}\n")
    small = ("--epochs", 1, "--width", 3, "--latent-size", 2, "--importance-samples", 0, "--quiet")
    (tmp_path / "salt.toml").write_text('salt = "rate"\nscale = "standardise"')
    given = ("--config", "salt.toml", "--noise-kind", "swap")
    call("train", "--dataset", "t.csv", *given, *small, "--output", "a")
    found = options_of(tmp_path / "a")
    assert (found["noise_kind"], found["salt"]) == ("swap", "rate")
    call("train", "--config", "a/config.json", "--quiet", "--output", "b")
    assert options_of(tmp_path / "b") == found
    (tmp_path / "odd.json").write_text(json.dumps(found | {"noise_end": 0.2}))
    call("train", "--config", "odd.json", "--quiet", "--output", "c")
    assert options_of(tmp_path / "c") == found | {"noise_end": 0.2}
    err = call("train", "--config", "odd.json", "--noise-end", 0.3, "--output", "d", code=2).err
    assert "noise_end: it has no effect without --noise-schedule linear or" in err


def test_a_file_that_is_not_there(call):
    assert "config: there is no file nowhere.toml" in call("train", "--config", "nowhere.toml", code=2).err


def test_patience_and_logs(tmp_path, call):
    (tmp_path / "tiny.json").write_text(json.dumps(TINY | {"log": "csv", "learning_rate": 1e-9}))
    err = call("train", "--config", "tiny.json", "--epochs", 9, "--patience", 1, "--output", "a").err
    assert "no better validation bound since epoch" in err
    lines = (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()
    assert 2 <= len(lines) < 9
    with open(tmp_path / "a" / "log.csv", newline="") as file:
        assert [int(line["epoch"]) for line in csv.DictReader(file)] == list(range(1, len(lines) + 1))
    # A run that has stopped continues with more patience; what is logged may change.
    again = ("train", "--resume", "a", "--log", "tensorboard", "--quiet")
    call(*again)
    assert (tmp_path / "a" / "metrics.jsonl").read_text().splitlines() == lines
    call(*again, "--patience", 100, "--epochs", len(lines) + 1)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(tmp_path / "a" / "tensorboard"))
    found.Reload()
    assert [each.step for each in found.Scalars("validation_bound")][-1] == len(lines) + 1
    assert found.Images("reconstructions")[-1].height == 16


def test_no_patience_at_all(call):
    assert "patience: expected" in call("train", "--dataset", "digits", "--patience", 0, code=2).err
