"""The training loss, its weight of each row, and the validation bound."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro.infer import ELBO, Trace_ELBO
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_dvae.calling import calling
from pyro_dvae.distributed import Ranks
from pyro_dvae.errors import InputError, warn
from pyro_dvae.programs.data_plate import data_plates, other_counts, plates_around
from pyro_dvae.programs.parameters import Trained
from pyro_dvae.random_state import derived_seed, forked
from pyro_dvae.rows import Data
from pyro_dvae.sites import clean_input, is_uncounted


class PlateScale(Messenger):
    """Finds the weight of a row in a loss by watching its run; ``factor`` is the weight afterwards.

    ``plate("data", N, subsample=x)`` counts each of B rows N / B times. If all sites of the data plate
    (:func:`data_plates`) have one scale (including ``poutine.scale``), that is the factor, else it is the
    plate's own scale. Without such a plate it is 1. Sites outside the plate (a global latent) are divided by
    it, too: the result is the bound of the whole data set, divided by its N rows. Reading ``factor`` also
    sets ``subsampled``: whether the rows are a subsample of the plate. A plate that draws some of the rows,
    ``plate("data", len(x), subsample_size=5)``, stands for all of them, so its scale does not count.
    ``parameters`` are the names of the param statements.
    """

    def __init__(self, rows: int) -> None:
        super().__init__()
        self._rows = rows
        self._sites: list[dict[str, Any]] = []
        self.subsampled = False
        self.parameters: set[str] = set()

    def _pyro_post_param(self, msg: dict[str, Any]) -> None:
        self.parameters.add(msg["name"])

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if not site_is_subsample(msg) and not is_uncounted(msg):
            self._sites.append(msg)

    @property
    def factor(self) -> float:
        """The weight of a row."""
        plate = self._plate()
        if plate is None:
            return 1.0
        own = self._weight(plate)
        self.subsampled = own != 1
        found = [site["scale"] for site in self._sites if plate.name in plates_around(site)]
        if len({isinstance(scale, Tensor) for scale in found}) > 1:
            return own  # tensors are only read if all scales are, because a recording cannot read them
        scales = set(map(_number, found))
        factor = scales.pop() if len(scales) == 1 else None
        return factor * plate.size / self._rows if factor else own

    def _plate(self) -> CondIndepStackFrame | None:
        """Return the data plate; a subsampled one, if there are two."""
        found = data_plates(self._sites, self._rows, drawn=True)
        return max(found.values(), key=self._weight, default=None)

    def _weight(self, plate: CondIndepStackFrame) -> float:
        """Return how many rows of the plate each row stands for."""
        return (plate.full_size or plate.size) / self._rows

    def refuse_other_counts(self) -> None:
        """Refuse latents whose rows count otherwise in the guide than in the model."""
        by_name: dict[str, dict[str, Any]] = {}
        for site in self._sites:
            drawn = by_name.get(site["name"])
            if drawn is not None and (reason := other_counts(site, drawn)):
                raise InputError(f"guide: {reason}")
            by_name[site["name"]] = site

    def warn_of_batches(self, length: int) -> None:
        """Warn if a batch of a program for all ``length`` rows may not stand for them.

        The rows may depend on each other, or share a latent whose prior every batch counts in full.
        """
        if self._rows >= length:
            return
        plate = self._plate()
        if plate is None:
            warn(
                f"model: no plate around observed sites has the {self._rows} rows of a batch, so rows of "
                "different batches count as independent; if they are, put the sites into a plate, "
                f'pyro.plate("data", len(x)), otherwise train on all rows at once, batch_size={length}'
            )
            return
        latents = [s for s in self._sites if not (s["is_observed"] or s["infer"].get("is_auxiliary"))]
        shared = [site["name"] for site in latents if plate.name not in plates_around(site)]
        if self._weight(plate) == 1 and shared:
            times = f"{length / self._rows:g}"
            warn(
                f"model: latent {shared[0]!r} is shared by all rows, and plate {plate.name!r} has the "
                f"{self._rows} of a batch, so its prior counts {times} times as much as it should; "
                f"give the plate all rows, pyro.plate({plate.name!r}, {length}, subsample_size=len(x)), "
                f"or train on all of them at once, batch_size={length}",
            )


def _number(scale: float | Tensor) -> float | None:
    """Return a scale as a number; None if it differs between elements."""
    if isinstance(scale, Tensor) and scale.numel() != 1:
        return None
    return round(float(scale), 12)


class PlateScales:
    """The factors of batches by their number of rows, as in the last such batch.

    ``subsampled`` says whether their losses are scaled to a whole plate. This needs no extra run: an ordinary
    step is watched while it runs, a compiled step while it is recorded.

    :param length: N, the rows of the data set; None if unknown.
    """

    def __init__(self, length: int | None = None) -> None:
        self._length = length
        self.known: dict[int, float] = {}
        self.subsampled = False
        self._parameters: set[str] | None = None

    @contextmanager
    def seeing(self, batch: int, rows: int) -> Iterator[None]:
        """Watch a loss in the body.

        :param batch: number of rows of the batch.
        :param rows: number of these rows on this process.
        :raises InputError: a parameter was not there in the first run, so it would not be trained.
        """
        with PlateScale(rows) as scale:
            yield
        self._parameters = scale.parameters if self._parameters is None else self._parameters
        if new := sorted(scale.parameters - self._parameters):
            raise InputError(
                f"model, guide: parameter {new[0]!r} was not there in the first run, so it would not be "
                "trained; create all parameters in every run, for example as one tensor that is indexed "
                '(pyro.param("loc", torch.zeros(N))[i]), or use CompiledSVI or pyro.infer.SVI'
            )
        if not self.known:
            scale.refuse_other_counts()
            if self._length is not None:
                scale.warn_of_batches(self._length)
        self.known[batch] = scale.factor
        self.subsampled = scale.subsampled

    def per_row(self, loss: Any, batch: int) -> Any:
        """Return a loss as the sum over the rows of its batch, each counted once (nats)."""
        factor = self.known.get(batch, 1.0)
        return loss if factor == 1 else loss / factor


def loss_of(model: Callable[..., Any], guide: Callable[..., Any], bound: ELBO) -> Callable[..., Tensor]:
    """Return the differentiable loss of a batch (nats, summed), or one after its own backward pass."""
    kind = type(bound).__name__
    if isinstance(bound, Trace_ELBO) and kind.startswith("Jit"):
        raise InputError(
            f"loss: {kind} compiles by torch.jit, which fails here; give {kind.removeprefix('Jit')} and "
            "compile=True"
        )

    def compute(*batch: Tensor) -> Tensor:
        if hasattr(bound, "differentiable_loss"):
            return bound.differentiable_loss(model, guide, *batch)
        loss = bound.loss_and_grads(model, guide, *batch)
        if isinstance(loss, tuple):
            raise InputError(
                f"loss: {kind} returns {len(loss)} losses instead of one; use pyro.infer.SVI or CompiledSVI"
            )
        return loss if isinstance(loss, Tensor) else torch.tensor(loss, dtype=torch.float64)

    return compute


@dataclass(frozen=True)
class Loss:
    """A loss of batches, which records its weight of a row.

    :param compute: the differentiable loss of a batch, in nats, summed over its rows.
    """

    compute: Callable[..., Tensor]
    scales: PlateScales = field(default_factory=PlateScales)

    def __call__(self, *rows: Tensor, batch: int = 0) -> Tensor:
        """Return the loss of ``rows``, part of a ``batch`` of this size; 0 if they are the whole batch."""
        with self.scales.seeing(batch or len(rows[0]), len(rows[0])):
            return self.compute(*rows)

    def per_row(self, loss: Any, batch: int) -> Any:
        """Return a loss as the sum over the rows of its batch, each counted once (nats)."""
        return self.scales.per_row(loss, batch)


CHUNK = 4  # validation rows at a time, in multiples of the batch size


@dataclass(frozen=True)
class Validation:
    """The validation bound: ``evaluate``, or the mean of -``loss`` on clean input; nats per observation.

    ``loss`` takes the parts of a chunk and returns its summed negative bound, from which the scale of a plate
    is removed. ``proceed`` is called after every chunk and may raise to end validation. If the loss is a sum
    over rows (``of_single_data``), each of several ``ranks`` takes its share of ``data``. All ranks call
    ``evaluate``, and the value on rank 0 counts.
    """

    data: Data | None
    evaluate: Callable[[], float] | None
    chunk: int
    loss: Callable[..., Tensor | float]
    proceed: Callable[[], None]
    ranks: Ranks = field(default_factory=Ranks)
    of_single_data: bool = True

    def bound(self, trained: Trained, seed: int, epoch: int) -> float | None:
        """Return the bound, with draws that depend only on ``seed`` and ``epoch``; None without data."""
        if self.evaluate is None and self.data is None:
            return None
        shared = self.evaluate is None and self.of_single_data
        own = ("rank", self.ranks.rank) if shared and not self.ranks.first else ()
        with forked(derived_seed(seed, epoch, "validation", *own)), trained.evaluating():
            if shared:
                return self._mean(self.ranks)
            return float(self.ranks.of_first(self._mean() if self.evaluate is None else self._evaluated()))

    def _evaluated(self) -> float:
        assert self.evaluate is not None
        try:
            with calling("evaluate"):
                return float(self.evaluate())
        except InputError as error:
            return _nan_or_raise(error)

    def _mean(self, ranks: Ranks | None = None) -> float:
        assert self.data is not None
        ranks = ranks or Ranks()
        losses = []
        with torch.no_grad(), clean_input():
            for rows in self.data.part(ranks.share(len(self.data))).split(self.chunk):
                try:
                    with PlateScale(len(rows)) as scale, calling("model, guide, validation"):
                        loss = float(self.loss(*rows.rows))
                    losses.append(loss / scale.factor)
                except InputError as error:
                    losses.append(_nan_or_raise(error, *rows.rows))
                self.proceed()
        return -ranks.sum([math.fsum(losses)])[0] / len(self.data)


def _nan_or_raise(error: InputError, *rows: Tensor) -> float:
    """Return NaN if a parameter of a distribution was NaN or infinite for finite rows, or raise ``error``.

    The weights of the last step are then useless, so it is the training that has diverged.
    """
    expected, _, values = str(error.__cause__).partition("found invalid values")
    diverged = "Expected parameter" in expected and re.search(r"\b(nan|inf)\b", values)
    if not diverged or not all(bool(torch.isfinite(part).all()) for part in rows):
        raise error
    return math.nan
