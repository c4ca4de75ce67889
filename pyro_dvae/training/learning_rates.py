"""Learning rates and scheduled levels, which change from epoch to epoch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pyro_dvae import checks
from pyro_dvae.errors import InputError, shown
from pyro_dvae.programs.parameters import Trained
from pyro_dvae.training.identity import described

Schedule = Callable[[int, int], float]


@dataclass(frozen=True)
class Constant:
    """The base rate throughout."""

    def __call__(self, epoch: int, epochs: int) -> float:
        """Return 1."""
        return 1.0


@dataclass(frozen=True)
class Stages:
    """A factor that changes at given points of the run: (percent of the epochs, factor), in order."""

    stages: tuple[tuple[int, float], ...] = ((0, 1.0), (60, 0.3), (85, 0.1))

    def __call__(self, epoch: int, epochs: int) -> float:
        """Return the factor of the last stage that has begun."""
        return [factor for percent, factor in self.stages if 100 * epoch >= percent * epochs][-1]


@dataclass(frozen=True)
class Staircase:
    """``steps`` equally long stages, falling linearly: 1, (steps - 1) / steps, ..., 1 / steps.

    With 10 steps and a base rate of 1e-3, this is the rule of the denoising VAE's reference code, whose rate
    is 1e-4 times a factor that falls from 10 to 1.
    """

    steps: int = 10

    def __call__(self, epoch: int, epochs: int) -> float:
        """Return the factor of the stage that ``epoch`` lies in."""
        return (self.steps - self.steps * epoch // epochs) / self.steps


SCHEDULES: dict[str, Schedule] = {"constant": Constant(), "step": Stages(), "paper": Staircase()}
"""The named schedules; add a new one here."""


def torch_schedule(schedule: Any) -> Callable[[Optimizer], LRScheduler] | None:
    """Return ``schedule`` if it makes a schedule of torch, else None.

    This is a scheduler class, a ``partial`` of one, or a function of one argument, the optimizer.
    """
    made = schedule.func if isinstance(schedule, partial) else schedule
    if isinstance(made, LRScheduler):
        raise InputError(
            f"schedule: expected a function of the optimizer, got a {type(made).__name__} of another "
            f"optimizer; give lambda optimizer: {type(made).__name__}(optimizer, ...)"
        )
    if isinstance(made, type):
        return schedule if issubclass(made, LRScheduler) else None
    if not callable(schedule) or hasattr(schedule, "__dataclass_fields__"):
        return None
    try:
        inspect.signature(schedule).bind(0, 1)
    except TypeError:
        return schedule
    except ValueError:  # a builtin has no signature
        return None
    return None


def learning_rate_schedule(schedule: str | Schedule | None) -> Schedule:
    """Return a schedule by name, or a callable (epoch, epochs) -> factor unchanged; None is constant."""
    if schedule is None or torch_schedule(schedule) is not None:
        return SCHEDULES["constant"]
    if isinstance(schedule, str):
        return SCHEDULES[checks.known("schedule", schedule, SCHEDULES)]
    if not callable(schedule):
        raise InputError(
            f"schedule: expected a name or a callable (epoch, epochs) -> factor, got {shown(schedule)}"
        )
    return schedule


def describe(schedule: Callable[..., Any]) -> Any:
    """Return JSON-able values that identify a schedule: its registered name if it has one."""
    names = (name for name, known in SCHEDULES.items() if known == schedule)
    return next(names, described(schedule))


def scheduled(trained: Trained, bound: Any) -> list[Any]:
    """Return the bound and the modules that have a ``set_epoch``: levels, temperatures, a bound's J."""
    modules = {id(part): part for root in trained.modules.values() for part in root.modules()}
    return [part for part in (bound, *modules.values()) if callable(getattr(part, "set_epoch", None))]


def left_out(trained: Trained) -> str:
    """Return the warning about parameters of model and guide that are not trained."""
    names = trained.left_out
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return (
        f"not trained: {shown}, which no param statement announces; call pyro.module to train them, or "
        "requires_grad_(False) to leave them as they are"
    )
