"""One call that shows what the library understands of a model and a guide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

from pyro.infer import ELBO

from pyro_dvae import checks
from pyro_dvae.bounds.denoising import TraceDenoising_ELBO
from pyro_dvae.bounds.draws import Pair
from pyro_dvae.errors import InputError
from pyro_dvae.programs.look import Step, look
from pyro_dvae.programs.remarks import remarks
from pyro_dvae.programs.site_rows import SiteRow, site_rows


@dataclass(frozen=True)
class Check:
    """What was understood of a pair; ``print`` shows it as a table.

    :param loss: the name of the bound, with its counts.
    :param sites: a row for each site.
    :param step: how often a step runs the programs, and what has stopped it.
    :param remarks: what to think about, a sentence each.
    """

    loss: str
    sites: tuple[SiteRow, ...]
    step: Step
    remarks: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether a step on the loss goes through and there is nothing to remark."""
        return not self.remarks

    def __str__(self) -> str:
        header = ("site", *(field.name for field in fields(SiteRow)[1:]))
        lines = _columns([header, *(astuple(row) for row in self.sites)])
        lines.append("")
        if self.step.stopped is None:
            runs = f"{_times(self.step.model_runs)} the model and {_times(self.step.guide_runs)} the guide"
            first = self.step.first_runs
            later = (self.step.model_runs, self.step.guide_runs)
            extra = f" (the first one {_times(first[0])} and {_times(first[1])})" if first != later else ""
            lines.append(f"A step on {self.loss} runs {runs}{extra}.")
        lines += [f"- {remark}" for remark in self.remarks] or ["Nothing to remark."]
        return "\n".join(lines)

    __repr__ = __str__


def check(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *batch: Any,
    size: int | None = None,
    loss: ELBO | None = None,
    **kwargs: Any,
) -> Check:
    """Return what the library understands of a model and a guide, for a look before training::

        print(dv.check(model, guide, x, size=len(data), loss=dv.TraceDenoising_ELBO()))

    The table has each site with its plates, shape and kind (latent, observation, corruption, …), and the
    gradient estimator that it gets under ``loss``. Below it stand how often a step runs the programs, and
    remarks: what the loss refuses, a plate whose size is not that of the data, latents that the guide does
    not sample, dimensions that no plate declares, a dependence of latents that the guide leaves out, random
    numbers of modules, parameters without a gradient.

    The programs run a few times; random streams, buffers and gradients are afterwards as they were before.

    :param model: Pyro model.
    :param guide: Pyro guide.
    :param batch: arguments of both, the rows of a mini-batch first.
    :param size: N, the number of rows in the whole data set; not compared with the plates where omitted.
    :param loss: the bound, or another Pyro ELBO; ``TraceDenoising_ELBO()`` by default.
    :param kwargs: keyword arguments of both programs.
    :raises InputError: ``size`` or ``loss`` is not as described, or the programs fail for one draw: in one
        line what Python, torch or Pyro raised, which is its cause. Other exceptions pass.
    """
    if size is not None:
        checks.count("size", size)
    chosen = TraceDenoising_ELBO() if loss is None else loss
    if not isinstance(chosen, ELBO):
        raise InputError(f"loss: expected a bound (a Pyro ELBO), got {type(chosen).__name__}")
    seen = look(Pair(model, guide, batch, kwargs), chosen)
    return Check(_name(chosen), site_rows(seen.draws, chosen), seen.step, remarks(seen, size))


def _name(loss: Any) -> str:
    counts = f"K = {loss.num_particles}"
    if hasattr(loss, "num_corruptions"):
        counts = f"M = {loss.num_corruptions}, {counts}"
    return f"{type(loss).__name__} ({counts})"


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return ["  ".join(row).rstrip() for row in padded]
