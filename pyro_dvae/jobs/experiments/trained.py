"""What a measure gets and gives: a trained pair, and values by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from pyro_dvae.bounds import DenoisingELBO
from pyro_dvae.corruptions import Corruption
from pyro_dvae.datasets import Dataset
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation import Estimate, evaluate_bound
from pyro_dvae.jobs.data import RunData
from pyro_dvae.jobs.experiments.results import packed
from pyro_dvae.jobs.options import Options
from pyro_dvae.random_state import derived_seed

Figures = dict[str, Any]
TRAINING_DATA = 10_000


@dataclass(frozen=True)
class TrainedPair:
    """A trained pair, at its best epoch by validation.

    :param stem: path without suffix for the files of a measure.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]
    corruption: Corruption
    data: RunData
    options: Options
    stem: Path

    @cached_property
    def test(self) -> Tensor:
        """The test data in the form of the model's input, [N, D]."""
        return self.data.visit(self.data.test)

    @cached_property
    def training_rows(self) -> Tensor:
        """The first 10,000 training rows in the form of the model's input."""
        return self.data.visit(self.data.train[:TRAINING_DATA])

    def seed(self, purpose: str) -> int:
        """Return the seed of a measure's draws."""
        return derived_seed(self.options.seed, "measure", purpose)

    def bound_of(
        self, x: Tensor, bound: DenoisingELBO, purpose: str, *, clean: bool = True, pointwise: bool = False
    ) -> Figures:
        """Return a bound of the data ``x`` with its error."""
        found = evaluate_bound(self.model, self.guide, x, loss=bound, clean=clean, seed=self.seed(purpose))
        return figure(found, pointwise)


def figure(found: Estimate, pointwise: bool = False) -> Figures:
    """Return the mean over the data with its standard error (nats), and the rows' values if ``pointwise``.

    With these, runs of one seed can be compared row by row, even without other seeds.
    """
    mean = {"mean": found.mean, "standard_error": found.standard_error}
    return mean | ({"of_rows": packed(found.per_datum.cpu())} if pointwise else {})


@dataclass(frozen=True)
class Measure:
    """A measure of a trained pair.

    :param function: returns the values by name.
    :param figures: names of all values that it may return.
    :param images: whether it draws rows of the data, which must then be images.
    :param latent_size: the only size of the latent space for which it is defined; None for any.
    """

    function: Callable[[TrainedPair], Figures]
    figures: tuple[str, ...] = ()
    images: bool = False
    latent_size: int | None = None

    def __call__(self, trained: TrainedPair) -> Figures:
        """Measure a trained pair."""
        return self.function(trained)

    def require_defined(self, name: str, options: Options, dataset: Dataset) -> None:
        """Refuse, before the training, a run that the measure called ``name`` cannot measure."""
        if self.images and dataset.image_shape is None:
            raise InputError(f"measures: {name} draws images, but the rows of {dataset.name} are not images")
        if self.latent_size not in (None, options.latent_size):
            raise InputError(
                f"measures: {name} needs latent_size {self.latent_size}, got {options.latent_size}"
            )
