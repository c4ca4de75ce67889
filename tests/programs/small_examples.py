"""The small programs by name, with their data and a suitable corruption."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from classic_examples import LDA, EightSchools, SparseGamma
from deep_examples import (
    AttendInferRepeat,
    BranchingScene,
    ConditionalVAE,
    FlowMarkovModel,
    SemiSupervisedVAE,
    SingleCell,
)
from foreign_models import DeepMarkovModel, ImageVAE, images, melodies
from pyro.infer import config_enumerate

import pyro_dvae as dv


@dataclass(frozen=True)
class Built:
    """A model and a guide with their arguments, and the module that holds the parameters."""

    module: Any
    model: Callable[..., Any]
    guide: Callable[..., Any]
    args: tuple[Any, ...]


@dataclass(frozen=True)
class Example:
    """How a program is made, and its properties.

    :param make: returns module, model, guide and arguments.
    :param plate: the plate of the observations, whose dimension is −1; None where there is none.
    :param corruption: makes the corruption that goes in front; None where the guide reads no data.
    :param event_dim: that of the data.
    :param own_baselines: whether discrete sites bring a baseline, which stock ``Trace_ELBO`` does not read.
    :param shared: whether latents lie outside of the plate, so that one importance weight is of all data.
    :param upwards: whether the guide draws latents in another order than the model: no closed form is right.
    :param recorded: whether its steps can be recorded; categories and inverted flows look at values.
    """

    make: Callable[[], tuple[Any, ...]]
    plate: str | None = "data"
    corruption: Callable[[], dv.Corruption] | None = None
    event_dim: int = 1
    own_baselines: bool = False
    shared: bool = False
    upwards: bool = False
    recorded: bool = True

    def build(self) -> Built:
        """Return the program, the same one in every call, with Pyro's store of parameters empty."""
        pyro.clear_param_store()
        torch.manual_seed(1)
        return Built(*self.make())

    def with_corruption(self, built: Built) -> dv.DenoisingGuide:
        """Return the guide with the corruption in front."""
        assert self.corruption is not None
        plates = {self.plate: -1} if self.shared else None
        return dv.DenoisingGuide(built.guide, self.corruption(), event_dim=self.event_dim, plates=plates)


def rows(count: int = 4) -> torch.Tensor:
    return torch.bernoulli(torch.full((count, 6), 0.5))


def classes(count: int = 4) -> torch.Tensor:
    return torch.eye(3)[torch.arange(count) % 3]


def counts(count: int = 4) -> torch.Tensor:
    return torch.poisson(torch.full((count, 6), 2.0))


def of(kind: Callable[[], Any], *data: Callable[[], Any], guide: str = "guide", model: str = "model") -> Any:
    """Return a function that makes a program of ``kind`` on ``data``."""

    def make() -> tuple[Any, ...]:
        module = kind()
        return module, getattr(module, model), getattr(module, guide), tuple(part() for part in data)

    return make


def schools(automatic: bool) -> Callable[[], tuple[Any, ...]]:
    def make() -> tuple[Any, ...]:
        module = EightSchools()
        y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
        guide = module.automatic() if automatic else module.guide
        return (guide if automatic else module), module.model, guide, (y,)

    return make


def sequences(kind: Callable[[], Any]) -> Callable[[], tuple[Any, ...]]:
    def make() -> tuple[Any, ...]:
        module = kind()
        x, lengths = melodies(4, steps=3)
        return module, module.model, module.guide, (x.to(torch.get_default_dtype()), lengths.clamp(max=3))

    return make


def vae() -> tuple[Any, ...]:
    module = ImageVAE(latents=2, hidden=6)
    return module, module.model, module.guide, tuple(x.to(torch.get_default_dtype()) for x in images(4))


EXAMPLES = {
    "VAE": Example(vae, corruption=lambda: dv.SaltAndPepper(0.2), event_dim=2),
    "semi-supervised VAE, classes known": Example(
        of(SemiSupervisedVAE, rows, classes), corruption=lambda: dv.BitFlip(0.2)
    ),
    "semi-supervised VAE, classes sampled": Example(
        of(SemiSupervisedVAE, rows), corruption=lambda: dv.BitFlip(0.2), recorded=False
    ),
    "semi-supervised VAE, auxiliary loss": Example(
        of(SemiSupervisedVAE, rows, classes, model="classify", guide="no_guide")
    ),
    "conditional VAE": Example(of(ConditionalVAE, rows, rows), corruption=lambda: dv.Masking(0.3)),
    "deep Markov model": Example(
        sequences(DeepMarkovModel), "sequences", lambda: dv.BitFlip(0.1), event_dim=2
    ),
    "deep Markov model with flows": Example(
        sequences(FlowMarkovModel), "sequences", lambda: dv.BitFlip(0.1), event_dim=2, recorded=False
    ),
    "sparse gamma": Example(of(SparseGamma, counts), shared=True),
    "attend, infer, repeat": Example(
        of(AttendInferRepeat, rows), corruption=lambda: dv.GaussianNoise(0.2), own_baselines=True
    ),
    "scANVI, types known": Example(
        of(SingleCell, counts, classes), "cells", lambda: dv.Masking(0.2), upwards=True
    ),
    "scANVI, types sampled": Example(
        of(SingleCell, counts), "cells", lambda: dv.Masking(0.2), upwards=True, recorded=False
    ),
    "eight schools": Example(
        schools(automatic=False), "schools", lambda: dv.GaussianNoise(5.0), event_dim=0, shared=True
    ),
    "eight schools, AutoDiagonalNormal": Example(schools(automatic=True), "schools", shared=True),
}


def enumerated(make: Callable[[], tuple[Any, ...]]) -> Callable[[], tuple[Any, ...]]:
    """Return the program with a guide whose discrete sites are summed over, as in Pyro's examples."""

    def made() -> tuple[Any, ...]:
        module, model, guide, args = make()
        return module, model, config_enumerate(guide, "parallel", expand=True), args

    return made


ENUMERATED = {
    "semi-supervised VAE": Example(enumerated(of(SemiSupervisedVAE, rows))),
    "scANVI": Example(enumerated(of(SingleCell, counts)), "cells"),
    "LDA": Example(of(LDA, lambda: torch.randint(5, (4, 3)))),
}
BRANCHING = Example(of(BranchingScene, lambda: rows(1)[0]), plate=None)
