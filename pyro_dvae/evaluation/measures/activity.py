"""Active units: the latents that the guide uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.measures.means import stream_means
from pyro_dvae.evaluation.measures.passes import Moments, Program, first_chunk, measuring
from pyro_dvae.programs.parameters import float_type
from pyro_dvae.rows import Data


@dataclass(frozen=True, eq=False)  # compared by identity: == of tensors has no single truth value
class ActiveUnits:
    """The activity of each latent unit: the variance of its posterior mean over the data.

    :param activity: per latent site Cov_x(E_q[z|x]) of each unit, float64, shape [*inner plates, *event].
    :param threshold: a unit is active if its activity exceeds this.
    :param num_data: number of rows behind the variance.
    :param estimated: sites whose means are averages over several runs of the guide, not exact.
    """

    activity: dict[str, Tensor]
    threshold: float
    num_data: int
    estimated: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """The number of active units of each site."""
        return {name: int((values > self.threshold).sum()) for name, values in self.activity.items()}

    @property
    def count(self) -> int:
        """The number of active units of all sites."""
        return sum(self.counts.values())

    @property
    def total(self) -> int:
        """The number of units of all sites, active or not."""
        return sum(values.numel() for values in self.activity.values())

    def __str__(self) -> str:
        sites = ", ".join(
            f"{name} {count} of {self.activity[name].numel()}" for name, count in self.counts.items()
        )
        return f"{self.count} of {self.total} units active (above {self.threshold:g}): {sites}"

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON-able values."""
        return {
            "count": self.count,
            "total": self.total,
            "threshold": self.threshold,
            "num_data": self.num_data,
            "counts": self.counts,
            "activity": {name: values.tolist() for name, values in self.activity.items()},
            "estimated": list(self.estimated),
        }


def active_units(
    model: Program,
    guide: Program,
    data: Any,
    *args: Any,
    threshold: float = 0.01,
    num_samples: int = 100,
    clean: bool = True,
    seed: int | None = None,
    batch_size: int | None = None,
    **kwargs: Any,
) -> ActiveUnits:
    """Count the active units (Burda, Grosse and Salakhutdinov 2016, section 5.2), without a gradient::

        A_u = Cov_x( E_{u ~ q(u|x)}[u] )  >  0.01

    over the rows of ``data`` (the unbiased variance). The inner mean is that of
    :func:`~pyro_dvae.evaluation.measures.latent_means`; if it is estimated by S runs of the guide, its own
    variance would make inactive units look active. The mean over the data of (variance within an observation)
    / S is therefore subtracted. The result is unbiased, so it can be slightly below zero for an inactive
    unit. The units of a categorical latent are its probabilities.

    :param model: Pyro model of a batch, with one data plate.
    :param guide: Pyro guide of a batch.
    :param data: rows [N, ...], from any source (:mod:`pyro_dvae.rows`), N at least 2.
    :param args: further data for model and guide, N rows each, split like ``data``.
    :param kwargs: further arguments of model and guide, passed unchanged.
    :param threshold: the activity above which a unit counts as active.
    :param num_samples: S, runs of the guide if one is not enough, at least 2.
    :param clean: give the guide clean input; otherwise corrupt it.
    :param seed: seed of a separate random stream; None uses the global one.
    :param batch_size: rows of ``data`` at a time; by default 2,000.
    :raises InputError: as ``latent_means``, or if there is a single observation.
    """
    given = Data.opened("data", (data, *args), kwargs, float_type(model, guide))
    if len(given) < 2:
        raise InputError(f"data: expected at least 2 rows, for a variance over them, got {len(given)}")
    threshold = checks.number("threshold", threshold, minimum=0.0)
    num_samples = checks.count("num_samples", num_samples, minimum=2)
    means: dict[str, Moments] = {}
    errors: dict[str, Moments] = {}
    with measuring(model, guide, first_chunk(given, batch_size), clean, seed):
        for codes in stream_means(model, guide, given, num_samples, batch_size):
            for name, code in codes.items():
                means.setdefault(name, Moments()).add(code.mean)
                if code.variance is not None:
                    errors.setdefault(name, Moments()).add(code.variance)
    activity = {name: moments.variance for name, moments in means.items()}
    for name, moments in errors.items():
        activity[name] = activity[name] - moments.mean
    return ActiveUnits(activity, threshold, len(given), tuple(errors))
