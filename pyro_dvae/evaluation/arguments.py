"""What a model and a guide are called with: rows that are cut together, and what is passed whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.errors import InputError
from pyro_dvae.programs.draws import Draws
from pyro_dvae.programs.observations import shared


@contextmanager
def rows_of(count: int, total: int) -> Iterator[None]:
    """Turn what programs raise on a part of the rows into one sentence.

    :param count: rows at a time.
    :param total: rows in all.
    """
    try:
        yield
    except (InputError, Warning):
        raise
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        advice = "they must run on any number of rows"
        if count < total:
            advice += (
                "; a guide with parameters for each observation (an AutoGuide of local latents) does not"
            )
        raise InputError(
            f"model, guide: they fail on {count} of {total} rows at a time ({reason}); {advice}"
        ) from error


def why_shared(draws: Draws) -> str:
    """Return why the sites have no plate of the observations in common, with the remedy, or nothing."""
    reason = shared(draws)
    if reason is None:
        return ""
    latents = {site["name"] for site in draws.counted_sites() if not site["is_observed"]}
    remedy = ""
    joint = [site["name"] for site in draws.counted_sites() if site["infer"].get("is_auxiliary")]
    if any(repr(name) in reason for name in joint):
        remedy = "; an AutoGuide that keeps the plates (AutoNormal) has a density for each observation"
    elif " outside of plate " in reason and any(repr(name) in reason for name in latents):
        remedy = (
            "; latents that all observations share (the weights of a network) are integrated over by "
            "pyro_dvae.models.bayes.PredictiveModel"
        )
    return f"; {reason}{remedy}"


@dataclass(frozen=True)
class Arguments:
    """Positional arguments are data, tensors of N rows each, cut together; keyword ones are passed whole.

    :param rows: x first, shapes [N, ...].
    """

    rows: tuple[Tensor, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def checked(cls, x: Any, others: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Arguments:
        """Return the arguments of a front door, or refuse what has not the rows of ``x``."""
        count = len(checks.data("data", x))
        for number, other in enumerate(others, start=1):
            shape = tuple(other.shape) if isinstance(other, Tensor) else type(other).__name__
            if not isinstance(other, Tensor) or other.shape[:1] != (count,):
                raise InputError(
                    f"positional argument {number} after data: expected a tensor with its {count} rows, "
                    f"with which it is cut, got {shape}; give by keyword what is passed on whole"
                )
        return cls((x.detach(), *(other.detach() for other in others)), kwargs)

    @property
    def x(self) -> Tensor:
        """The data."""
        return self.rows[0]

    def __len__(self) -> int:
        """Return N."""
        return len(self.x)

    def __getitem__(self, rows: slice | Tensor) -> Arguments:
        """Return the arguments of some of the rows."""
        if isinstance(rows, Tensor):
            return Arguments(tuple(each[rows.to(each.device)] for each in self.rows), self.kwargs)
        return Arguments(tuple(each[rows] for each in self.rows), self.kwargs)

    def split(self, size: int) -> Iterator[Arguments]:
        """Yield the arguments of ``size`` rows after the other."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def of(self, x: Tensor) -> Arguments:
        """Return the arguments with other data in the place of ``x``."""
        return Arguments((x, *self.rows[1:]), self.kwargs)

    def call(self, program: Callable[..., Any]) -> Any:
        """Return what a program returns for them."""
        return program(*self.rows, **self.kwargs)

    def tensors(self) -> list[Tensor]:
        """Return all that are tensors, keyword arguments included."""
        return [*self.rows, *(each for each in self.kwargs.values() if isinstance(each, torch.Tensor))]
