"""Every argument of the exported callables, given something odd: one line of ours, or a result."""

import inspect
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn

import pyro_dvae as dv

ODD = {
    "None": None,
    "text": "odd",
    "empty": "",
    "a huge integer": 10**400,
    "a negative integer": -1,
    "zero": 0,
    "a half": 0.5,
    "nan": math.nan,
    "infinity": math.inf,
    "true": True,
    "an object": object(),
    "a list": [],
    "a list of None": [None],
    "a dictionary": {"a": 1},
    "complex": 1j,
    "bytes": b"odd",
    "an empty tensor": torch.empty(0),
    "a tensor of NaN": torch.full((4, 2), math.nan),
    "a number in a tensor": torch.tensor(3.0),
    "words of numbers": torch.ones(4, 2, dtype=torch.int64),
}
X = torch.arange(8.0).reshape(4, 2) / 8


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x):
        return self.linear(x), torch.ones_like(x)


def model(x):
    loc = pyro.param("loc", torch.zeros(2))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def guide(x):
    scale = pyro.param("scale", torch.ones(2), constraint=dist.constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x, scale).to_event(1))


def encoder():
    return Heads()


def calls():
    """Return each callable with arguments that it takes."""
    quiet = {"epochs": 1, "progress": False, "batch_size": 2}
    few = {"max_plate_nesting": 1, "seed": 0}
    annealing = few | {"num_steps": 2, "num_chains": 2, "leapfrog_steps": 1}
    pair = {"model": model, "guide": guide, "x": X}
    return {
        "fit": {"model": model, "guide": guide, "bound": Trace_ELBO(), "train": X} | quiet,
        "fit_many": {"pairs": [(model, guide)], "bound": dv.TraceDenoising_ELBO(), "train": X} | quiet,
        "log_likelihood": pair | few | {"num_samples": 20, "progress": False, "compiled": False},
        "annealed_log_likelihood": pair | annealing,
        "bidirectional": {"model": model, "x_like": X, "num_data": 2, "guide": guide} | annealing,
        "evaluate_bound": pair | {"bound": dv.TraceDenoising_ELBO(), "seed": 0},
        "load_dataset": {"name": "digits", "download": False},
        "corrupt": {"name": "x_tilde", "corruption": dv.Masking(0.1), "x": X},
        "SaltAndPepper": {"rate": 0.1},
        "Masking": {"rate": 0.1},
        "BitFlip": {"rate": 0.1},
        "GaussianNoise": {"scale": 0.1},
        "LinearSchedule": {"start": 0.1, "end": 0.0, "epochs": 2},
        "StepSchedule": {"levels_from": {0: 0.1}},
        "ConstantSchedule": {"level": 0.1},
        "StandardNormal": {"latent_size": 2},
        "BernoulliPrior": {"latent_size": 2},
        "MixturePrior": {"latent_size": 2},
        "SparseBeta": {"latent_size": 2},
        "GaussianGuide": {"encoder": encoder()},
        "LatentVariableModel": {"decoder": encoder()},
        "DVAE": {"encoder": encoder(), "decoder": encoder()},
        "TraceDenoising_ELBO": {},
        "TraceDenoisingIWAE_ELBO": {},
        "TraceSemiImplicit_ELBO": {},
    }


def arguments():
    optional = {"fit": inspect.signature(dv.Trainer), "fit_many": inspect.signature(dv.fit_many)}
    for name, usual in calls().items():
        signature = optional.get(name) or inspect.signature(getattr(dv, name))
        for argument, each in signature.parameters.items():
            if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD) and argument != "baseline":
                marks = [pytest.mark.slow] if name == "fit_many" else []  # it compiles what it takes
                yield pytest.param(name, argument, usual, id=f"{name}-{argument}", marks=marks)


# True is valid for these, and takes long; data of any type may be trained on.
WORDS = "words of numbers"
EXCEPTIONS = {
    ("compile", "true"),
    ("compiled", "true"),
    ("train", WORDS),
    ("validation", WORDS),
    ("x", WORDS),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "argument", "usual"), list(arguments()))
def test_odd_arguments_are_refused_in_one_line_or_taken(name, argument, usual, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wrong = []
    for odd, value in ODD.items():
        if (argument, odd) in EXCEPTIONS:
            continue
        pyro.clear_param_store()
        try:
            getattr(dv, name)(**usual | {argument: value})
        except (dv.InputError, dv.DivergenceError) as error:
            if "\n" in str(error) or len(str(error)) > 1000:
                wrong.append(f"{odd}: {str(error)[:300]}")
        except Exception as error:
            wrong.append(f"{odd}: {type(error).__name__}: {str(error)[:100]}")
    assert not wrong, "\n" + "\n".join(wrong)
