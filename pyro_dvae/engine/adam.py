"""Adam and AdamW as tensor operations on the state of torch's own optimizers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer

from pyro_dvae.internals import add_one, step_hooks

_STATE = ("step", "exp_avg", "exp_avg_sq")
_CLIP_GUARD = 1e-6  # added by torch to the norm of a clipped gradient


@dataclass(frozen=True)
class Slot:
    """One parameter with its optimizer's state and settings.

    :param optimizer: torch's optimizer.
    :param parameter: the leaf, updated in place.
    :param group: the optimizer's parameter group, whose ``lr``, ``betas`` and ``weight_decay`` are read at
        every step, because schedules change them.
    :param place: index of the group in the optimizer's list.
    :param state: the optimizer's own ``step``, ``exp_avg`` and ``exp_avg_sq``.
    :param decoupled: AdamW's weight decay instead of Adam's.
    :param clip_norm: largest norm of this parameter's gradient, as Pyro's optimizers clip.
    :param clip_value: largest absolute value of an element of the gradient.
    """

    optimizer: Optimizer
    parameter: Tensor
    group: dict[str, Any]
    place: int
    state: dict[str, Any]
    decoupled: bool
    clip_norm: float | None = None
    clip_value: float | None = None

    @property
    def frozen(self) -> tuple[Any, ...]:
        """The settings that a compiled step treats as constants."""
        return (self.group["eps"], self.decays, step_hooks(self.optimizer))

    @property
    def decays(self) -> bool:
        """Whether it has weight decay."""
        return bool(self.group["weight_decay"])

    @property
    def present(self) -> bool:
        """Whether this is still the optimizer's state; loading a state replaces it."""
        optimizer = self.optimizer
        return (
            optimizer.state.get(self.parameter) is self.state
            and optimizer.param_groups[self.place] is self.group
        )

    @property
    def count(self) -> Tensor:
        """The live number of steps taken."""
        count: Tensor = self.state["step"]
        return count

    @property
    def moments(self) -> tuple[Tensor, Tensor]:
        """The live mean and mean square of the gradients."""
        return self.state["exp_avg"], self.state["exp_avg_sq"]


def slot(
    optimizer: Optimizer, parameter: Tensor, clip_norm: float | None = None, clip_value: float | None = None
) -> Slot | None:
    """Return the slot of a parameter, or None if its optimizer is not plain Adam or has no state of it."""
    if type(optimizer) not in (Adam, AdamW) or parameter.is_complex():
        return None
    groups = enumerate(optimizer.param_groups)
    place, group = next((n, g) for n, g in groups if any(p is parameter for p in g["params"]))
    state = optimizer.state.get(parameter, {})
    if step_hooks(optimizer) or not (_plain(group) and set(_STATE) <= state.keys()):
        return None
    decoupled = isinstance(optimizer, AdamW) or bool(group.get("decoupled_weight_decay"))
    return Slot(optimizer, parameter, group, place, state, decoupled, clip_norm, clip_value)


def _plain(group: dict[str, Any]) -> bool:
    """Return whether a group has Adam's own step, without variants, and numbers as options."""
    variants = ("amsgrad", "maximize", "capturable", "differentiable")
    tensors = any(isinstance(value, Tensor) for value in (group["lr"], *group["betas"]))
    return not (tensors or any(group.get(name) for name in variants))


def start(optimizer: Optimizer) -> None:
    """Give parameters without a state the first state of torch's Adam, except in groups with variants."""
    for group in filter(_plain, optimizer.param_groups):
        for parameter in group["params"]:
            if not optimizer.state.get(parameter):
                device = parameter.device if group.get("fused") else torch.device("cpu")
                moments = {name: torch.zeros_like(parameter, requires_grad=False) for name in _STATE[1:]}
                count = torch.zeros((), dtype=torch.float32, device=device)
                optimizer.state[parameter] = {"step": count} | moments


OPTIONS, SIZES = 4, 7  # numbers of a slot: of step_options, and of a step's sizes
IDLE = (0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0)  # sizes of a step that changes nothing


