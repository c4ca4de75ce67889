"""Small programs like Pyro's classic examples; they do not use pyro_dvae."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoDiagonalNormal
from torch import nn
from torch.nn.functional import softplus


class SparseGamma(nn.Module):
    """A deep exponential family: counts [N, 6], two layers of gammas and their weights, all positive."""

    sizes = (2, 3, 6)

    def __init__(self, rows=4):
        super().__init__()
        top, bottom, data = self.sizes
        shapes = {"w_top": (top * bottom,), "w_bottom": (bottom * data,)}
        shapes |= {"z_top": (rows, top), "z_bottom": (rows, bottom)}
        self.raw = nn.ParameterDict(
            {name: nn.Parameter(0.1 * torch.randn(2, *shape)) for name, shape in shapes.items()}
        )

    def model(self, x):
        top, bottom, data = self.sizes
        with pyro.plate("top_weights", top * bottom):
            w_top = pyro.sample("w_top", dist.Gamma(0.5, 0.5))
        with pyro.plate("bottom_weights", bottom * data):
            w_bottom = pyro.sample("w_bottom", dist.Gamma(0.5, 0.5))
        w_top = w_top.reshape(*w_top.shape[:-1], top, bottom)
        w_bottom = w_bottom.reshape(*w_bottom.shape[:-1], bottom, data)
        with pyro.plate("data", len(x)):
            z_top = pyro.sample("z_top", dist.Gamma(0.3, 0.3).expand([top]).to_event(1))
            mean = torch.matmul(z_top, w_top) + 0.01
            z_bottom = pyro.sample("z_bottom", dist.Gamma(0.3, 0.3 / mean).to_event(1))
            pyro.sample("x", dist.Poisson(torch.matmul(z_bottom, w_bottom) + 0.01).to_event(1), obs=x)

    def posterior(self, name):
        shape, mean = (softplus(raw) + 0.2 for raw in self.raw[name])
        return dist.Gamma(shape, shape / mean)

    def guide(self, x):
        pyro.module("posterior", self)
        with pyro.plate("top_weights", len(self.raw["w_top"][0])):
            pyro.sample("w_top", self.posterior("w_top"))
        with pyro.plate("bottom_weights", len(self.raw["w_bottom"][0])):
            pyro.sample("w_bottom", self.posterior("w_bottom"))
        with pyro.plate("data", len(self.raw["z_top"][0])):
            pyro.sample("z_top", self.posterior("z_top").to_event(1))
            pyro.sample("z_bottom", self.posterior("z_bottom").to_event(1))


class EightSchools(nn.Module):
    """The effects y of a course at eight schools, with known errors; the guide reads y."""

    errors = (15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0)

    def __init__(self):
        super().__init__()
        self.globals = nn.Parameter(torch.tensor([[4.0, 1.0], [0.5, -1.0]]))
        self.local = nn.Parameter(torch.tensor([0.3, 2.0, 1.0]))

    def model(self, y):
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.LogNormal(0.0, 1.0))
        with pyro.plate("schools", 8):
            theta = pyro.sample("theta", dist.Normal(mu, tau))
            pyro.sample("y", dist.Normal(theta, torch.tensor(self.errors)), obs=y)

    def guide(self, y):
        pyro.module("guide", self)
        loc, raw = self.globals
        pyro.sample("mu", dist.Normal(loc[0], softplus(raw[0])))
        pyro.sample("tau", dist.LogNormal(loc[1], softplus(raw[1])))
        with pyro.plate("schools", 8):
            pyro.sample("theta", dist.Normal(self.local[0] * y + self.local[1], softplus(self.local[2])))

    def automatic(self):
        """Return an initialised ``AutoDiagonalNormal`` of the model."""
        guide = AutoDiagonalNormal(self.model)
        guide(torch.tensor(self.errors))
        return guide


class LDA(nn.Module):
    """Topics of words [4 words, N documents]; the model sums over the topic of each word."""

    def model(self, words):
        with pyro.plate("topics_plate", 3):
            topics = pyro.sample("topic_words", dist.Dirichlet(torch.ones(5) / 5))
        with pyro.plate("documents_plate", words.shape[1]):
            weights = pyro.sample("doc_topics", dist.Dirichlet(torch.ones(3)))
            with pyro.plate("words_plate", words.shape[0]):
                infer = {"enumerate": "parallel"}
                topic = pyro.sample("word_topics", dist.Categorical(weights), infer=infer)
                pyro.sample("words", dist.Categorical(topics[topic]), obs=words)

    def guide(self, words):
        topics = pyro.param("topic_parameter", torch.ones(3, 5) / 5, constraint=constraints.positive)
        weights = pyro.param(
            "weight_parameter", torch.ones(words.shape[1], 3), constraint=constraints.positive
        )
        with pyro.plate("topics_plate", 3):
            pyro.sample("topic_words", dist.Dirichlet(topics))
        with pyro.plate("documents_plate", words.shape[1]):
            pyro.sample("doc_topics", dist.Dirichlet(weights))
