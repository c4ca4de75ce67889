"""Programs with guides that Pyro makes, modules and effect handlers."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from deep_examples import BranchingScene
from feature_base import X, feature, guide, loc, model, scale
from pyro import poutine
from pyro.contrib.easyguide import easy_guide
from pyro.infer import autoguide
from pyro.infer.reparam import LocScaleReparam
from pyro.nn import PyroModule, PyroSample
from torch import nn


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


@feature("Guides that Pyro makes", "`EasyGuide`")
def _():
    @easy_guide(model)
    def own(self, x):
        group = self.group(match="z")
        with self.plate("data", len(x)):
            group.sample("zs", dist.Normal(pyro.param("locs", torch.zeros(4, 1)), 1.0).to_event(1))

    own(X)
    return model, own


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
