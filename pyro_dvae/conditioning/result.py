"""Draws of the missing cells of rows, given the observed ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.errors import InputError, warn
from pyro_dvae.evaluation.importance.psis import k_threshold
from pyro_dvae.evaluation.importance.tally import resolved
from pyro_dvae.evaluation.refinement.settings import Refined
from pyro_dvae.text import counted

_DIFFERENT = 20  # draws that are all different show that a cell is continuous


@dataclass(frozen=True)
class Completions:
    """Draws of the missing cells of N rows from p(x_missing | x_observed).

    :param data: the rows, with NaN in missing cells, [N, ...].
    :param cell_draws: R draws of each missing cell, [R, cells], in the order of ``data`` (row by row).
    :param cell_means: their conditional means, [cells].
    :param log_likelihood: log p(x_observed) of each row, [N], float64 (nats).
    """

    data: Tensor
    cell_draws: Tensor
    cell_means: Tensor
    log_likelihood: Tensor

    def __len__(self) -> int:
        return len(self.data)

    def __str__(self) -> str:
        return self.table()

    @property
    def reliable(self) -> Tensor:
        """Whether each row can be trusted, [N]: exact results, unless rounding hides their differences."""
        return resolved(self.log_likelihood, torch.finfo(self.log_likelihood.dtype).eps)

    def warn_of_unreliable(self) -> None:
        """Warn of rows whose missing cells are not to be trusted."""
        warn_of_cells(self.missing.reshape(len(self), -1).any(1).cpu(), self.reliable.cpu())

    def table(self) -> str:
        """Return the totals as aligned text."""
        lines = [f"{name:<17}  {value}" for name, value in self._lines()]
        return "\n".join([f"{len(self)} rows given their observed cells", *lines])

    def _lines(self) -> list[tuple[str, str]]:
        share = f"{int(self.missing.sum()):,} of {self.data.numel():,}"
        return [
            ("missing cells", f"{share}, {len(self.cell_draws)} draws of each"),
            ("log p(observed)", f"{float(self.log_likelihood.mean()):.3f} nats, mean over the rows"),
        ]

    @property
    def missing(self) -> Tensor:
        """Which cells are missing, [N, ...]."""
        return self.data.isnan()

    @property
    def draws(self) -> Tensor:
        """Complete rows: R draws, [R, N, ...]."""
        return self._placed(self.cell_draws)

    @property
    def mean(self) -> Tensor:
        """Complete rows with conditional means in the gaps, [N, ...]; NaN for cells without a mean."""
        return self._placed(self.cell_means)

    @property
    def standard_deviation(self) -> Tensor:
        """Conditional standard deviations, [N, ...]; 0 for observed cells."""
        found = torch.zeros_like(self.data)
        found[self.missing] = self.cell_draws.std(0)
        return found

    @property
    def mode(self) -> Tensor:
        """Complete rows with the most frequent draw in the gaps, [N, ...], for discrete cells."""
        return self._placed(self.cell_draws.mode(0).values)

    def filled(self, how: str) -> Tensor:
        """Return complete rows with the mean, median or mode of each missing cell, [N, ...].

        A category has neither mean nor median, and gets its mode; a cell of another distribution without a
        mean gets its median.

        :raises InputError: the draws of a cell are all different, so it has no mode.
        """
        if how == "mean" and not bool(self.cell_means.isnan().any()):
            return self._placed(self.cell_means)  # mode and median sort the draws
        mode, median = self.cell_draws.mode(0).values, self.cell_draws.quantile(0.5, 0)
        repeats = (self.cell_draws == mode).sum(0) > 1
        if how == "mode":
            if len(self.cell_draws) >= _DIFFERENT and not bool(repeats.all()):
                raise InputError(
                    f"how: {int((~repeats).sum()):,} missing cells have {len(self.cell_draws)} different "
                    "draws, so they have no mode; use how='mean' (the mode of categories) or 'median'"
                )
            return self._placed(mode)
        values = self.cell_means if how == "mean" else median
        return self._placed(torch.where(self.cell_means.isnan(), torch.where(repeats, mode, median), values))

    def quantile(self, q: float) -> Tensor:
        """Return complete rows with the ``q`` quantile of each missing cell, [N, ...].

        A further draw of a continuous cell lies below it with probability ``q``, if ``q`` is between
        1/(R + 1) and R/(R + 1) (Hyndman and Fan 1996, definition 6); otherwise it is the outermost draw.
        """
        count = len(self.cell_draws)
        place = min(max(checks.number("q", q, 0.0, 1.0) * (count + 1) - 1, 0.0), count - 1.0)
        return self._placed(self.cell_draws.quantile(place / max(count - 1, 1), 0))

    def interval(self, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """Return the lower and upper end of the central interval of each missing cell, [N, ...] each.

        A further draw of a continuous cell lies within it with probability ``level``.

        :raises InputError: all R draws together span less than ``level``.
        """
        level, count = checks.number("level", level, 0.0, 1.0), len(self.cell_draws)
        most = (count - 1) / (count + 1)
        if level > most + 1e-9:
            needed = "" if level == 1 else f"; give num_draws={math.ceil(2 / (1 - level) - 1 - 1e-6)} or more"
            raise InputError(
                f"level: expected at most {most:.3g}, the coverage of the range of {counted(count, 'draw')}, "
                f"got {level:g}{needed}"
            )
        return self.quantile((1 - level) / 2), self.quantile((1 + level) / 2)

    def _placed(self, values: Tensor) -> Tensor:
        whole = self.data.expand(*values.shape[:-1], *self.data.shape).clone()
        whole[..., self.missing] = values.to(whole)
        return whole


def warn_of_cells(gaps: Tensor, reliable: Tensor) -> None:
    """Warn of rows with ``gaps``, [N], whose missing cells are not ``reliable``, [N]."""
    _warn("missing cells", gaps & ~reliable, f"{int(gaps.sum()):,} with gaps")


def warn_of_scores(reliable: Tensor) -> None:
    """Warn of rows whose scores are not ``reliable``, [N]."""
    _warn("scores", ~reliable, f"{len(reliable):,}")


def _warn(what: str, bad: Tensor, of: str) -> None:
    if bool(bad.any()):
        warn(
            f"the {what} of {counted(int(bad.sum()), 'row')} (of {of}) are not reliable: "
            "their Pareto k is too large, or their values are too far from the model; "
            "condition(...).reliable shows which",
        )


@dataclass(frozen=True)
class Conditioned(Completions):
    """Draws of the missing cells of N rows by importance sampling, and how far to trust them.

    :param cell_means: conditional means, averaged over the draws of the latents, [cells].
    :param standard_error: of each ``log_likelihood``, [N].
    :param ess: effective number of samples of each row, [N].
    :param pareto_k: of each row's weights, [N]; above ``threshold``, do not trust the row. NaN for rows that
        were annealed.
    :param num_samples: draws of the latents of each row, of which R were chosen.
    :param refined: the proposal of each row; None if discrete latents were summed over, which is exact.
    :param seed: seed of the random streams.
    """

    standard_error: Tensor
    ess: Tensor
    pareto_k: Tensor
    num_samples: int
    refined: Refined | None
    seed: int

    @property
    def threshold(self) -> float:
        """The largest Pareto k that can be trusted with this number of samples."""
        return k_threshold(self.num_samples)

    @property
    def reliable(self) -> Tensor:
        """Whether each row can be trusted, [N]: good Pareto k, or an ESS of half of its annealed chains."""
        good = self.pareto_k <= self.threshold
        if self.refined is None:
            return good
        return good | (self.refined.annealed & (self.ess >= self.refined.settings.num_chains / 2))

    def _lines(self) -> list[tuple[str, str]]:
        if self.refined is None:
            return [*super()._lines(), ("exact", f"a sum over {self.num_samples:,} values of the latents")]
        used = ", ".join(f"{name} {count}" for name, count in self.refined.counts.items() if count)
        return [
            *super()._lines(),
            ("effective samples", f"median {float(self.ess.median()):.0f} of {self.num_samples}"),
            ("not reliable", f"{100 * float((~self.reliable).double().mean()):.1f} % of the rows"),
            ("rows by proposal", used),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the totals as JSON-able values."""
        return {
            "num_data": len(self),
            "missing_cells": int(self.missing.sum()),
            "num_draws": len(self.cell_draws),
            "num_samples": self.num_samples,
            "mean_log_likelihood": float(self.log_likelihood.mean()),
            "share_unreliable": float((~self.reliable).double().mean()),
            "refined": None if self.refined is None else self.refined.to_dict(self.threshold),
            "seed": self.seed,
        }
