"""A fitted model of a table, and its methods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.conditioning import (
    Completions,
    Prediction,
    given_the_rest,
    imputed,
    predicted,
    table_rows,
)
from pyro_dvae.distributions.gaussian_mixture import GaussianMixture
from pyro_dvae.errors import InputError
from pyro_dvae.models.tables.tail_probability import TailProbability
from pyro_dvae.random_state import derived_seed, forked, start_seed
from pyro_dvae.rows import columns_of, same_columns

_ROWS = 5000


@dataclass(frozen=True)
class FittedTable:
    """A weighted combination of mixtures of Gaussians of the rows of a table.

    Rows are given and returned in the units of the data. A conditional distribution of the table is the
    weighted sum of the members' exact conditionals.

    :param members: mixtures of standardised rows, by name.
    :param weights: weight of each member, [M].
    :param rows: up to 2,000 standardised training rows, for anomaly scores.
    :param loc: means of the columns, [D].
    :param scale: their standard deviations, [D].
    :param held_out: squared error of standardised held-out cells, by candidate, and ``together``.
    :param seed: seed of its fits.
    :param columns: names of the columns, if the rows had any; a table given later must have the same.
    """

    members: dict[str, GaussianMixture]
    weights: Tensor
    rows: Tensor
    loc: Tensor
    scale: Tensor
    held_out: dict[str, float]
    seed: int
    columns: tuple[str, ...] = ()

    def __str__(self) -> str:
        rows = [
            f"{name:<28}  weight {float(weight):.2f}  error {self.held_out[name]:.3f}"
            for name, weight in zip(self.members, self.weights, strict=True)
        ]
        total = f"{'together':<28}               error {self.held_out['together']:.3f}"
        columns = f"{len(self.loc)} columns; mean squared error of held-out cells, in standard deviations"
        return "\n".join([columns, *rows, total])

    def condition(self, data: Any, *, num_draws: int = 100, seed: int | None = None) -> Completions:
        """Draw the missing cells of each row from p(x_missing | x_observed).

        :param data: rows [N, D] with NaN in missing cells.
        :param num_draws: R, draws of each missing cell.
        :param seed: of the draws; None draws it from the global stream.
        """
        num_draws = checks.count("num_draws", num_draws)
        given, x = self._standardised(data)
        means, draws, evidence = [], [], []
        with torch.no_grad(), forked(start_seed(seed)):
            counts = _shares(self.weights, num_draws)
            order = torch.randperm(num_draws)
            for rows in x.split(_ROWS):
                seen, filled = ~rows.isnan(), rows.nan_to_num()
                drawn, mean = [], torch.zeros_like(filled)
                joints = []
                for mixture, weight, count in zip(self.members.values(), self.weights, counts, strict=True):
                    joint, parts = mixture.joint(filled, seen)
                    mean += weight * (joint.softmax(-1).unsqueeze(-1) * parts).sum(-2)
                    joints.append(joint.logsumexp(-1))
                    if count:
                        drawn.append(mixture.drawn(filled, seen, count))
                means.append(self._back(mean, ~seen).to(given))
                draws.append(self._back(torch.cat(drawn)[order], ~seen).to(given))
                evidence.append(torch.stack(joints, -1))
        log_likelihood = self._log_likelihood(x, torch.cat(evidence))
        return Completions(given, torch.cat(draws, -1), torch.cat(means), log_likelihood)

    def impute(self, data: Any, *, how: str = "mean", num_imputations: int = 1, **options: Any) -> Tensor:
        """Return the rows with their gaps filled, as :func:`~pyro_dvae.impute` does.

        :param options: of :meth:`condition`.
        """
        return imputed(partial(self.condition, data, **options), how, num_imputations)

    def sample_given(self, data: Any, *, num_draws: int = 100, **options: Any) -> Tensor:
        """Return draws of each row given its observed cells, [num_draws, N, D]."""
        return self.condition(data, num_draws=num_draws, **options).draws

    def predict(
        self, data: Any, *, columns: Sequence[int | str], level: float = 0.9, **options: Any
    ) -> Prediction:
        """Predict some columns of each row from the others, as :func:`~pyro_dvae.predict` does.

        :param options: of :meth:`condition`.
        """
        names = columns_of(data) or self.columns
        same_columns("data", self.columns, names)
        return predicted(lambda rows: self.condition(rows, **options), data, columns, level, names)

    def log_likelihood(self, data: Any) -> Tensor:
        """Return log Σ_m w_m p_m(x_observed) of each row, [N] (nats), in the units of the data."""
        with torch.no_grad():
            x = self._standardised(data)[1]
            parts = [
                torch.cat([each.observed_log_prob(r.nan_to_num(), ~r.isnan()) for r in x.split(_ROWS)])
                for each in self.members.values()
            ]
        return self._log_likelihood(x, torch.stack(parts, -1))

    def model(self, x: Tensor) -> None:
        """Observe standardised rows [N, D] in the plate ``data``: the members as one mixture, in Pyro.

        There are no latents, so its guide is empty.
        """
        parts = list(self.members.values())
        logits = torch.cat([w.log() + part.logits for w, part in zip(self.weights, parts, strict=True)])
        loc = torch.cat([part.loc for part in parts])
        mixture = GaussianMixture(logits, loc, torch.cat([part.covariance for part in parts]))
        with pyro.plate("data", len(x)):
            pyro.sample("x", mixture, obs=x)

    @cached_property
    def tail_probability(self) -> TailProbability:
        """The score of standardised rows; its mixtures are fitted at the first use."""
        with torch.no_grad(), forked(derived_seed(self.seed, "oddness")):
            return TailProbability.beside(self.rows)

    def anomaly_score(self, data: Any, *, by: str = "row") -> Tensor:
        """Score how unusual each row is, [N], or each of its cells, [N, D] (nats); higher is more unusual.

        The score of a row is −log of the tail probability of its density among the training rows, under the
        candidate with the highest score (:class:`~.tail_probability.TailProbability`); the score of a
        cell is −log p(x_j | rest). The first call fits the candidates to the rows that the table has kept.

        :param by: ``"row"`` or ``"column"``.
        """
        if checks.known("by", by, ("row", "column")) == "row":
            with torch.no_grad():
                return self.tail_probability(self._standardised(data)[1])
        same_columns("data", self.columns, columns_of(data))
        return given_the_rest(self.log_likelihood, data)

    def sample(self, num_samples: int = 1, *, seed: int | None = None) -> Tensor:
        """Return new rows, [num_samples, D]."""
        num_samples = checks.count("num_samples", num_samples)
        empty = torch.full_like(self.loc, math.nan).unsqueeze(0)
        draws = self.condition(empty, num_draws=num_samples, seed=seed).draws
        return draws[:, 0]

    def _standardised(self, data: Any) -> tuple[Tensor, Tensor]:
        same_columns("data", self.columns, columns_of(data))
        given = table_rows(data)
        if given.shape[1] != len(self.loc):
            raise InputError(f"data: expected rows [N, {len(self.loc)}], got shape {tuple(given.shape)}")
        return given, (given.to(self.loc) - self.loc) / self.scale

    def _back(self, rows: Tensor, gaps: Tensor) -> Tensor:
        """Return the missing cells of standardised rows [..., N, D] in the units of the data."""
        return (rows * self.scale + self.loc)[..., gaps]

    def _log_likelihood(self, x: Tensor, parts: Tensor) -> Tensor:
        volume = (~x.isnan()).to(x) @ self.scale.log()
        return (parts + self.weights.log()).logsumexp(-1) - volume


def _shares(weights: Tensor, count: int) -> list[int]:
    """Return the number of draws of each member: w · count, with systematic random rounding."""
    edges = (weights.cumsum(0) / weights.sum() * count + torch.rand((), dtype=weights.dtype)).floor()
    edges[-1] = count
    return edges.diff(prepend=edges.new_zeros(1)).long().tolist()
