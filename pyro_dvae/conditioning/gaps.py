"""The gap between the encoder's bound and log p(x), split into approximation and amortisation gaps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.calling import calling
from pyro_dvae.conditioning.programs import Program
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.estimates import evaluation_mode, plus_minus
from pyro_dvae.evaluation.importance.proposals import Pass, Proposal
from pyro_dvae.evaluation.importance.psis import k_threshold
from pyro_dvae.evaluation.progress import progress_of
from pyro_dvae.evaluation.refinement.gaussian import Gaussians, climbed, encoded
from pyro_dvae.evaluation.refinement.settings import FAMILIES, Refinement
from pyro_dvae.evaluation.refinement.targets import Targets
from pyro_dvae.evaluation.refinement.weighing import chains, require_known, summary, weighted
from pyro_dvae.programs.parameters import float_type
from pyro_dvae.random_state import derived_seed, forked, start_seed
from pyro_dvae.rows import Arguments, Data

_ROWS, _BYTES_PER_NUMBER = 200, 64


@dataclass(frozen=True)
class InferenceGaps:
    """The gaps of Cremer, Li and Duvenaud (2018) for N rows, all float64, [N] and in nats::

        log p(x) − L[encoder] = (log p(x) − L[best of the family]) + (L[best of the family] − L[encoder])
                                 approximation gap                   amortisation gap

    :param log_likelihood: log p(x), by importance sampling with the widened full Gaussian, or by annealing
        if that is higher; a lower bound in expectation.
    :param encoder: the encoder's bound on clean input.
    :param diagonal: the bound of the best Gaussian with a diagonal covariance.
    :param full: the bound of the best Gaussian with a full covariance.
    :param errors: standard errors from the sampling, by name of the four, each [N].
    :param pareto_k: of the importance weights behind ``log_likelihood``, [N].
    :param annealed: which rows were annealed, [N].
    :param seed: seed of the random streams.
    """

    log_likelihood: Tensor
    encoder: Tensor
    diagonal: Tensor
    full: Tensor
    errors: dict[str, Tensor]
    pareto_k: Tensor
    annealed: Tensor
    seed: int

    def __len__(self) -> int:
        return len(self.log_likelihood)

    def __str__(self) -> str:
        return self.table()

    def approximation(self, family: str = "diagonal") -> Tensor:
        """Return log p(x) minus the best bound of a family, ``"diagonal"`` or ``"full"``, [N]."""
        return self.log_likelihood - self._bound(family)

    def amortisation(self, family: str = "diagonal") -> Tensor:
        """Return the best bound of a family minus the encoder's, [N]."""
        return self._bound(family) - self.encoder

    def _bound(self, family: str) -> Tensor:
        checks.known("family", family, FAMILIES)
        return self.diagonal if family == "diagonal" else self.full

    def means(self) -> dict[str, tuple[float, float]]:
        """Return the mean over the rows of each value and gap, with its standard error over the rows."""
        values = {
            "log p(x)": self.log_likelihood,
            "full Gaussian": self.full,
            "diagonal Gaussian": self.diagonal,
            "encoder": self.encoder,
            "approximation gap, full": self.approximation("full"),
            "approximation gap, diagonal": self.approximation(),
            "amortisation gap, full": self.amortisation("full"),
            "amortisation gap, diagonal": self.amortisation(),
        }
        count = len(self)
        return {
            name: (float(each.mean()), float(each.std()) / math.sqrt(count) if count > 1 else math.nan)
            for name, each in values.items()
        }

    def table(self) -> str:
        """Return the means as aligned text."""
        rows = [f"{name:<27}  {plus_minus(*value)}" for name, value in self.means().items()]
        annealed = int(self.annealed.sum())
        note = f"; log p(x) of {annealed} by annealing" if annealed else ""
        return "\n".join([f"{len(self)} rows, nats, ± over the rows{note}", *rows])

    def to_dict(self) -> dict[str, Any]:
        """Return the means with their standard errors as JSON-able values."""
        found = {
            name: {"mean": mean, "standard_error": error if math.isfinite(error) else None}
            for name, (mean, error) in self.means().items()
        }
        return {"unit": "nats", "num_data": len(self), "annealed": int(self.annealed.sum()), **found}


