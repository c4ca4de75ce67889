"""The level of a corruption: a rate or a scale, fixed, scheduled or learned."""

from __future__ import annotations

import math

import torch
from pyro.poutine.util import is_validation_enabled
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_dvae import checks
from pyro_dvae.corruptions.schedules import Schedule
from pyro_dvae.errors import InputError
from pyro_dvae.registration import Module


def constrain(raw: Tensor, minimum: float, maximum: float) -> Tensor:
    """Return the level of an unconstrained value.

    ``minimum + (maximum - minimum) * sigmoid(raw)`` for a rate, ``minimum + softplus(raw)`` for a scale
    (``maximum`` infinite).
    """
    if math.isinf(maximum):
        return minimum + softplus(raw)
    return minimum + (maximum - minimum) * torch.sigmoid(raw)


class Level(Module):
    """A rate in [0, 1] or a scale in [0, ∞): a scalar, or one value per element of the datum.

    A learned level stays above ``minimum``: it is :func:`constrain` of its parameter ``raw``. A fixed or
    scheduled one is a buffer that is changed in place, so recorded and compiled steps see the change. A
    tensor that wants a gradient (``pyro.param(...)``, say) is used as it is and gets its gradient.

    :param argument: the name of the level, for error messages.
    :param value: a number, a tensor that broadcasts against an observation, or a :class:`Schedule`.
    :param learnable: whether ``value`` is only the start of a learned parameter.
    :param minimum: the lower limit of a learned level.
    :param maximum: 1 for a rate, infinity for a scale.
    """

    value: Tensor

    def __init__(
        self,
        argument: str,
        value: float | Tensor | Schedule,
        *,
        learnable: bool = False,
        minimum: float = 0.0,
        maximum: float = 1.0,
    ) -> None:
        super().__init__()
        self.argument = argument
        self.learnable = checks.flag("learnable", learnable)
        self.minimum = checks.number("minimum", minimum, 0.0, maximum)
        self.maximum = maximum
        self.schedule = value if isinstance(value, Schedule) else None
        if isinstance(value, Schedule):
            if learnable:
                raise InputError(f"{argument}: a level is either scheduled or learned, got both")
            for level in value.levels():
                checks.number(argument, level, 0.0, maximum)
            start = torch.tensor(float(value(0)))
        elif isinstance(value, Tensor):
            start = self._checked_tensor(value)
        else:
            start = torch.tensor(checks.number(argument, value, 0.0, maximum))
        if learnable:
            self.raw = nn.Parameter(self._unconstrain(start))
        elif start.requires_grad:
            self.value = start
        else:
            self.register_buffer("value", start)

    def _checked_tensor(self, value: Tensor) -> Tensor:
        live = value.requires_grad
        if live and self.learnable:
            raise InputError(
                f"{self.argument}: a tensor that requires a gradient is learned as it is; leave learnable out"
            )
        if not live:
            value = value.detach().clone()
        if not value.is_floating_point():
            value = value.to(torch.get_default_dtype())
        if not live or is_validation_enabled():
            checks.finite(self.argument, value)
            low, high = float(value.detach().min()), float(value.detach().max())
            if low < 0 or high > self.maximum:
                raise InputError(
                    f"{self.argument}: expected values in [0, {self.maximum:g}], "
                    f"got the range [{low:g}, {high:g}]"
                )
        return value

    def _unconstrain(self, start: Tensor) -> Tensor:
        if not bool(((start > self.minimum) & (start < self.maximum)).all()):
            raise InputError(
                f"{self.argument}: a learned level must start inside ({self.minimum:g}, {self.maximum:g}), "
                f"got the range [{float(start.min()):g}, {float(start.max()):g}]"
            )
        if math.isinf(self.maximum):
            above = start - self.minimum
            return above + torch.log(-torch.expm1(-above))
        return torch.logit((start - self.minimum) / (self.maximum - self.minimum))

    def set_epoch(self, epoch: float) -> None:
        """Move a scheduled level to its value at ``epoch``; others stay."""
        if self.schedule is not None:
            self.value.fill_(self.schedule(epoch))

    def forward(self, x: Tensor | None = None) -> Tensor:
        """Return the level now, whatever the data ``x``; differentiable where it is learned."""
        if not self.learnable:
            return self.value
        return constrain(self.raw, self.minimum, self.maximum)
