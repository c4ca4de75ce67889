"""Small programs, one for each thing that a program can do: the rows of ``docs/programs.md``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from deep_examples import BranchingScene
from pyro import poutine
from pyro.contrib.easyguide import easy_guide
from pyro.distributions import constraints
from pyro.distributions import transforms as flows
from pyro.infer import autoguide, config_enumerate
from pyro.infer.reparam import LocScaleReparam
from pyro.nn import PyroModule, PyroSample
from torch import nn

import pyro_dvae as dv

Program = Callable[..., Any]
X = torch.tensor([0.5, -1.0, 2.0, 0.3], dtype=torch.float64)


@dataclass(frozen=True)
class Feature:
    """A group of rows, and what makes model, guide and arguments."""

    group: str
    make: Callable[[], tuple[Program, Program, tuple[Any, ...]]]

    def build(self) -> tuple[Program, Program, tuple[Any, ...]]:
        """Return the program, the same one in every call, with Pyro's store of parameters empty."""
        pyro.clear_param_store()
        pyro.set_rng_seed(1)
        return self.make()


FEATURES: dict[str, Feature] = {}


def feature(group: str, name: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Add what the decorated function returns: model and guide, or those and the arguments."""

    def add(make: Callable[[], Any]) -> Callable[[], Any]:
        def whole() -> tuple[Program, Program, tuple[Any, ...]]:
            found = make()
            return found if len(found) == 3 else (*found, (X,))

        FEATURES[name] = Feature(group, whole)
        return make

    return add


def loc() -> torch.Tensor:
    return pyro.param("loc", torch.tensor(0.3))


def scale() -> torch.Tensor:
    return pyro.param("scale", torch.tensor(0.8), constraint=constraints.positive)


def model(x, size=None, rows=None):
    with pyro.plate("data", size or len(x), subsample=rows):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(pyro.param("weight", torch.tensor(0.7)) * z, 0.6), obs=x)


def guide(x, size=None, rows=None):
    with pyro.plate("data", size or len(x), subsample=rows):
        pyro.sample("z", dist.Normal(loc() * x, scale()))


# Plates


@feature("Plates", "one plate")
def _():
    return model, guide


@feature("Plates", "a mini-batch, by `subsample=`")
def _():
    return model, guide, (X, 40, torch.arange(4))


@feature("Plates", "subsampling by the plate")
def _():
    def own(program):
        def run(x):
            with pyro.plate("data", len(x), subsample_size=2) as rows:
                program(x[rows])

        return run

    def likelihood(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(pyro.param("weight", torch.tensor(0.7)) * z, 0.6), obs=x)

    return own(likelihood), own(lambda x: pyro.sample("z", dist.Normal(loc() * x, scale())))


@feature("Plates", "a plate without a size")
def _():
    def sizeless(x):
        with pyro.plate("data"):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0))
            pyro.sample("x", dist.Normal(z, 0.6), obs=x)

    def own(x):
        with pyro.plate("data"):
            pyro.sample("z", dist.Normal(loc() * x, scale()))

    return sizeless, own


@feature("Plates", "nested plates")
def _():
    def nested(x):
        with pyro.plate("data", 2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("measurements", 2):
                pyro.sample("x", dist.Normal(z, 0.6), obs=x.reshape(2, 2))

    def own(x):
        with pyro.plate("data", 2):
            pyro.sample("z", dist.Normal(loc() * x[:2], scale()))

    return nested, own


@feature("Plates", "no plate")
def _():
    def alone(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 0.6).to_event(1), obs=x)

    return alone, lambda x: pyro.sample("z", dist.Normal(loc() * x, scale()).to_event(1))


@feature("Plates", "a dimension that no plate declares")
def _():
    def undeclared(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0))
        pyro.sample("x", dist.Normal(z, 0.6), obs=x)

    return undeclared, lambda x: pyro.sample("z", dist.Normal(loc() * x, scale()))


def shared(x, plate="data", size=None):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate(plate, size or len(x), subsample_size=len(x)):
        pyro.sample("x", dist.Normal(mean, 0.6), obs=x)


def of_shared(x, plate="data", size=None):
    pyro.sample("mean", dist.Normal(loc(), scale()))


@feature("Plates", "latents shared by all observations")
def _():
    return shared, of_shared


@feature("Plates", "shared latents and a mini-batch")
def _():
    return shared, of_shared, (X, "data", 40)


@feature("Plates", "two plates side by side")
def _():
    def two(x):
        with pyro.plate("left", 4):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(a, 0.6), obs=x)
        with pyro.plate("right", 3):
            b = pyro.sample("b", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(b, 0.6), obs=x[:3])

    def own(x):
        with pyro.plate("left", 4):
            pyro.sample("a", dist.Normal(loc() * x, scale()))
        with pyro.plate("right", 3):
            pyro.sample("b", dist.Normal(loc(), scale()))

    return two, own


def in_turn(subsample_size=None):
    def turned(x):
        for i in pyro.plate("data", len(x), subsample_size):
            z = pyro.sample(f"z_{i}", dist.Normal(0.0, 1.0))
            pyro.sample(f"x_{i}", dist.Normal(z, 0.6), obs=x[i])

    def own(x):
        for i in pyro.plate("data", len(x), subsample_size):
            pyro.sample(f"z_{i}", dist.Normal(loc() * x[i], scale()))

    return turned, own


@feature("Plates", "a sequential plate")
def _():
    return in_turn()


@feature("Plates", "a subsampled sequential plate")
def _():
    return in_turn(2)


@feature("Plates", "`pyro.markov`")
def _():
    def chain(x):
        with pyro.plate("data", len(x)):
            z = torch.zeros(())
            for t in pyro.markov(range(3)):
                z = pyro.sample(f"z_{t}", dist.Normal(z, 1.0))
                pyro.sample(f"x_{t}", dist.Normal(z, 0.6), obs=x)

    def own(x):
        with pyro.plate("data", len(x)):
            z = torch.zeros(())
            for t in pyro.markov(range(3)):
                z = pyro.sample(f"z_{t}", dist.Normal(0.5 * z + loc() * x, scale()))

    return chain, own


# Scales and masks


def within(handler, program):
    """Return the program inside an effect handler around all of its sites."""

    def run(x):
        with handler():
            program(x)

    return run


class OfLatents(poutine.messenger.Messenger):
    """Scales the latents alone: an annealed divergence."""

    def _pyro_sample(self, msg):
        if msg["name"] == "z":
            msg["scale"] = msg["scale"] * 0.4


@feature("Scales, masks and factors", "`poutine.scale` around both")
def _():
    return tuple(within(lambda: poutine.scale(scale=2.0), program) for program in (model, guide))


@feature("Scales, masks and factors", "an annealed divergence")
def _():
    return OfLatents()(model), OfLatents()(guide)


@feature("Scales, masks and factors", "`poutine.scale` around the model alone")
def _():
    return poutine.scale(model, scale=0.5), guide


@feature("Scales, masks and factors", "`poutine.mask` around both")
def _():
    mask = torch.tensor([True, False, True, True])
    return tuple(within(lambda: poutine.mask(mask=mask), program) for program in (model, guide))


@feature("Scales, masks and factors", "`poutine.mask` around the model alone")
def _():
    return poutine.mask(model, mask=torch.tensor([True, False, True, True])), guide


@feature("Scales, masks and factors", "`obs_mask=`")
def _():
    def with_gaps(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            mask = torch.tensor([True, False, True, True])
            pyro.sample("x", dist.Normal(z, 0.6), obs=x, obs_mask=mask)

    def own(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(loc() * x, scale()))
            pyro.sample("x_unobserved", dist.Normal(z, 0.6))

    return with_gaps, own


@feature("Scales, masks and factors", "`pyro.factor` in the model")
def _():
    def weighted(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.factor("likelihood", -((x - z) ** 2))

    return weighted, guide


@feature("Scales, masks and factors", "`pyro.factor` in the guide")
def _():
    def own(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(loc() * x, scale()))
            pyro.factor("density", 0.1 * z, has_rsample=True)

    return model, own


@feature("Scales, masks and factors", "`pyro.deterministic` in both")
def _():
    def marked(x):
        spread = pyro.deterministic("spread", torch.tensor(0.6))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, spread), obs=x)

    def own(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.deterministic("middle", loc() * x), scale()))

    return marked, own


# Latents


def latent(name, prior, posterior, group="Latents"):
    """Add a feature whose latent z has these distributions, functions of nothing and of x."""

    def make():
        def own_model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", prior())
                pyro.sample("x", dist.Normal(z, 0.6), obs=x)

        def own_guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", posterior(x))

        return own_model, own_guide

    feature(group, name)(make)


def chance(x):
    return (loc() + 0.2 * x).sigmoid()


latent("Bernoulli", lambda: dist.Bernoulli(0.4), lambda x: dist.Bernoulli(chance(x)))
latent("a gamma", lambda: dist.Gamma(2.0, 1.0), lambda x: dist.Gamma(1.0 + chance(x), scale()))
latent("`Delta` in the guide", lambda: dist.Normal(0.0, 1.0), lambda x: dist.Delta(loc() * x))
latent(
    "transformed, in the guide",
    lambda: dist.Normal(0.0, 1.0),
    lambda x: dist.TransformedDistribution(
        dist.Normal(loc() * x, scale()), [flows.AffineTransform(0.1, 2.0), flows.SigmoidTransform()]
    ),
)


@feature("Latents", "a categorical")
def _():
    def mixture(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.ones(3) / 3))
            pyro.sample("x", dist.Normal(torch.tensor([-1.0, 0.0, 2.0])[k], 0.6), obs=x)

    def own(x):
        with pyro.plate("data", len(x)):
            logits = torch.stack([loc() * x, scale() * x, 0 * x], -1)
            pyro.sample("k", dist.Categorical(logits=logits))

    return mixture, own


@feature("Latents", "discrete above continuous")
def _():
    def both(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(0.5))
            z = pyro.sample("z", dist.Normal(k, 1.0))
            pyro.sample("x", dist.Normal(z, 0.6), obs=x)

    def own(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(chance(x)))
            pyro.sample("z", dist.Normal(k + loc() * x, scale()))

    return both, own


def layers(upwards):
    def down(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.Normal(a, 1.0))
            pyro.sample("x", dist.Normal(b, 0.6), obs=x)

    def own(x):
        names = ("b", "a") if upwards else ("a", "b")
        with pyro.plate("data", len(x)):
            first = pyro.sample(names[0], dist.Normal(loc() * x, scale()))
            pyro.sample(names[1], dist.Normal(0.5 * first + loc(), scale()))

    return down, own


@feature("Latents", "two layers, in the model's order")
def _():
    return layers(upwards=False)


@feature("Latents", "two layers, the guide upwards")
def _():
    return layers(upwards=True)


@feature("Latents", "a baseline of the site's own")
def _():
    def binary(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.4))
            pyro.sample("x", dist.Normal(z, 0.6), obs=x)

    def own(x):
        value = pyro.param("value", torch.zeros(())) + 0 * x
        with pyro.plate("data", len(x)):
            infer = {"baseline": {"baseline_value": value}}
            pyro.sample("z", dist.Bernoulli(chance(x)), infer=infer)

    return binary, own


# Corruptions in the guide


def corrupted(name, corruption, inside=True):
    def make():
        made = corruption()

        def own(x):
            if not inside:
                x_tilde = dv.corrupt("x_tilde", made, x, event_dim=0)
            with pyro.plate("data", len(x)):
                if inside:
                    x_tilde = dv.corrupt("x_tilde", made, x, event_dim=0)
                pyro.sample("z", dist.Normal(loc() * x_tilde, scale()))

        return model, own

    feature("Corruptions", name)(make)


def double(value):
    return torch.tensor(value, dtype=torch.float64)


corrupted("Gaussian noise", lambda: dv.GaussianNoise(0.3))
corrupted("Gaussian noise, learned", lambda: dv.GaussianNoise(double(0.3), learnable=True))
corrupted("salt and pepper, learned", lambda: dv.SaltAndPepper(double(0.2), learnable=True))
corrupted("a corruption outside of the plate", lambda: dv.GaussianNoise(0.3), inside=False)


@feature("Corruptions", "`DenoisingGuide` around a guide")
def _():
    return model, dv.DenoisingGuide(guide, dv.GaussianNoise(0.3), event_dim=0)


@feature("Corruptions", "`dv.auxiliary` noise")
def _():
    def own(x):
        with pyro.plate("data", len(x)):
            noise = dv.auxiliary("noise", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("z", dist.Normal(loc() * x + 0.2 * noise, scale()))

    return model, own


# Guides that Pyro makes


def automatic(name, kind):
    def make():
        own = kind(model)
        own(X)
        return model, own

    feature("Guides that Pyro makes", f"`{name}`")(make)


for _name in (
    *("AutoNormal", "AutoDiagonalNormal", "AutoMultivariateNormal", "AutoLowRankMultivariateNormal"),
    *("AutoIAFNormal", "AutoDelta", "AutoLaplaceApproximation", "AutoStructured", "AutoGaussian"),
):
    automatic(_name, getattr(autoguide, _name))


@feature("Guides that Pyro makes", "`AutoGuideList`")
def _():
    def hierarchy(x):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(mean, 1.0))
            pyro.sample("x", dist.Normal(z, 0.6), obs=x)

    own = autoguide.AutoGuideList(hierarchy)
    own.append(autoguide.AutoDelta(poutine.block(hierarchy, expose=["mean"])))
    own.append(autoguide.AutoNormal(poutine.block(hierarchy, expose=["z"])))
    own(X)
    return hierarchy, own


@feature("Guides that Pyro makes", "an easy guide")
def _():
    @easy_guide(model)
    def own(self, x):
        group = self.group(match="z")
        with self.plate("data", len(x)):
            group.sample("zs", dist.Normal(pyro.param("locs", torch.zeros(4, 1)), 1.0).to_event(1))

    own(X)
    return model, own


# Modules


@feature("Modules and handlers", "a `PyroSample` weight")
def _():
    class Regression(PyroModule):
        def __init__(self):
            super().__init__()
            self.weight = PyroSample(dist.Normal(0.0, 1.0))

        def forward(self, x):
            mean = self.weight * x
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(mean, 0.6), obs=x)

    return Regression(), lambda x: pyro.sample("weight", dist.Normal(loc(), scale()))


@feature("Modules and handlers", "a linear layer with `PyroSample` weights")
def _():
    class Layer(PyroModule):
        def __init__(self):
            super().__init__()
            self.linear = PyroModule[nn.Linear](1, 1)
            self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 1]).to_event(2))

        def forward(self, x):
            mean = self.linear(x.unsqueeze(-1)).squeeze(-1)
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(mean, 0.6), obs=x)

    made = Layer()
    return made, lambda x: pyro.sample("linear.weight", dist.Normal(loc().expand(1, 1), scale()).to_event(2))


def with_network(network):
    def own(x):
        pyro.module("encoder", network)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(network(x.unsqueeze(-1)).squeeze(-1), scale()))

    return model, own


@feature("Modules and handlers", "dropout in the guide")
def _():
    return with_network(nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.5), nn.Linear(4, 1)))


@feature("Modules and handlers", "batch normalisation in the guide")
def _():
    return with_network(nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)))


@feature("Modules and handlers", "`poutine.reparam` (`LocScaleReparam`)")
def _():
    def centred(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(1.0, 2.0))
            pyro.sample("x", dist.Normal(z, 0.6), obs=x)

    def own(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z_decentered", dist.Normal(loc() * x, scale()))

    return poutine.reparam(centred, config={"z": LocScaleReparam(centered=0.0)}), own


@feature("Modules and handlers", "`poutine.condition` on the model")
def _():
    def free(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(z, 0.6))

    return poutine.condition(free, {"y": X}), guide


@feature("Modules and handlers", "branches on draws")
def _():
    made = BranchingScene()
    return made.model, made.guide, (torch.cat([X, X[:2]]),)


# Enumeration


@feature("Enumeration", "a site of the guide")
def _():
    mixture, own, _ = FEATURES["a categorical"].make()
    return mixture, config_enumerate(own, "parallel", expand=True)


@feature("Enumeration", "a site of the model alone")
def _():
    mixture, _, _ = FEATURES["a categorical"].make()
    return config_enumerate(mixture, "parallel"), lambda x: None


# Degenerate programs


@feature("Degenerate programs", "no latents")
def _():
    def observed(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc(), scale()), obs=x)

    return observed, lambda x: None


@feature("Degenerate programs", "no observations")
def _():
    def prior(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    return prior, guide


@feature("Degenerate programs", "no sites at all")
def _():
    return (lambda x: None), (lambda x: None)


@feature("Degenerate programs", "no parameters")
def _():
    def own(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.5 * x, 0.8))

    def fixed(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.6), obs=x)

    return fixed, own


# Programs that are wrong


@feature("Mistakes", "a latent that the guide does not have")
def _():
    down, _ = layers(upwards=False)

    def own(x):
        with pyro.plate("data", len(x)):
            pyro.sample("a", dist.Normal(loc() * x, scale()))

    return down, own


@feature("Mistakes", "a site of the guide that the model does not have")
def _():
    def own(x):
        guide(x)
        pyro.sample("other", dist.Normal(loc(), 1.0))

    return model, own


@feature("Mistakes", "a site of the guide that the model observes")
def _():
    def own(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(loc() * x, scale()))
            pyro.sample("x", dist.Normal(z, 1.0))

    return model, own


@feature("Mistakes", "plates of other sizes")
def _():
    def own(x):
        with pyro.plate("data", len(x)):
            pyro.sample("mean", dist.Normal(loc() * x, scale()))

    def one(x):
        with pyro.plate("data", 1):
            mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(mean, 0.6), obs=x[:1])

    return one, own


@feature("Mistakes", "a program that mixes draws with observations")
def _():
    def mixed(x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([4]).to_event(1))
        with pyro.plate("data", 4):
            pyro.sample("x", dist.Normal(w, 0.6), obs=x)

    return mixed, lambda x: pyro.sample("w", dist.Normal(loc() * x, scale()).to_event(1))
