"""The networks that the options of a run name: built, trained on small data, loaded and evaluated."""

import dataclasses
import json
import math

import numpy as np
import pyro
import pytest
import torch
from commands import call

from pyro_dvae import networks
from pyro_dvae.errors import InputError
from pyro_dvae.jobs.evaluate import evaluate_run
from pyro_dvae.jobs.folder import load_run
from pyro_dvae.jobs.options import DECODERS, ENCODERS, LIKELIHOODS, EvaluationOptions, Options
from pyro_dvae.jobs.parts import build_decoder, build_encoder

TINY = ["--dataset", "digits", "--epochs", "1", "--width", "8", "--latent-size", "3"]
TINY += ["--importance-samples", "2", "--quiet"]

LITTLE = EvaluationOptions(samples=20, count=4, annealed=0, simulated=0, no_compile=True)


def options(**changes):
    return dataclasses.replace(Options(), **changes)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("mlp", networks.GaussianEncoder),
        ("convolutional", networks.ConvolutionalEncoder),
        ("gru", networks.GRUEncoder),
    ],
)
def test_encoders_by_name(name, kind):
    encoder = build_encoder(options(encoder=name, width=30, latent_size=3), 560, (28, 20))
    assert type(encoder) is kind
    assert encoder(torch.rand(2, 560))[1].shape == (2, 3)
    assert encoder.head.in_features == 30


def test_every_name_of_the_options_is_built():
    for encoder in ENCODERS:
        build_encoder(options(encoder=encoder), 16)
    x = torch.ones(2, 560)
    for decoder in DECODERS:
        named = LIKELIHOODS if decoder == "mlp" else networks.elements.LIKELIHOODS
        for likelihood in set(named) - {"auto", "table"}:  # these two are chosen by the data
            asked = options(decoder=decoder, likelihood=likelihood, binarisation="none", latent_size=3)
            network = build_decoder(asked, 560, (28, 20))
            assert network(torch.randn(2, 3)).log_prob(x).shape == (2,)


def test_bad_combinations_are_refused():
    with pytest.raises(InputError, match="hidden_layers: expected 1, the recurrent layer of a gru"):
        build_encoder(options(encoder="gru", hidden_layers=2), 16)
    with pytest.raises(InputError, match="likelihood: continuous-bernoulli is a density of grey pixels"):
        build_decoder(options(likelihood="continuous-bernoulli"), 16)
    with pytest.raises(InputError, match=r"encoder: unknown name 'grue' \(did you mean 'gru'\?\)"):
        build_encoder(options(encoder="grue"), 16)
    with pytest.raises(InputError, match="decoder: unknown name 'gru'"):
        build_decoder(options(decoder="gru"), 16)
    with pytest.raises(InputError, match="hidden_layers: expected 1 to 4"):
        build_encoder(options(hidden_layers=5), 16)


GREY = "--likelihood continuous-bernoulli --binarisation none"


@pytest.mark.parametrize(
    "asked", [f"--encoder gru {GREY}", "--encoder convolutional --decoder convolutional"]
)
def test_a_run_is_trained_described_sampled_and_evaluated(asked, tmp_path, capsys):
    run = tmp_path / "run"
    call("train", *TINY, *asked.split(), "--output", run)
    pyro.clear_param_store()
    results = json.loads((run / "results.json").read_text())
    assert math.isfinite(results["test_bound"]["mean"])

    capsys.readouterr()
    call("info", run)
    described = capsys.readouterr().out
    for kind in ("encoder gru", "encoder convolutional", "decoder convolutional", "continuous-bernoulli"):
        assert (kind in described) == (kind in asked.replace("--", ""))

    dvae, _ = load_run(run)
    assert dvae.encode(torch.rand(5, 64))[0].shape == (5, 3)

    call("sample", run, "--count", 4, "--pixels", "--output", run / "images.npy")
    images = np.load(run / "images.npy")
    assert images.shape == (4, 8, 8)
    assert images.min() >= 0
    assert images.max() <= 1

    content = evaluate_run(run, LITTLE, quiet=True)
    assert content["log_p_is_of"] == ("density" if "continuous" in asked else "probability")
    assert math.isfinite(content["log_likelihood"]["mean"])


def test_a_wrong_likelihood_for_binary_data_ends_with_one_line(tmp_path, capsys):
    call("train", *TINY, "--likelihood", "continuous-bernoulli", "--output", tmp_path / "run", code=2)
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1
    assert "--binarisation none" in errors[0]
    assert not (tmp_path / "run").exists()
