"""A compiled loss for your own training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.engine.following import BuiltIn
from pyro_dvae.engine.recordings import Recordings, Step
from pyro_dvae.engine.step import NOISES, CompiledGradient, Gradient, Numerics
from pyro_dvae.programs.parameters import modules_of
from pyro_dvae.programs.statements import unconstrained
from pyro_dvae.registration import make_picklable


def compile_loss(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    loss: Any,
    *,
    generator: str = "torch",
    bfloat16: bool = False,
    say: Callable[[str], object] | None = None,
) -> CompiledLoss:
    """Return the loss of model and guide as a function of a batch, recorded and compiled with its gradients.

    For a plain torch loop, Lightning, or any torch optimizer::

        loss = dv.compile_loss(model, guide, dv.TraceDenoising_ELBO())
        loss(batch)                                  # finds the parameters of functions; modules have theirs
        optimizer = torch.optim.RAdam(loss.parameters())
        for batch in batches:
            optimizer.zero_grad()
            loss(batch).backward()
            optimizer.step()

    Gradients are added to ``.grad``, so accumulation, clipping and scaling work as with any torch loss. The
    options, what may change between calls, and what cannot be compiled are as for :class:`CompiledSVI`.

    :param loss: a Pyro ELBO.
    :returns: function of the arguments of model and guide that returns the loss (nats; lower is better).
    """
    checks.pair(model, guide)
    checks.elbo("loss", loss)
    checks.optional(checks.program, "say", say)
    numerics = Numerics(checks.known("generator", generator, NOISES), checks.flag("bfloat16", bfloat16))
    return CompiledLoss(model, guide, loss, numerics, say)


class CompiledLoss:
    """The result of :func:`compile_loss`.

    It can be pickled and deep-copied, with model, guide, bound and options. A copy records again, at its
    second call with a shape, and gives the same losses under the same seed. It does not contain the
    parameters of functions, which are in Pyro's param store, or the state of torch's generator.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        loss: Any,
        numerics: Numerics,
        say: Callable[[str], object] | None,
    ) -> None:
        self.model, self.guide, self.loss = model, guide, loss
        self._leaves: dict[int, Tensor] = {}
        self._recordings = Recordings(
            self._loss_and_grads, (model, guide, loss), numerics, _build, say, steps=False
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the parameters of earlier calls, because a copy has its own."""
        make_picklable(self.parameters())
        return vars(self) | {"_leaves": {}}

    def _loss_and_grads(self, *args: Any, **kwargs: Any) -> Any:
        if not hasattr(self.loss, "differentiable_loss"):
            return self.loss.loss_and_grads(self.model, self.guide, *args, **kwargs)
        loss = self.loss.differentiable_loss(self.model, self.guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        return loss

    @property
    def constants(self) -> tuple[BuiltIn, ...]:
        """The Python numbers in your code that recordings treat as constants, with their lines."""
        return self._recordings.constants

    @property
    def recorded(self) -> int:
        """The number of recorded losses, by shapes of arguments and values that the programs read."""
        return len(self._recordings.all)

    def parameters(self) -> Iterator[Tensor]:
        """Return the unconstrained parameters of the given modules and of all calls so far."""
        found = dict(self._leaves)
        for module in modules_of(self.model, self.guide).values():
            found |= {id(parameter): parameter for parameter in module.parameters()}
        return iter(found.values())

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss of a batch; its ``backward`` adds to the gradients of the parameters."""
        wanted = torch.is_grad_enabled()
        with torch.enable_grad():
            value, leaves, gradients = self._recordings(
                args, kwargs, lambda: (self._ordinary(args, kwargs), True), self._fast
            )
        self._leaves |= {id(leaf): leaf for leaf in leaves}
        if not wanted or not leaves:
            return value
        loss: Tensor = _WithGradients.apply(value, gradients, *leaves)
        return loss

    def _fast(self, step: Step, tensors: list[Tensor]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        assert isinstance(step, CompiledGradient)
        loss, *gradients = step(tensors)
        return loss, list(step.leaves), gradients

    def _ordinary(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Evaluate the program itself, and restore earlier gradients."""
        kept: dict[int, tuple[Tensor, Tensor | None]] = {}

        def start(site: Any) -> None:
            leaf = unconstrained(site["value"])
            if id(leaf) not in kept:
                kept[id(leaf)] = (leaf, leaf.grad)
                leaf.grad = None

        with _BeforeUse(start):
            loss = self._loss_and_grads(*args, **kwargs)
        reached = [leaf for leaf, _ in kept.values() if leaf.grad is not None]
        gradients = [leaf.grad for leaf in reached if leaf.grad is not None]
        for leaf, gradient in kept.values():
            leaf.grad = gradient
        if not isinstance(loss, Tensor):  # the ELBO runs its own backward pass
            loss = torch.tensor(loss, dtype=reached[0].dtype if reached else None)
        return loss.detach(), reached, gradients


def _build(gradient: Gradient, inputs: list[Tensor], compiled: bool) -> Step:
    return CompiledGradient(gradient, inputs, compiled)


class _BeforeUse(poutine.messenger.Messenger):
    """Calls a function with every parameter of a run before it is used."""

    def __init__(self, start: Callable[[Any], None]) -> None:
        super().__init__()
        self._start = start

    def _pyro_post_param(self, message: Any) -> None:
        if isinstance(message["value"], Tensor):
            self._start(message)


class _WithGradients(torch.autograd.Function):
    """A value with known gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], *leaves: Tensor) -> Tensor:
        ctx.save_for_backward(*gradients)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        return None, None, *(outer[0] * gradient for gradient in ctx.saved_tensors)
