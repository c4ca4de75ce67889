"""A drop-in for ``pyro.infer.SVI`` whose whole step is recorded once and compiled."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import SVI
from pyro.infer.util import torch_item, zero_grads
from pyro.optim import PyroOptim
from pyro.util import warn_if_nan
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map, tree_unflatten

from pyro_dvae.compiled.adam import STATE, Slot, slot, update
from pyro_dvae.compiled.gradient import RecordedGradient, record_gradient
from pyro_dvae.recording import NoCompiler, Unrecordable, compiling, fast_products
from pyro_dvae.training.parameters import discover, modules_of, unconstrained

_Key = tuple[Any, ...]
_BACKEND = "inductor"


@dataclass
class _Shape:
    """What is known of the calls of one shape.

    :param leaves: the unconstrained parameters that its last ordinary step had, by name; None before one.
    :param fast: the compiled step, once there is one.
    :param plain: whether it has been found that there is none.
    """

    leaves: dict[str, Tensor] | None = None
    fast: _FastStep | None = None
    plain: bool = False


@dataclass(frozen=True)
class _FastStep:
    """A compiled step, and what must not have been replaced since: parameters and optimizer states."""

    run: Callable[[list[Tensor]], Tensor]
    stored: dict[str, Tensor]
    slots: tuple[Slot, ...]
    frozen: tuple[Any, ...]

    def valid(self) -> bool:
        """Whether it still acts on the parameters in the store and on the optimizer's own state."""
        store = pyro.get_param_store()._params
        return (
            all(store.get(name) is leaf for name, leaf in self.stored.items())
            and all(each.present for each in self.slots)
            and tuple(each.frozen for each in self.slots) == self.frozen
        )


