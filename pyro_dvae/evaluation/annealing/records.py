"""The results of annealing, for each observation and as means."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_dvae.evaluation.annealing.settings import AnnealingSettings
from pyro_dvae.evaluation.estimates import Estimate, finite, plus_minus

# A row with a larger sampling error (nats), or with fewer effective chains, is unreliable.
_UNRELIABLE, _FEW = 0.5, 2.0


@dataclass(frozen=True)
class AnnealedLikelihood:
    """log p(x) of each observation by annealed importance sampling; all in nats, float64, on the CPU.

    :param log_weight: log w of each chain, [C, N]; the mean of w is unbiased for p(x).
    :param acceptance_by_step: mean acceptance of each transition, from hot to cold, [T − 1].
    :param settings: the settings of the run.
    """

    log_weight: Tensor
    acceptance_by_step: Tensor
    settings: AnnealingSettings

    @property
    def log_likelihood(self) -> Tensor:
        """Log of the mean weight, [N]: a lower bound of log p(x) in expectation."""
        return torch.logsumexp(self.log_weight, 0) - math.log(len(self.log_weight))

    @property
    def standard_error(self) -> Tensor:
        """Standard error of ``log_likelihood`` from the chains, [N] (delta method); NaN for one chain."""
        count = len(self.log_weight)
        if count == 1:
            return torch.full_like(self.log_weight[0], math.nan)
        return ((count / self.ess - 1).clamp(min=0) / (count - 1)).sqrt()

    @property
    def ess(self) -> Tensor:
        """Effective number of chains, (Σ w)² / Σ w², [N]."""
        return (2 * torch.logsumexp(self.log_weight, 0) - torch.logsumexp(2 * self.log_weight, 0)).exp()

    @property
    def unreliable(self) -> Tensor:
        """Whether each row has a sampling error above 0.5 nats or fewer than 2 effective chains, [N]."""
        return ~((self.standard_error <= _UNRELIABLE) & (self.ess >= _FEW))

    @property
    def acceptance(self) -> float:
        """Mean acceptance of all transitions; NaN if there are none (one step)."""
        return float(self.acceptance_by_step.mean())

    @property
    def mean(self) -> float:
        """The mean of ``log_likelihood`` over the data."""
        return Estimate(self.log_likelihood).mean

    @property
    def standard_error_of_mean(self) -> float:
        """Standard error of ``mean`` over rows and sampling; NaN for a single observation."""
        return Estimate(self.log_likelihood).standard_error

    def __str__(self) -> str:
        chains, count = self.log_weight.shape
        error = self.standard_error
        settings = self.settings
        rows = [
            ("log p(x), at least", plus_minus(self.mean, self.standard_error_of_mean)),
            ("error of an observation", f"{float(error.nanmedian()):.3f} (median)"),
            ("effective chains", f"{float(self.ess.nanmedian()):.1f} of {chains} (median)"),
            ("unreliable data", f"{int(self.unreliable.sum())} of {count}"),
            ("acceptance", f"{self.acceptance:.3f} (target {settings.target_acceptance:g})"),
            ("path", f"from the {settings.start}, {settings.num_steps} steps, {settings.schedule}"),
        ]
        return _table(f"annealed importance sampling of {count} rows, nats per observation", rows)

    def to_dict(self, per_datum: bool = False) -> dict[str, Any]:
        """Return the record as JSON-able values; non-finite numbers are None.

        :param per_datum: include the values of each observation.
        """
        values: dict[str, Any] = {
            "num_data": self.log_weight.shape[1],
            "unit": "nats per observation",
            "mean": finite(self.mean),
            "standard_error": finite(self.standard_error_of_mean),
            "acceptance": finite(self.acceptance),
            "acceptance_by_step": finite(self.acceptance_by_step.tolist()),
            "num_unreliable": int(self.unreliable.sum()),
            "settings": asdict(self.settings),
        }
        if per_datum:
            for name in ("log_likelihood", "standard_error", "ess"):
                values[f"per_datum_{name}"] = finite(getattr(self, name).tolist())
        return values


@dataclass(frozen=True)
class BidirectionalReport:
    """A lower and an upper bound of log p(x) on data simulated from the model; all in nats.

    :param forward: chains from p_0 to the posterior.
    :param reverse_log_weight: log w of each chain from the exact latents back to p_0, [C, N].
    :param reverse_acceptance_by_step: mean acceptance of each transition, from hot to cold, [T − 1].
    :param x: the simulated data, [N, ...].
    """

    forward: AnnealedLikelihood
    reverse_log_weight: Tensor
    reverse_acceptance_by_step: Tensor
    x: Tensor

    @property
    def lower(self) -> Estimate:
        """Log of the mean weight of the forward chains: below log p(x) in expectation."""
        return Estimate(self.forward.log_likelihood)

    @property
    def upper(self) -> Estimate:
        """−log of the mean of 1/w over the reverse chains: above log p(x) in expectation.

        E[1/w] = 1/p(x) for each chain, even if all chains of an observation begin at the same exact posterior
        sample. So by Jensen's inequality both this and the mean of log w are upper bounds; this one is always
        the lower of the two. Because the chains are not independent, only its error over data is known.
        """
        return Estimate(math.log(len(self.reverse_log_weight)) - torch.logsumexp(-self.reverse_log_weight, 0))

    @property
    def gap(self) -> Estimate:
        """Upper minus lower bound of each observation: how far annealing can be from log p(x)."""
        return Estimate(self.upper.per_datum - self.lower.per_datum)

    @property
    def settings(self) -> AnnealingSettings:
        """The settings of both runs."""
        return self.forward.settings

    def __str__(self) -> str:
        settings = self.settings
        accepted = (
            f"{self.forward.acceptance:.3f}, reverse {float(self.reverse_acceptance_by_step.mean()):.3f}"
        )
        rows = [
            *((name, plus_minus(e.mean, e.standard_error)) for name, e in self._estimates().items()),
            ("acceptance", accepted),
            ("path", f"from the {settings.start}, {settings.num_steps} steps, {settings.schedule}"),
        ]
        count = self.forward.log_weight.shape[1]
        return _table(
            f"bidirectional Monte Carlo, log p(x) of {count} simulated data, nats per observation", rows
        )

    def to_dict(self, per_datum: bool = False) -> dict[str, Any]:
        """Return the report as JSON-able values; non-finite numbers are None.

        :param per_datum: include the values of each observation.
        """
        values: dict[str, Any] = {
            "num_data": self.forward.log_weight.shape[1],
            "unit": "nats per observation",
        }
        for name, estimate in self._estimates().items():
            values[name] = {
                "mean": finite(estimate.mean),
                "standard_error": finite(estimate.standard_error),
            }
            if per_datum:
                values[name]["per_datum"] = finite(estimate.per_datum.tolist())
        values["acceptance"] = finite(self.forward.acceptance)
        values["reverse_acceptance"] = finite(float(self.reverse_acceptance_by_step.mean()))
        values["settings"] = asdict(self.settings)
        return values

    def _estimates(self) -> dict[str, Estimate]:
        return {"lower": self.lower, "upper": self.upper, "gap": self.gap}


def _table(title: str, rows: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join([title, *(f"{name:<{width}}  {value}" for name, value in rows)])
