"""The result of ``log_likelihood``: the estimates and their reliability."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.estimates import error_of_mean, finite
from pyro_dvae.evaluation.importance.proposals import Proposal
from pyro_dvae.evaluation.importance.psis import k_threshold
from pyro_dvae.evaluation.refinement.settings import Refined

TOO_MANY = 0.01  # share of rows above the threshold that makes the record advise another proposal


@dataclass(frozen=True)
class LogLikelihood:
    """Importance-sampled log p(x) of each observation, float64 and in nats, and its reliability.

    :param log_likelihood: log 1/S Σ_s w_s, shape [N]; in expectation a lower bound of log p(x).
    :param standard_error: standard error of each by the delta method, within the strata of the proposal, [N].
    :param ess: effective number of samples (Σ w)² / Σ w² of each, [N], at most S.
    :param pareto_k: shape of the Pareto distribution fitted to the largest weights of each, [N] (Vehtari et
        al. 2024): above ``threshold``, do not trust the estimate and its error; −inf if all weights are
        equal.
    :param smoothed_log_likelihood: the estimate with the largest weights smoothed by that fit, [N]; it is not
        a lower bound, and closer only if k is below the threshold.
    :param bound_by_samples: mean estimates from fewer samples: (numbers of samples, [N, numbers]).
    :param num_samples: S.
    :param proposal: the proposal.
    :param denoising: whether the guide has corruption sites.
    :param seed: seed of the random streams.
    :param log_weight: all log weights [N, S], if they were kept.
    :param refined: what refinement changed, if the proposals were refined. The values of an annealed row are
        those of its chains, and its Pareto k is NaN.
    :param part: (k, n) if these are part k of n of the rows.
    """

    log_likelihood: Tensor
    standard_error: Tensor
    ess: Tensor
    pareto_k: Tensor
    smoothed_log_likelihood: Tensor
    bound_by_samples: tuple[tuple[int, ...], Tensor]
    num_samples: int
    proposal: Proposal
    denoising: bool
    seed: int
    log_weight: Tensor | None = None
    refined: Refined | None = None
    part: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.log_likelihood)

    @staticmethod
    def joined(parts: Sequence[LogLikelihood]) -> LogLikelihood:
        """Join the records of all parts of the rows, in any order, into one in the order of the rows.

        :raises InputError: the parts do not belong to one evaluation, or one is missing or given twice.
        """
        given = [each.part for each in parts]
        numbers = [each for each in given if each is not None]
        wanted = [(k, numbers[0][1]) for k in range(numbers[0][1])] if numbers else []
        if not wanted or sorted(numbers) != wanted or len(numbers) < len(given):
            raise InputError(f"parts: expected each part (k, n) of one evaluation once, got {given}")
        first, *others = parts = sorted(parts, key=lambda each: each.part or (0, 1))
        for each in others:
            for name in ("num_samples", "proposal", "denoising", "seed"):
                if (got := getattr(each, name)) != (wanted := getattr(first, name)):
                    raise InputError(
                        f"parts: expected parts of one evaluation, got {name} {wanted} and {got}"
                    )

        changes: dict[str, Any] = {
            name: torch.cat([getattr(each, name) for each in parts]) for name in first.per_datum()
        }
        sizes = first.bound_by_samples[0]
        changes["bound_by_samples"] = (sizes, torch.cat([each.bound_by_samples[1] for each in parts]))
        weights = [each.log_weight for each in parts if each.log_weight is not None]
        changes["log_weight"] = torch.cat(weights) if weights else None
        if first.refined is not None:
            found = [each.refined for each in parts if each.refined is not None]
            proposal, before = ([each.proposal for each in found], [each.pareto_k_before for each in found])
            changes["refined"] = replace(
                first.refined, proposal=torch.cat(proposal), pareto_k_before=torch.cat(before)
            )
        return replace(first, **changes, part=None)

    def __str__(self) -> str:
        return self.table()

    @property
    def mean(self) -> float:
        """The mean over the data."""
        return float(self.log_likelihood.mean())

    @property
    def total(self) -> float:
        """The sum over the data."""
        return float(self.log_likelihood.sum())

    @property
    def sampling_error(self) -> float:
        """Standard error of the mean from the sampling alone, for these rows."""
        return error_of_mean(self.standard_error)

    @property
    def standard_error_of_mean(self) -> float:
        """Standard error of the mean, including the variation between rows; NaN for one row."""
        return float(self.log_likelihood.std()) / math.sqrt(len(self)) if len(self) > 1 else math.nan

    @property
    def smoothed_mean(self) -> float:
        """The mean of the Pareto-smoothed estimates; not a lower bound."""
        return float(self.smoothed_log_likelihood.mean())

    @property
    def threshold(self) -> float:
        """The largest Pareto k that can be trusted with this number of samples."""
        return k_threshold(self.num_samples)

    @property
    def share_unreliable(self) -> float:
        """The share of rows whose Pareto k is above the threshold.

        An annealed row is included if fewer than half of its chains are effective.
        """
        reliable = self.pareto_k <= self.threshold
        if self.refined is not None:
            reliable |= self.refined.annealed & (self.ess >= self.refined.settings.num_chains / 2)
        return float((~reliable).double().mean())

    @property
    def advice(self) -> str | None:
        """What to try if too many rows are unreliable; None if they are few."""
        if self.share_unreliable <= TOO_MANY:
            return None
        untried = []
        if self.refined is not None:
            untried.append(f"refine=Refinement(num_steps={3 * self.refined.settings.num_steps})")
        else:
            if self.denoising and self.proposal.kind != "mixture":
                untried.append("proposal='mixture'")
            untried.append("widen=1.2" if self.proposal.widen == 1 else "a larger widen")
        if not self.proposal.defensive:
            untried.append("defensive=0.1")
        if self.refined is None:
            untried.append("refine=True")
        untried.append("annealed_log_likelihood on some of the rows")
        return (
            f"{100 * self.share_unreliable:.1f} % of the rows have a Pareto k above {self.threshold:.2f}, "
            f"so the estimate is too low and its error too small; try {', '.join(untried[:-1])}"
            f"{' or ' if untried[:-1] else ''}{untried[-1]}"
        )

    def table(self) -> str:
        """Return the totals as aligned text."""
        k = self.pareto_k
        known = k[~k.isnan()] if bool((~k.isnan()).any()) else k
        rows = [
            ("log p(x), mean", f"{self.mean:.3f} ± {self.sampling_error:.3f} nats (sampling)"),
            ("", f"± {self.standard_error_of_mean:.3f} (over rows)" if len(self) > 1 else ""),
            ("Pareto-smoothed", f"{self.smoothed_mean:.3f} nats (not a lower bound)"),
            (
                "effective samples",
                f"median {float(self.ess.median()):.0f}, smallest {float(self.ess.min()):.1f}",
            ),
            ("Pareto k", f"median {float(known.median()):.2f}, largest {float(known.max()):.2f}"),
            ("", f"{100 * self.share_unreliable:.1f} % above {self.threshold:.2f}"),
        ]
        if self.refined is not None:
            before = self.refined.share_before(self.threshold)
            used = ", ".join(f"{name} {count}" for name, count in self.refined.counts.items() if count)
            rows.append(("", f"{100 * before:.1f} % above {self.threshold:.2f} before refinement"))
            rows.append(("rows by proposal", used))
        title = f"{len(self)} rows, {self.num_samples} samples each, proposal: {self.proposal}"
        lines = [f"{name:<17}  {value}" for name, value in rows if value]
        return "\n".join([title, *lines, *([self.advice] if self.advice else [])])

    def to_dict(self, per_datum: bool = False) -> dict[str, Any]:
        """Return the record as JSON-able values; non-finite numbers are None.

        :param per_datum: include the values of each observation.
        """
        sizes, bounds = self.bound_by_samples
        content: dict[str, Any] = {
            "unit": "nats per observation",
            "num_data": len(self),
            "num_samples": self.num_samples,
            "proposal": {
                "kind": self.proposal.kind,
                "num_corruptions": self.proposal.num_corruptions if self.proposal.kind == "mixture" else None,
                "defensive": self.proposal.defensive,
                "widen": self.proposal.widen,
            },
            "seed": self.seed,
            "mean": finite(self.mean),
            "total": finite(self.total),
            "sampling_error": finite(self.sampling_error),
            "standard_error_of_mean": finite(self.standard_error_of_mean),
            "smoothed_mean": finite(self.smoothed_mean),
            "pareto_k_threshold": finite(self.threshold),
            "share_unreliable": self.share_unreliable,
            "advice": self.advice,
            "refined": None if self.refined is None else self.refined.to_dict(self.threshold),
            "mean_by_num_samples": {
                str(size): finite(value) for size, value in zip(sizes, bounds.mean(0).tolist(), strict=True)
            },
        }
        if per_datum:
            content["per_datum"] = {
                name: finite(values.tolist()) for name, values in self.per_datum().items()
            }
        return content

    def per_datum(self) -> dict[str, Tensor]:
        """Return all values per observation by name, each [N]."""
        return {
            "log_likelihood": self.log_likelihood,
            "standard_error": self.standard_error,
            "ess": self.ess,
            "pareto_k": self.pareto_k,
            "smoothed_log_likelihood": self.smoothed_log_likelihood,
        }

    def to_arviz(self) -> Any:
        """Return the record as an ``arviz.InferenceData`` (ArviZ 0.x) or ``xarray.DataTree`` (ArviZ 1.x).

        Its group ``importance_sampling`` holds the values of each observation, and ``log_weight`` if the
        weights were kept. Write it with :func:`pyro_dvae.evaluation.write_netcdf`.
        """
        from pyro_dvae.evaluation.importance.arviz_export import labelled

        attributes: dict[str, str | int | float] = {
            "num_samples": self.num_samples,
            "proposal": str(self.proposal),
            "seed": str(self.seed),
            "pareto_k_threshold": self.threshold,
        }
        return labelled(
            {name: values.numpy() for name, values in self.per_datum().items()},
            None if self.log_weight is None else self.log_weight.numpy(),
            attributes,
        )