def step_options(group: Mapping[str, Any]) -> tuple[float, ...]:
    """Return what schedules change in a group of parameters: rate, β₁, β₂ and weight decay."""
    return (float(group["lr"]), *group["betas"], group["weight_decay"])


def _sizes(options: Iterable[Any], time: Any) -> tuple[Any, ...]:
    """Return rate, rate / (1 − β₁ᵗ), 1 / √(1 − β₂ᵗ), 1 − β₁, β₂, 1 − β₂ and decay.

    ``options`` are those of :func:`step_options`, and ``time`` is t, as numbers or tensors.
    """
    rate, first, second, decay = options
    corrected, root = rate / (1 - first**time), (1 - second**time) ** -0.5
    return rate, corrected, root, 1 - first, second, 1 - second, decay


class StepSizes:
    """Computes what a step needs besides the gradients, from rates, betas and the numbers of steps.

    Not in the compiled code, which would repeat the powers for every few elements.

    :param counts: the live numbers of steps taken, of every slot [...].
    :param dtype: type of the result.
    """

    def __init__(self, counts: Sequence[Tensor], dtype: torch.dtype) -> None:
        self._counts, self._type = list(counts), dtype

    def __call__(self, options: Tensor) -> Tensor:
        """Return the sizes of the next step, computed in double precision, as by torch's optimizers.

        :param options: :func:`step_options` in double precision, [..., slots, 4].
        :returns: [..., slots, 7].
        """
        time = torch.stack(self._counts, dim=-1).double() + 1
        return torch.stack(_sizes(options.unbind(-1), time), dim=-1).to(self._type)

    def replace(self, place: int, given: list[Tensor]) -> list[Tensor]:
        """Return the arguments with the options at ``place`` replaced by step sizes; count the step."""
        sizes = self(given[place])
        self.advance()
        return [*given[:place], sizes, *given[place + 1 :]]

    def advance(self) -> None:
        """Count a step."""
        add_one(self._counts)


class HostStepSizes:
    """Computes step sizes for one model whose counts are on the CPU and read without waiting.

    :param slots: the parameters with their states.
    :param general: computes them if options or counts differ between the slots.
    :param dtype: type of the result.
    """

    def __init__(self, slots: Sequence[Slot], general: StepSizes, dtype: torch.dtype) -> None:
        self._slots, self._general = slots, general
        # The same memory, which NumPy reads and writes in a tenth of the time.
        self._counts = [each.count.numpy() for each in slots]
        self._groups = list({id(each.group): each.group for each in slots}.values())
        self._rows = torch.empty(len(slots), SIZES, dtype=dtype)
        self._as_array = self._rows.numpy()

    def __call__(self) -> Tensor:
        """Return the step sizes, in memory that the next call overwrites."""
        options = {step_options(group) for group in self._groups}
        times = [count.item() for count in self._counts]
        if len(options) == 1 and len(set(times)) == 1:
            self._as_array[:] = _sizes(options.pop(), times[0] + 1)
            return self._rows
        return self._rows.copy_(self._general(torch.tensor(_options_of(self._slots), dtype=torch.float64)))

    def advance(self) -> None:
        """Count a step."""
        for count in self._counts:
            count[()] = count.item() + 1  # in a fifth of the time of += 1


def _options_of(slots: Sequence[Slot]) -> list[tuple[float, ...]]:
    return [step_options(each.group) for each in slots]