class CompiledSVI(SVI):
    """``pyro.infer.SVI`` with the whole step, optimizer included, recorded and compiled.

    The constructor, ``step`` and ``evaluate_loss`` are SVI's, and so, under one seed, are losses and
    parameters, up to rounding. The first step of each shape of the arguments is an ordinary one: it finds
    the parameters and starts the optimizer. The second records loss and gradient as a graph of tensor
    operations and compiles it with the update of Adam or AdamW; with another optimizer the gradient alone.
    The param store, the modules and the optimizer's state stay the truth after every step: they are changed
    in place, so schedules, checkpoints and ordinary steps in between work.

    Tensors among the arguments may change between steps; anything else among them is part of the shape, and
    what the program takes from elsewhere (numbers, flags) is frozen as it was at the recording. A program
    that cannot be recorded (control flow on values, enumeration) runs in ordinary steps, with one warning.

    :param model: Pyro model.
    :param guide: Pyro guide.
    :param optim: a ``pyro.optim`` optimizer.
    :param loss: an ELBO, or a loss function.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        optim: PyroOptim,
        loss: Any,
        loss_and_grads: Callable[..., Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, guide, optim, loss, loss_and_grads=loss_and_grads, **kwargs)
        self._shapes: dict[_Key, _Shape] = {}
        self._warned = False

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """Take one step on the loss; return it (for Pyro's ELBOs the negative bound, summed; nats)."""
        leaves, spec = tree_flatten((args, kwargs))
        shape = self._shapes.setdefault(self._key(leaves, spec), _Shape())
        if shape.fast is not None and not shape.fast.valid():
            shape.fast, shape.leaves = None, None
        if shape.leaves is None or shape.plain:
            return self._ordinary(shape, args, kwargs)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if shape.fast is not None:
            return self._value_of(shape.fast.run(tensors))
        try:
            fast = self._compile(shape.leaves, leaves, spec, tensors)
            loss = fast.run(tensors)
        except (Unrecordable, NoCompiler) as error:
            shape.plain = True
            self._warn(f"training by ordinary steps, which are slower: {error}")
            return self._ordinary(shape, args, kwargs)
        shape.fast = fast
        return self._value_of(loss)

    def _value_of(self, loss: Tensor) -> Any:
        value = torch_item(loss)
        warn_if_nan(value, "loss")
        return value

    def _key(self, leaves: list[Any], spec: TreeSpec) -> _Key:
        described = tuple(
            (tuple(leaf.shape), leaf.dtype, leaf.device) if isinstance(leaf, Tensor) else _value(leaf)
            for leaf in leaves
        )
        modes = tuple(
            part.training
            for module in modules_of(self.model, self.guide).values()
            for part in module.modules()
        )
        return spec, described, modes

    def _ordinary(self, shape: _Shape, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with poutine.trace(param_only=True) as capture:
            loss = super().step(*args, **kwargs)
        shape.leaves = {name: unconstrained(site["value"]) for name, site in capture.trace.nodes.items()}
        return loss

    def _compile(
        self, named: dict[str, Tensor], leaves: list[Any], spec: TreeSpec, tensors: list[Tensor]
    ) -> _FastStep:
        def loss_and_grads(*given: Tensor) -> Any:
            rest = iter(given)
            filled = [next(rest) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            args, kwargs = tree_unflatten(filled, spec)
            return self.loss_and_grads(self.model, self.guide, *args, **kwargs)

        unique = list({id(leaf): leaf for leaf in named.values()}.values())
        found: list[RecordedGradient] = []
        self._leaving_buffers(lambda: found.append(record_gradient(loss_and_grads, unique, tensors)))
        gradient = found[0]
        store = pyro.get_param_store()._params
        stored = {name: leaf for name, leaf in named.items() if store.get(name) is leaf}
        slots = tuple(each for leaf in gradient.leaves if (each := self._slot(leaf)) is not None)
        if len(slots) < len(gradient.leaves):
            return _FastStep(self._gradient_step(gradient, tensors), stored, (), ())
        return _FastStep(
            self._whole_step(gradient, slots, tensors), stored, slots, tuple(each.frozen for each in slots)
        )

    def _slot(self, leaf: Tensor) -> Slot | None:
        optimizer = self.optim.optim_objs.get(leaf)
        if optimizer is None:
            return None
        return slot(getattr(optimizer, "optimizer", optimizer), leaf, **self.optim._get_grad_clip_args(leaf))

    def _whole_step(
        self, gradient: RecordedGradient, slots: tuple[Slot, ...], tensors: list[Tensor]
    ) -> Callable[[list[Tensor]], Tensor]:
        def whole(
            leaves: list[Tensor], states: list[dict[str, Tensor]], rates: Tensor, tensors: list[Tensor]
        ) -> Tensor:
            loss, *gradients = gradient.graph(leaves, tensors)
            update(slots, leaves, states, gradients, rates)
            return loss

        leaves = [leaf.detach() for leaf in gradient.leaves]
        states = [{name: each.state[name] for name in STATE} for each in slots]
        fast = _compiled(self._recorded(whole, leaves, states, _rates(slots), tensors))

        def run(tensors: list[Tensor]) -> Tensor:
            result: Tensor = fast(leaves, states, _rates(slots), tensors)
            return result

        return run

    def _gradient_step(
        self, gradient: RecordedGradient, tensors: list[Tensor]
    ) -> Callable[[list[Tensor]], Tensor]:
        leaves = list(gradient.leaves)
        detached = [leaf.detach() for leaf in leaves]
        fast = _compiled(gradient.graph)

        def run(tensors: list[Tensor]) -> Tensor:
            loss, *gradients = fast(detached, tensors)
            for leaf, value in zip(leaves, gradients, strict=True):
                leaf.grad = value
            with torch.enable_grad():
                self.optim(leaves)
            zero_grads(leaves)
            result: Tensor = loss
            return result

        return run

    def _recorded(self, function: Callable[..., Tensor], *example: Any) -> GraphModule:
        """Record a step on copies, so that it takes none."""
        copies = tree_map(lambda value: value.clone() if isinstance(value, Tensor) else value, example)
        recorded = []

        def run() -> None:
            with torch.no_grad():
                recorded.append(make_fx(function, tracing_mode="real")(*copies))

        self._leaving_buffers(run)
        return recorded[0]

    def _leaving_buffers(self, run: Callable[[], None]) -> None:
        """Run, with random streams and the buffers of all modules afterwards as they were."""
        discover(self.model, self.guide, run, required=False)

    def _warn(self, message: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(message, stacklevel=3)


def _compiled(graph: GraphModule) -> Callable[..., Any]:
    """Return the graph, to be compiled when it is first called."""
    fast = torch.compile(graph, fullgraph=True, dynamic=False, backend=_BACKEND)
    compiled = False

    def run(*args: Any) -> Any:
        nonlocal compiled
        if compiled:
            with torch.no_grad(), fast_products():
                return fast(*args)
        with compiling(), fast_products():
            result = fast(*args)
        compiled = True
        return result

    return run


def _rates(slots: tuple[Slot, ...]) -> Tensor:
    return torch.tensor([each.group["lr"] for each in slots], dtype=torch.float64).to(
        slots[0].parameter.device
    )


def _value(leaf: Any) -> Any:
    try:
        hash(leaf)
    except TypeError:
        return type(leaf), id(leaf)
    return type(leaf), leaf
