"""A drop-in replacement of ``pyro.infer.SVI`` whose whole step is recorded once and compiled."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from pyro.infer import ELBO, SVI
from pyro.infer.util import torch_item, zero_grads
from pyro.optim import PyroOptim
from pyro.util import warn_if_nan
from torch import Tensor, nn

from pyro_dvae import checks
from pyro_dvae.engine.adam import Slot, slot
from pyro_dvae.engine.following import BuiltIn
from pyro_dvae.engine.recordings import Recordings, Step
from pyro_dvae.engine.step import NOISES, CompiledGradient, CompiledStep, Gradient, Numerics
from pyro_dvae.errors import warn
from pyro_dvae.internals import add_waiting_state, clip, clip_arguments
from pyro_dvae.programs.statements import Statements, why_untrained
from pyro_dvae.registration import make_picklable


class CompiledSVI(SVI):
    """``pyro.infer.SVI`` with the whole step, optimizer included, recorded and compiled.

    The constructor, ``step`` and ``evaluate_loss`` are those of SVI. Under one seed, losses and parameters
    equal SVI's up to rounding. The first step for each shape of the arguments runs uncompiled: it finds the
    parameters and starts the optimizer. The second step records loss and gradient as a graph of tensor
    operations and compiles it together with the update of Adam or AdamW; with other optimizers, only the
    gradient is compiled. Every step changes the param store, the modules and the optimizer's state in place,
    so schedules, checkpoints and uncompiled steps in between work.

    Tensor and floating-point arguments may change between steps, and tensors elsewhere may be changed in
    place. Everything else that the programs read (numbers, flags, objects; in attributes, closures, globals,
    containers) is found while they run and compared before every step. If a value has changed, the step is
    recorded again, up to 16 times; the first recording is compiled at once, others after 1,000 steps. If a
    program cannot be recorded (control flow on values, enumeration, its own counters, draws from Python's
    ``random``), its steps run uncompiled, with one warning that gives the reason. The same holds for steps
    inside effect handlers or autocast, and if there is no compiler. From time to time a compiled step is
    compared with the program; if they differ, :class:`CompiledStepError` shows the difference.

    An object can be pickled and deep-copied, also after use, with model, guide, loss, options, and the
    optimizer with its state. A copy continues with the same losses under the same seed and records its steps
    again. It does not contain parameters in Pyro's param store or the state of torch's generator. It finds
    the optimizer's state of parameters in the store by name, and has its own optimizer, ``copy.optim``.

    On a GPU, a step is captured in a CUDA graph. ``step`` waits for its loss, as SVI's does; ``advance`` does
    not.

    :param model: Pyro model.
    :param guide: Pyro guide.
    :param optim: a ``pyro.optim`` optimizer.
    :param loss: an ELBO, or a loss function.
    :param generator: "torch" for the random numbers that SVI would draw; "hashed" for numbers of the same
        distributions that cost less (:mod:`pyro_dvae.engine.hashed_noise`), from the same global seed;
        "threefry" for JAX's generator.
    :param bfloat16: round the factors of the matrix products to bfloat16; the weights stay in float32.
    :param say: called with a message when a step has been compiled; by default it prints to stderr.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        optim: PyroOptim,
        loss: Any,
        loss_and_grads: Callable[..., Any] | None = None,
        *,
        generator: str = "torch",
        bfloat16: bool = False,
        say: Callable[[str], object] | None = None,
        **kwargs: Any,
    ) -> None:
        checks.pair(model, guide)
        checks.instance("optim", optim, PyroOptim, "an optimizer of pyro.optim")
        if isinstance(loss, ELBO | type) or not callable(loss):
            checks.elbo("loss", loss)
        checks.optional(checks.program, "loss_and_grads", loss_and_grads)
        checks.optional(checks.program, "say", say)
        if loss_and_grads is None and not isinstance(loss, ELBO):
            loss_and_grads = functools.partial(_with_backward, loss)  # Pyro's own cannot be pickled
        super().__init__(model, guide, optim, loss, loss_and_grads=loss_and_grads, **kwargs)
        self.numerics = Numerics(
            checks.known("generator", generator, NOISES), checks.flag("bfloat16", bfloat16)
        )
        self._ran = False
        programs = (self.model, self.guide, self.loss, self.loss_and_grads)
        self._recordings = Recordings(
            self._of_arguments, programs, self.numerics, self._build, say, steps=True
        )

    def __getstate__(self) -> dict[str, Any]:
        """Store the optimizer's state twice: by modules' parameters, and by the names in the param store."""
        optim = copy.copy(self.optim)
        make_picklable(optim.optim_objs)
        named = {name: state for name, state in optim.get_state().items() if name is not None}
        add_waiting_state(optim, named)
        optim.optim_objs = {p: each for p, each in optim.optim_objs.items() if isinstance(p, nn.Parameter)}
        optim.grad_clip = {p: optim.grad_clip[p] and clip(self.optim, p) for p in optim.optim_objs}
        return vars(self) | {"optim": optim}

    def _of_arguments(self, *args: Any, **kwargs: Any) -> Any:
        return self.loss_and_grads(self.model, self.guide, *args, **kwargs)

    @property
    def constants(self) -> tuple[BuiltIn, ...]:
        """The Python numbers in your code that recorded steps treat as constants, with their lines."""
        return self._recordings.constants

    @property
    def recorded(self) -> int:
        """The number of recorded steps, by shapes of arguments and values that the programs read."""
        return len(self._recordings.all)

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """Take one training step; return the loss (for Pyro's ELBOs the negative bound, summed; nats)."""
        loss = self.advance(*args, **kwargs)
        if isinstance(loss, Tensor) and loss.dim() == 0:
            value = torch_item(loss)
            warn_if_nan(value, "loss")
            return value
        return loss

    def advance(self, *args: Any, **kwargs: Any) -> Any:
        """Take one training step; return its loss as a tensor on its device, without waiting for it.

        An uncompiled step (the first of each shape) returns what SVI does.
        """
        return self._recordings(args, kwargs, lambda: self._ordinary(args, kwargs), self._take)

    def _ordinary(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, bool]:
        """Take the step of SVI, unless the loss is not finite: then no parameter changes."""
        with Statements() as capture:
            loss = self.loss_and_grads(self.model, self.guide, *args, **kwargs)
        if not self._ran:
            self._ran = True
            given = (each.given for each in capture.all)
            if reason := why_untrained(
                capture.all, [p for p in given if getattr(p, "grad", None) is not None]
            ):
                warn(f"model, guide: {reason}")
        leaves = {each.leaf for each in capture.all}
        value = tuple(map(torch_item, loss)) if isinstance(loss, tuple) else torch_item(loss)
        good = all(map(math.isfinite, value if isinstance(value, tuple) else (value,)))
        if good:
            self.optim(leaves)
        zero_grads(leaves)
        return value, good

    def _build(self, gradient: Gradient, inputs: list[Tensor], compiled: bool) -> Step:
        slots = [each for leaf in gradient.leaves if (each := self._slot(leaf)) is not None]
        if slots and len(slots) == len(gradient.leaves):
            return CompiledStep(gradient, slots, inputs, compiled=compiled)
        return CompiledGradient(gradient, inputs, compiled)

    def _slot(self, leaf: Tensor) -> Slot | None:
        optimizer = self.optim.optim_objs.get(leaf)
        if optimizer is None:
            return None
        return slot(getattr(optimizer, "optimizer", optimizer), leaf, **clip_arguments(self.optim, leaf))

    def _take(self, step: Step, tensors: list[Tensor]) -> Tensor:
        if isinstance(step, CompiledStep):
            return step(tensors)
        loss, *gradients = step(tensors)
        good = torch.isfinite(loss).all()
        if good.is_cpu and not good:  # a non-finite loss changes no parameter
            return loss
        for leaf, gradient in zip(step.leaves, gradients, strict=True):
            leaf.grad = torch.where(good, gradient, 0.0)  # without waiting for a GPU
        with torch.enable_grad():
            self.optim(list(step.leaves))
        zero_grads(step.leaves)
        return loss


def _with_backward(loss: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Evaluate a loss function and accumulate its gradients, as ``SVI`` does for functions."""
    value = loss(*args, **kwargs)
    if getattr(value, "requires_grad", False):
        value.backward(retain_graph=True)
    return value
