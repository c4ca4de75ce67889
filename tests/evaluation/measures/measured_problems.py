"""Models and guides that are not from this package, with known means."""

import pyro
import pyro.distributions as dist
import torch
from exact import LinearGaussian


def normal(*shape, seed=5):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear_gaussian(count=12):
    return LinearGaussian(), normal(count, 3)


class Hierarchy:
    """z1 ~ N(Ax, s1²), z2 ~ N(Bz1, s2²) in the guide; z2 ~ N(0, 1), z1 ~ N(Cz2, 1), x ~ N(Wz1, 1).

    E[z2|x] = BAx; the mean of z2 given z1 has the covariance s1² BBᵀ within a datum.
    """

    s1, s2 = 0.7, 0.3

    def __init__(self):
        self.A, self.B = normal(2, 3, seed=1), normal(3, 2, seed=2)
        self.C, self.W = normal(2, 3, seed=3), normal(3, 2, seed=4)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(z2 @ self.C.T, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z1 @ self.W.T, 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(x @ self.A.T, self.s1).to_event(1))
            pyro.sample("z2", dist.Normal(z1 @ self.B.T, self.s2).to_event(1))


class Mixed:
    """A switch of two Bernoulli units, a scalar Gaussian and a category; Bernoulli data at ``pixels``."""

    def __init__(self, category=True):
        self.category = category
        self.switch, self.slope = normal(3, 2, seed=6), normal(3, seed=7)
        self.kinds, self.weights = normal(3, 4, seed=8), normal(3, 3, seed=9)

    def model(self, x):
        with pyro.plate("data", len(x)):
            switch = pyro.sample("switch", dist.Bernoulli(x.new_full((2,), 0.4)).to_event(1))
            level = pyro.sample("level", dist.Normal(x.new_zeros(()), 1.0))
            logits = torch.cat([switch, level.unsqueeze(-1)], -1) @ self.weights
            if self.category:
                kind = pyro.sample("kind", dist.Categorical(x.new_ones(4)))
                logits = logits + kind.unsqueeze(-1)
            pyro.sample("pixels", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("switch", dist.Bernoulli(logits=x @ self.switch).to_event(1))
            pyro.sample("level", dist.Normal(x @ self.slope, 0.5))
            if self.category:
                pyro.sample("kind", dist.Categorical(logits=x @ self.kinds))

    def means(self, x):
        found = {"switch": (x @ self.switch).sigmoid(), "level": x @ self.slope}
        return {**found, "kind": (x @ self.kinds).softmax(-1)} if self.category else found


def binary(count=40, seed=11):
    return (normal(count, 3, seed=seed) > 0).double()


class InnerPlate:
    """A latent for each of three pixels, in a plate right of the data's."""

    def model(self, x):
        with pyro.plate("data", len(x), dim=-2):
            whole = pyro.sample("whole", dist.Normal(x.new_zeros(()), 1.0))
            with pyro.plate("pixels", 3, dim=-1):
                z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z.sum(-1) + whole, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("whole", dist.Normal(x.mean(-1, keepdim=True), 0.5))
            with pyro.plate("pixels", 3, dim=-1):
                pyro.sample("z", dist.Normal(torch.stack([x, -x], -1), 0.5).to_event(1))


def no_latents(x):
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(x.new_zeros(3), 1.0).to_event(1), obs=x)


def empty_guide(x):
    pass
