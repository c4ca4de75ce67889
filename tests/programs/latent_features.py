"""Programs with latents of every kind, and with corruptions."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from feature_base import double, feature, guide, loc, model, scale
from pyro.distributions import transforms as flows

import pyro_dvae as dv


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
latent("gamma", lambda: dist.Gamma(2.0, 1.0), lambda x: dist.Gamma(1.0 + chance(x), scale()))
latent("`Delta` in the guide", lambda: dist.Normal(0.0, 1.0), lambda x: dist.Delta(loc() * x))
latent(
    "transformed, in the guide",
    lambda: dist.Normal(0.0, 1.0),
    lambda x: dist.TransformedDistribution(
        dist.Normal(loc() * x, scale()), [flows.AffineTransform(0.1, 2.0), flows.SigmoidTransform()]
    ),
)


@feature("Latents", "categorical")
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


@feature("Latents", "two layers, the guide in reverse order")
def _():
    return layers(upwards=True)


@feature("Latents", "a site with its own baseline")
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


corrupted("Gaussian noise", lambda: dv.GaussianNoise(0.3))
corrupted("Gaussian noise, learned", lambda: dv.GaussianNoise(double(0.3), learnable=True))
corrupted("salt and pepper, learned", lambda: dv.SaltAndPepper(double(0.2), learnable=True))
corrupted("a corruption outside the plate", lambda: dv.GaussianNoise(0.3), inside=False)


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