class Adams:
    """Parameters with their states of Adam: the first inputs of compiled steps, which change them in place.

    torch's optimizers keep the counts of steps on the CPU unless they are fused or capturable. They are no
    inputs of the compiled step, because a CUDA graph can contain nothing on the CPU. Counts on the CPU are
    read and advanced there; others are read and advanced by ``before``, within the CUDA graph.

    :param slots: one for each parameter.
    :param others: further inputs that are always the same tensors.
    """

    def __init__(self, slots: Sequence[Slot], others: Sequence[Tensor] = ()) -> None:
        self.slots = tuple(slots)
        self.leaves = tuple(each.parameter for each in slots)
        self._frozen = tuple(each.frozen for each in slots)
        self.fixed = [leaf.detach() for leaf in self.leaves]
        self.fixed += [*[tensor for each in slots for tensor in each.moments], *others]
        wide = any(leaf.dtype == torch.float64 for leaf in self.leaves)
        dtype = torch.float64 if wide else torch.float32
        counts = [each.count for each in slots]
        self._sizes = StepSizes(counts, dtype)
        self._host = HostStepSizes(slots, self._sizes, dtype) if counts[0].is_cpu else None
        self._options: tuple[list[tuple[float, ...]], Tensor] = ([], torch.empty(0))

    def valid(self) -> bool:
        """Whether parameters, states and settings of the optimizer are unchanged."""
        return same_memory(self.leaves, self.fixed[: len(self.leaves)]) and all(
            each.present and each.frozen == frozen
            for each, frozen in zip(self.slots, self._frozen, strict=True)
        )

    def example(self) -> list[Tensor]:
        """Return the first inputs of the graph: the fixed ones and step sizes."""
        given = self.given()
        return given if self._host is not None else [*self.fixed, self._sizes(given[-1])]

    def given(self) -> list[Tensor]:
        """Return the first arguments of the step: the fixed ones, and step sizes or options."""
        device = self.fixed[0].device
        if self._host is not None:
            sizes = self._host()
            # From pageable memory, which CUDA has copied when the call returns.
            return [*self.fixed, sizes if device.type == "cpu" else sizes.to(device, non_blocking=True)]
        options = _options_of(self.slots)
        if options != self._options[0]:
            self._options = (options, torch.tensor(options, dtype=torch.float64, device=device))
        return [*self.fixed, self._options[1]]

    @property
    def before(self) -> Callable[[list[Tensor]], list[Tensor]] | None:
        """What makes the inputs of the graph from :meth:`given`; None if they are the same."""
        return None if self._host is not None else partial(self._sizes.replace, len(self.fixed))

    def advance(self) -> None:
        """Count a step that was taken, if that is the host's task."""
        if self._host is not None:
            self._host.advance()


def same_memory(leaves: Sequence[Tensor], before: Sequence[Tensor]) -> bool:
    """Whether parameters still use the same memory; ``parameter.data = ...`` replaces it."""
    return all(a.data_ptr() == b.data_ptr() for a, b in zip(leaves, before, strict=True))


def update(
    slots: Sequence[Slot],
    leaves: Sequence[Tensor],
    moments: Sequence[Sequence[Tensor]],
    gradients: Sequence[Tensor],
    sizes: Tensor,
) -> None:
    """Take one step in place (Kingma and Ba 2015; Loshchilov and Hutter 2019).

    :param slots: the settings.
    :param leaves: the parameters, in the order of the slots.
    :param moments: mean and mean square of the gradients of each.
    :param gradients: of the leaves.
    :param sizes: of :class:`StepSizes`, [slots, 7].
    """
    for index, (each, parameter, (mean, square)) in enumerate(zip(slots, leaves, moments, strict=True)):
        gradient = _clipped(gradients[index], each)
        rate, corrected, root, new, old_square, new_square, decay = sizes[index].to(parameter.dtype).unbind()
        if each.decays and each.decoupled:
            parameter.mul_(1 - rate * decay)
        elif each.decays:
            gradient = gradient + decay * parameter
        # Operations that vmap supports; torch's own lerp_ and addcmul_ differ only by rounding.
        mean.add_((gradient - mean) * new)
        square.mul_(old_square).add_(gradient * gradient * new_square)
        parameter.sub_(corrected * (mean / (square.sqrt() * root + each.group["eps"])))


def clipped_together(gradients: Sequence[Tensor], limit: float) -> list[Tensor]:
    """Return the gradients scaled to a joint norm of at most ``limit``, as torch clips."""
    norms = torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients])
    factor = torch.clamp(limit / (torch.linalg.vector_norm(norms) + _CLIP_GUARD), max=1.0)
    return [gradient * factor.to(gradient.dtype) for gradient in gradients]


def _clipped(gradient: Tensor, each: Slot) -> Tensor:
    if each.clip_norm is not None:
        gradient = clipped_together([gradient], each.clip_norm)[0]
    if each.clip_value is not None:
        gradient = gradient.clamp(-each.clip_value, each.clip_value)
    return gradient
