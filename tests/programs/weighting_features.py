"""Programs with scales, masks and factors."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from feature_base import feature, guide, loc, model, scale
from pyro import poutine


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