def inference_gaps(
    model: Program,
    guide: Program,
    data: Any,
    *args: Any,
    refine: Refinement | None = None,
    num_samples: int = 2000,
    seed: int | None = None,
    memory: int = 2**29,
    compile: bool | None = None,  # noqa: A002 - torch's own word for it
    progress: bool | Callable[[int, int], None] | None = None,
    max_plate_nesting: int | float = math.inf,
    **kwargs: Any,
) -> InferenceGaps:
    """Split the gap between the encoder's bound and log p(x) of each row into its two causes.

    The *approximation gap* remains with the best Gaussian for the row. The *amortisation gap* is the bound of
    that Gaussian minus the encoder's; it would vanish if each row had its own fit (Cremer et al. 2018). Adam
    finds the best Gaussian of each row, starting from the encoder's.

    :param model: Pyro model of a batch, with one data plate and continuous latents inside it.
    :param guide: Pyro guide of a batch.
    :param data: data, N rows.
    :param args: further data of model and guide, N rows each.
    :param kwargs: further arguments of model and guide, passed unchanged.
    :param refine: how the Gaussians are fitted and when a row is annealed; by default 300 steps (600 for a
        full covariance).
    :param num_samples: draws behind each bound and behind log p(x), for each row.
    :param seed: seed of the random streams; None draws it from the global stream.
    :param memory: approximate number of bytes to use in addition to data and results.
    :param compile: compile the model's density and its gradient; None does so if it saves time.
    :param progress: whether to show progress, or a function of the numbers of finished rows and all rows.
    :param max_plate_nesting: number of dimensions of the user's plates; by default found by one run.
    :raises InputError: an argument is invalid, or a latent is discrete or lies outside the data plate.
    """
    settings = Refinement(num_steps=300)
    if refine is not None:
        settings = checks.instance("refine", refine, Refinement, "a Refinement")
    found, start = measured(
        model,
        guide,
        (data, *args),
        kwargs,
        settings=settings,
        families=FAMILIES,
        num_samples=num_samples,
        seed=seed,
        memory=memory,
        compile=compile,
        progress=progress,
        max_plate_nesting=max_plate_nesting,
    )
    names = ("log_likelihood", "encoder", "diagonal", "full")
    errors = {name: found.pop(f"{name} error") for name in names}
    return InferenceGaps(**found, errors=errors, seed=start)


def measured(
    model: Program,
    guide: Program,
    data: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    settings: Refinement,
    families: tuple[str, ...],
    num_samples: int,
    seed: int | None,
    memory: int = 2**29,
    compile: bool | None = None,  # noqa: A002
    progress: bool | Callable[[int, int], None] | None = None,
    max_plate_nesting: int | float = math.inf,
) -> tuple[dict[str, Tensor], int]:
    """Return the bounds of the encoder and of the best Gaussians, each with its error, [N], and the seed.

    If all families are asked for, log p(x) is estimated as well.
    """
    checks.pair(model, guide)
    num_samples = checks.count("num_samples", num_samples, minimum=25)
    memory = checks.count("memory", memory)
    checks.optional(checks.flag, "compile", compile)
    checks.progress(progress)
    checks.nesting("max_plate_nesting", max_plate_nesting)
    given = Data.opened("data", data, kwargs, float_type(model, guide))
    start = start_seed(seed)
    parts = []
    with torch.no_grad(), evaluation_mode(model, guide, given[:2], given), calling("model, guide, data"):
        targets = Targets(model, guide, given, max_plate_nesting, memory, compile)
        for name in targets.structure.discrete:
            raise InputError(f"model: latent {name!r} is discrete, so the posterior has no best Gaussian")
        targets.expect(len(given))
        each = _BYTES_PER_NUMBER * targets.size * (num_samples + 2 * targets.size)
        size = max(1, min(_ROWS, memory // each))
        with progress_of("bounds", progress) as shown, pyro.validation_enabled(False):
            for first in range(0, len(given), size):
                rows = given[first : first + size]
                with forked(derived_seed(start, "bounds", first)):
                    parts.append(_bounds(targets, (model, guide), rows, settings, families, num_samples))
                shown(min(first + size, len(given)), len(given))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}, start


def _bounds(
    targets: Targets,
    pair: tuple[Program, Program],
    rows: Arguments,
    settings: Refinement,
    families: tuple[str, ...],
    num_samples: int,
) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}

    def put(name: str, log_weight: Tensor) -> None:
        values = require_known(log_weight.double().cpu())
        found[name] = values.mean(0)
        found[f"{name} error"] = values.std(0) / math.sqrt(len(values))

    one = Pass(Proposal("clean"), num_samples, 0, targets.structure.nesting)
    put("encoder", one.log_weights(*pair, rows.rows, dict(rows.kwargs)))
    best: Gaussians = encoded(targets, pair[1], rows)
    for family in families:
        best = climbed(targets, rows, best, family, settings)
        put(family, weighted(targets, rows, best, num_samples)[1][0][0])
    if families != FAMILIES:
        return found
    wide = best.widened(settings.widen)
    result = summary(weighted(targets, rows, wide, num_samples)[1], wide.loc.dtype)
    estimate, error = result["log_likelihood"], result["standard_error"]
    annealed = torch.zeros(len(rows), dtype=torch.bool)
    which = (~(result["pareto_k"] <= k_threshold(num_samples))).nonzero()[:, 0]
    if len(which) and settings.annealing_steps:
        other = summary([chains(targets, rows[which], wide[which], settings)[1][None]], wide.loc.dtype)
        higher = other["log_likelihood"] > estimate[which]
        which = which[higher]
        estimate[which] = other["log_likelihood"][higher]
        error[which] = other["standard_error"][higher]
        annealed[which] = True
    return found | {
        "log_likelihood": estimate,
        "log_likelihood error": error,
        "pareto_k": result["pareto_k"],
        "annealed": annealed,
    }
