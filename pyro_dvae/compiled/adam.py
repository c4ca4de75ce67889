"""Adam and AdamW as tensor operations on the state that torch's own optimizers keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer

STATE = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Slot:
    """One parameter with its optimizer's state and settings; the step size is read anew at every step.

    :param optimizer: torch's optimizer.
    :param parameter: the leaf, updated in place.
    :param group: the optimizer's parameter group, whose ``lr`` schedules change.
    :param state: the optimizer's own ``step``, ``exp_avg`` and ``exp_avg_sq``.
    :param decoupled: AdamW's weight decay instead of Adam's.
    :param clip_norm: largest norm of the gradient, as Pyro's optimizers clip, each parameter for itself.
    :param clip_value: largest absolute value of an element of the gradient.
    """

    optimizer: Optimizer
    parameter: Tensor
    group: dict[str, Any]
    state: dict[str, Any]
    decoupled: bool
    clip_norm: float | None = None
    clip_value: float | None = None

    @property
    def frozen(self) -> tuple[Any, ...]:
        """The settings that a compiled step has built in."""
        return (self.group["betas"], self.group["eps"], self.group["weight_decay"])

    @property
    def present(self) -> bool:
        """Whether this is still the optimizer's state; loading another one replaces it."""
        groups = self.optimizer.param_groups
        return self.optimizer.state.get(self.parameter) is self.state and any(g is self.group for g in groups)


def slot(
    optimizer: Optimizer, parameter: Tensor, clip_norm: float | None = None, clip_value: float | None = None
) -> Slot | None:
    """Return the slot of a parameter that its optimizer has stepped at least once, or None if it is no Adam.

    Variants of Adam (amsgrad, maximize, capturable, ...) are none.
    """
    if type(optimizer) not in (Adam, AdamW):
        return None
    group = next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
    state = optimizer.state.get(parameter, {})
    plain = not any(group.get(name) for name in ("amsgrad", "maximize", "capturable", "differentiable"))
    numbers = not any(isinstance(value, Tensor) for value in (group["lr"], *group["betas"]))
    if not (plain and numbers and set(STATE) <= state.keys()):
        return None
    decoupled = isinstance(optimizer, AdamW) or bool(group.get("decoupled_weight_decay"))
    return Slot(optimizer, parameter, group, state, decoupled, clip_norm, clip_value)


def update(
    slots: Sequence[Slot],
    leaves: Sequence[Tensor],
    states: Sequence[dict[str, Tensor]],
    gradients: Sequence[Tensor],
    rates: Tensor,
) -> None:
    """Make one step in place (Kingma and Ba 2015; Loshchilov and Hutter 2019).

    :param slots: the settings.
    :param leaves: the parameters, in the order of the slots.
    :param states: the optimizers' states.
    :param gradients: of the leaves.
    :param rates: step sizes, [slots].
    """
    for index, (each, parameter, state) in enumerate(zip(slots, leaves, states, strict=True)):
        first, second = each.group["betas"]
        gradient, rate = _clipped(gradients[index], each), rates[index].to(parameter.dtype)
        step, mean, square = (state[name] for name in STATE)
        step.add_(1)
        # In double precision, as torch's optimizers do it in Python.
        count = step.double()
        corrected = (1 - first**count).to(parameter.dtype)
        root_corrected = (1 - second**count).sqrt().to(parameter.dtype)
        decay = each.group["weight_decay"]
        if decay and each.decoupled:
            parameter.mul_(1 - rate * decay)
        elif decay:
            gradient = gradient + decay * parameter
        mean.lerp_(gradient, 1 - first)
        square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        parameter.sub_(rate / corrected * (mean / (square.sqrt() / root_corrected + each.group["eps"])))


def _clipped(gradient: Tensor, each: Slot) -> Tensor:
    if each.clip_norm is not None:
        norm = torch.linalg.vector_norm(gradient)
        gradient = gradient * torch.clamp(each.clip_norm / (norm + 1e-6), max=1.0)
    if each.clip_value is not None:
        gradient = gradient.clamp(-each.clip_value, each.clip_value)
    return gradient
