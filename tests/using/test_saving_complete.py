"""A saved model of this package's parts is loaded complete: same parts, weights and values."""

import json
import re
from pathlib import Path

import pyro
import pytest
import torch
from torch import nn

import pyro_dvae as dv
from pyro_dvae.checkpoint import load_checkpoint, save_checkpoint
from pyro_dvae.cli import main
from pyro_dvae.errors import CheckpointError
from pyro_dvae.levels import Schedule
from pyro_dvae.networks import BernoulliDecoder, GaussianEncoder
from pyro_dvae.registration import Module

D, LATENTS = 6, 2


def x(count=8):
    return torch.rand(count, D, generator=torch.Generator().manual_seed(3)).round()


def trained(pair, rows=None, **options):
    settings = {"epochs": 2, "batch_size": 4, "learning_rate": 0.01, "progress": False}
    rows = x() if rows is None else rows
    return dv.fit(pair.model, pair.guide, rows, loss=dv.TraceDenoising_ELBO(), **(settings | options))


def vamp():
    guide = dv.GaussianGuide(GaussianEncoder(D, LATENTS, (5,)))
    prior = dv.VampPrior(guide, x(3))
    pair = dv.DVAE(guide.encoder, BernoulliDecoder(D, LATENTS, (5,)), prior=prior)
    pair.guide = guide
    return pair


class Chain:
    def __init__(self):
        decoder, upper = (
            BernoulliDecoder(D, LATENTS, (5,)),
            [GaussianEncoder(3, LATENTS, (4,))],
        )
        self.model = dv.ChainModel(decoder, upper, dv.StandardNormal(3))
        self.guide = dv.ChainGuide(
            GaussianEncoder(D, LATENTS), [GaussianEncoder(LATENTS, 3)], dv.Masking(0.1)
        )


