"""Codes of data, and the errors of their reconstructions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Bernoulli
from torch.nn.functional import binary_cross_entropy_with_logits

from pyro_dvae import checks
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.estimates import Estimate, estimate_values, plus_minus
from pyro_dvae.evaluation.measures.means import base_of, mean_of
from pyro_dvae.evaluation.measures.passes import Program, by_row
from pyro_dvae.programs.observations import observed_name
from pyro_dvae.rows import Arguments
from pyro_dvae.sites import is_uncounted


class MeanCode(Messenger):
    """Effect handler that sets each latent of a guide in turn to the mean of its distribution.

    A latent whose mean is unknown or NaN is drawn instead, and its name is added to ``unknown``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.unknown: list[str] = []

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["is_observed"] or site_is_subsample(msg) or is_uncounted(msg):
            return
        mean = mean_of(msg["fn"])
        if mean is None or bool(torch.isnan(mean).any()):
            self.unknown.append(msg["name"])
            return
        msg["value"], msg["done"] = mean, True


def decoding_errors(
    model: Program, codes: Trace, rows: Arguments, data_site: str | None, plate: str
) -> tuple[Tensor, Tensor | None]:
    """Return the errors of rows decoded from the latents of a guide's run.

    :param model: Pyro model of a batch; it runs on the latents in ``codes``.
    :param codes: a run of the guide.
    :param rows: n rows.
    :param data_site: the observed site to compare (:func:`observed_name`).
    :param plate: name of the data plate.
    :returns: the squared error [n], mean over the elements of a row, and the cross-entropy [n] (nats), the
        sum over them, or None if the likelihood is not Bernoulli.
    :raises InputError: the mean of the site is unknown, or a Bernoulli site observes values outside [0, 1].
    """
    nodes = rows.call(poutine.trace(poutine.replay(model, trace=codes)).get_trace).nodes
    site = nodes[observed_name(nodes, data_site)]
    mean, base, value = mean_of(site["fn"]), base_of(site["fn"]), site["value"]
    if mean is None or bool(torch.isnan(mean).any()):
        raise InputError(
            f"data_site: expected a distribution with a mean at {site['name']!r}, got {type(base).__name__}"
        )
    squared = by_row((value - mean).double().square(), site, plate).reshape(len(rows), -1).mean(1).cpu()
    if not isinstance(base, Bernoulli):
        return squared, None
    checks.unit_interval(f"x: the Bernoulli site {site['name']!r}", value)
    cross = binary_cross_entropy_with_logits(base.logits, value, reduction="none")
    return squared, by_row(cross.double(), site, plate).reshape(len(rows), -1).sum(1).cpu()


def gathered(parts: list[tuple[Tensor, Tensor | None]]) -> DecodingError:
    """Join the errors of chunks by :func:`decoding_errors`."""
    entropies = [cross for _, cross in parts if cross is not None]
    squared = Estimate(torch.cat([squared for squared, _ in parts]))
    return DecodingError(squared, Estimate(torch.cat(entropies)) if entropies else None)


@dataclass(frozen=True, eq=False)  # compared by identity: == of tensors has no single truth value
class DecodingError:
    """The error of the data decoded from one kind of code, per observation [N].

    :param squared: mean over the D elements of (x − E[x|z])², in the square of the unit of the data.
    :param cross_entropy: −Σ x log p + (1 − x) log(1 − p) over the elements (nats); None unless the likelihood
        is Bernoulli.
    """

    squared: Estimate
    cross_entropy: Estimate | None

    def __str__(self) -> str:
        squared = plus_minus(self.squared.mean, self.squared.standard_error, digits=5)
        if self.cross_entropy is None:
            return f"squared {squared}"
        entropy = plus_minus(self.cross_entropy.mean, self.cross_entropy.standard_error)
        return f"squared {squared}   cross-entropy {entropy} nats"

    def to_dict(self, per_datum: bool = False) -> dict[str, Any]:
        """Return the record as JSON-able values; non-finite numbers are None."""
        entropy = self.cross_entropy
        return {
            "squared": estimate_values(self.squared, per_datum),
            "cross_entropy": None if entropy is None else estimate_values(entropy, per_datum),
        }


@dataclass(frozen=True, eq=False)
class ReconstructionError:
    """The result of :func:`reconstruction_error`.

    :param from_mean: errors of reconstructions from the mean code; None if a latent has no mean.
    :param from_samples: errors of reconstructions from sampled codes, averaged over the draws.
    :param num_samples: draws of each observation's code.
    """

    from_mean: DecodingError | None
    from_samples: DecodingError
    num_samples: int

    def __str__(self) -> str:
        return self.table()

    def _kinds(self) -> dict[str, DecodingError]:
        found = {"from_mean": self.from_mean, "from_samples": self.from_samples}
        return {name: error for name, error in found.items() if error is not None}

    def table(self) -> str:
        """Return the errors as aligned text, mean ± standard error over the data."""
        count = len(self.from_samples.squared.per_datum)
        lines = [f"reconstruction error of {count} rows, {self.num_samples} sampled codes of each"]
        for name, error in self._kinds().items():
            lines.append(f"{name.replace('_', ' '):<12}  {error}")
        return "\n".join(lines)

    def to_dict(self, per_datum: bool = False) -> dict[str, Any]:
        """Return the record as JSON-able values; non-finite numbers are None."""
        found: dict[str, Any] = {"num_samples": self.num_samples, "from_mean": None}
        return found | {name: error.to_dict(per_datum) for name, error in self._kinds().items()}
