"""How the rows of ``docs/programs.md`` are declared, and the pair that most of them modify."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints

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


def double(value):
    return torch.tensor(value, dtype=torch.float64)