PAIRS = {
    "plain": lambda: dv.DVAE(GaussianEncoder(D, LATENTS), BernoulliDecoder(D, LATENTS)),
    "learned noise": lambda: dv.DVAE(
        GaussianEncoder(D, LATENTS, (4, 3), "tanh"),
        BernoulliDecoder(D, LATENTS, [7]),
        dv.GaussianNoise(0.2, learnable=True),
    ),
    "scheduled noise": lambda: dv.DVAE(
        GaussianEncoder(D, LATENTS), BernoulliDecoder(D, LATENTS), dv.BitFlip(dv.LinearSchedule(0.1, 0.0, 2))
    ),
    "swap": lambda: dv.DVAE(
        GaussianEncoder(D, LATENTS), BernoulliDecoder(D, LATENTS), dv.SwapNoise(0.2, x())
    ),
    "flow prior": lambda: dv.DVAE(
        GaussianEncoder(D, LATENTS), BernoulliDecoder(D, LATENTS), prior=dv.FlowPrior(LATENTS, 2, 5)
    ),
    "a prior that shares the guide": vamp,
    "chain": Chain,
    "double": lambda: dv.DVAE(GaussianEncoder(D, LATENTS), BernoulliDecoder(D, LATENTS)).double(),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_saved_model_is_loaded_complete(name, tmp_path):
    pyro.clear_param_store()
    rows = x().double() if name == "double" else x()
    fitted = trained(PAIRS[name](), rows)
    fitted.save(tmp_path / "m")
    page = (tmp_path / "m" / "README.md").read_text()
    assert "model=model" not in page
    wanted = fitted.encode(rows, seed=0), fitted.log_likelihood(rows, num_samples=20, seed=0, progress=False)
    pyro.clear_param_store()
    state = torch.get_rng_state()
    again = dv.load(tmp_path / "m")
    assert torch.equal(torch.get_rng_state(), state)
    found = again.encode(rows, seed=0), again.log_likelihood(rows, num_samples=20, seed=0, progress=False)
    for site, mean in wanted[0].mean.items():
        assert torch.equal(found[0].mean[site], mean)
    assert torch.equal(found[1].log_likelihood, wanted[1].log_likelihood)
    assert not again.model.training
    again.save(tmp_path / "again")
    third = dv.load(tmp_path / "again").encode(rows, seed=0)
    for site, mean in wanted[0].mean.items():
        assert torch.equal(third.mean[site], mean)


class Own(nn.Module):
    latent_size = LATENTS

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(LATENTS, D)

    def forward(self, z):
        return torch.distributions.Independent(pyro.distributions.Bernoulli(logits=self.layer(z)), 1)


def test_parts_of_your_own_are_asked_for(tmp_path):
    pair = dv.DVAE(GaussianEncoder(D, LATENTS), Own())
    fitted = trained(pair)
    fitted.save(tmp_path / "m")
    assert "model=model, guide=guide" in (tmp_path / "m" / "README.md").read_text()
    with pytest.raises(dv.InputError, match="the weights of your own programs"):
        dv.load(tmp_path / "m")
    again = dv.load(tmp_path / "m", model=pair.model, guide=pair.guide)
    assert torch.equal(again.encode(x()).mean["z"], fitted.encode(x()).mean["z"])


def test_programs_with_keyword_arguments_are_loaded_with_them(tmp_path):
    pair = dv.DVAE(GaussianEncoder(D, LATENTS), BernoulliDecoder(D, LATENTS))

    def model(x, *, shift):
        return pair.model(x + shift)

    def guide(x, *, shift):
        return pair.guide(x + shift)

    bound = dv.TraceDenoising_ELBO()
    fitted = dv.fit(model, guide, x(), loss=bound, epochs=1, progress=False, shift=torch.zeros(()))
    fitted.save(tmp_path / "m")
    wanted = fitted.encode(x()).mean["z"]
    assert torch.equal(dv.load(tmp_path / "m", model=model, guide=guide).encode(x()).mean["z"], wanted)
    other = dv.load(tmp_path / "m", model=model, guide=guide, shift=torch.ones(()))
    assert not torch.equal(other.encode(x()).mean["z"], wanted)


def test_a_class_is_found_if_its_file_has_moved(tmp_path):
    """Version 0.1 named the file of a class, which may move within its folder."""
    fitted = trained(dv.DVAE(GaussianEncoder(D, LATENTS), BernoulliDecoder(D, LATENTS)))
    fitted.save(tmp_path / "m")
    path = tmp_path / "m" / "model.safetensors"
    tensors, state = load_checkpoint(path)
    text = json.dumps(state)
    assert "pyro_dvae.networks:GaussianEncoder" in text
    before = text.replace("pyro_dvae.networks:", "pyro_dvae.networks.some_file:")
    save_checkpoint(path, tensors, json.loads(before))
    assert torch.equal(dv.load(tmp_path / "m").encode(x()).mean["z"], fitted.encode(x()).mean["z"])


def test_the_classes_of_a_folder_have_different_names():
    waiting, seen = [Module, Schedule], {}
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        module = kind.__module__
        if module.startswith("pyro_dvae."):
            key = (module.split(".")[1], kind.__qualname__)
            assert seen.setdefault(key, kind) is kind, key


@pytest.mark.parametrize(
    "name", ["os:system", "pyro_dvae.files:read_text", "pyro_dvae.cli:main", "builtins:eval"]
)
def test_a_file_names_no_other_code(name, tmp_path):
    trained(dv.DVAE(GaussianEncoder(D, LATENTS), BernoulliDecoder(D, LATENTS))).save(tmp_path / "m")
    path = tmp_path / "m" / "model.safetensors"
    tensors, state = load_checkpoint(path)
    changed = json.loads(json.dumps(state).replace("pyro_dvae.networks:GaussianEncoder", name))
    save_checkpoint(path, tensors, changed)
    with pytest.raises(CheckpointError, match=r"not part of this package|cannot be made again"):
        dv.load(tmp_path / "m")


def test_the_page_and_the_folder_say_what_is_known_of_the_data(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(x().numpy(), columns=list("abcdef"))
    pair = dv.DVAE(GaussianEncoder(D, LATENTS), BernoulliDecoder(D, LATENTS))
    trained(pair, frame).save(tmp_path / "m")
    assert "- columns: a, b, c, d, e, f\n" in (tmp_path / "m" / "README.md").read_text()
    assert dv.load(tmp_path / "m").about == {"columns": list("abcdef")}


def test_the_facts_of_a_run_folder_are_saved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = "train --dataset digits --epochs 1 --width 5 --latent-size 2 --importance-samples 2 --quiet"
    main([*arguments.split(), "--output", "run"], standalone_mode=False)
    run = dv.load("run")
    run.save("saved")
    page = Path("saved/README.md").read_text()
    assert "- data: digits (handwritten digits" in page
    assert "latent_size 2" in page
    assert re.search(r"- test bound: -\d+\.\d{3} ± \d", page)
    again = dv.load("saved")
    assert again.about == run.about
    assert torch.equal(again.encode(torch.zeros(2, 64)).mean["z"], run.encode(torch.zeros(2, 64)).mean["z"])
