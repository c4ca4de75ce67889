"""Programs that use enumeration, lack something, or are wrong."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from feature_base import FEATURES, feature, guide, loc, model, scale
from latent_features import layers
from pyro.infer import config_enumerate


@feature("Enumeration", "a site of the guide")
def _():
    mixture, own, _ = FEATURES["categorical"].make()
    return mixture, config_enumerate(own, "parallel", expand=True)


@feature("Enumeration", "a site of the model alone")
def _():
    mixture, _, _ = FEATURES["categorical"].make()
    return config_enumerate(mixture, "parallel"), lambda x: None


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


@feature("Mistakes", "a latent missing in the guide")
def _():
    down, _ = layers(upwards=False)

    def own(x):
        with pyro.plate("data", len(x)):
            pyro.sample("a", dist.Normal(loc() * x, scale()))

    return down, own


@feature("Mistakes", "a site of the guide missing in the model")
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


@feature("Mistakes", "plates of different sizes")
def _():
    def own(x):
        with pyro.plate("data", len(x)):
            pyro.sample("mean", dist.Normal(loc() * x, scale()))

    def one(x):
        with pyro.plate("data", 1):
            mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(mean, 0.6), obs=x[:1])

    return one, own


@feature("Mistakes", "a program that mixes draws and observations")
def _():
    def mixed(x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([4]).to_event(1))
        with pyro.plate("data", 4):
            pyro.sample("x", dist.Normal(w, 0.6), obs=x)

    return mixed, lambda x: pyro.sample("w", dist.Normal(loc() * x, scale()).to_event(1))
