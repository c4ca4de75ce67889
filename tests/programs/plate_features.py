"""Programs with plates of every kind, and without."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from feature_base import X, feature, guide, loc, model, scale


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
