"""A drop-in for ``pyro.infer.SVI`` whose whole step is recorded once and compiled."""

from __future__ import annotations

import math
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
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from pyro_dvae import checks
from pyro_dvae.compiled.adam import Slot, slot
from pyro_dvae.compiled.step import NOISES, CompiledGradient, CompiledStep, Gradient, Numerics, record_for
from pyro_dvae.compiled.surroundings import Surroundings
from pyro_dvae.parameters import discover, unconstrained
from pyro_dvae.recording import NoCompiler, Unrecordable

_Key = tuple[Any, ...]
_SHAPES_AT_MOST = 16  # compiled for one object: more would be compiling, not training
_SEEN_AT_MOST = 64  # remembered


@dataclass
class _Shape:
    """What is known of the calls of one shape.

    :param leaves: the unconstrained parameters that its last ordinary step had, by name; None before one.
    :param fast: the compiled step, once there is one.
    :param plain: whether it has been found that there is none.
    """

    leaves: dict[str, Tensor] | None = None
    fast: _Fast | None = None
    plain: bool = False


@dataclass(frozen=True)
class _Fast:
    """A compiled step, and the parameters that must not have been replaced since."""

    run: Callable[[list[Tensor]], Tensor]
    whole: CompiledStep | None
    stored: dict[str, Tensor]

    def valid(self) -> bool:
        """Whether it still acts on the parameters in the store and on the optimizer's own state."""
        store = pyro.get_param_store()._params
        return (self.whole is None or self.whole.valid()) and all(
            store.get(name) is leaf for name, leaf in self.stored.items()
        )


class CompiledSVI(SVI):
    """``pyro.infer.SVI`` with the whole step, optimizer included, recorded and compiled.

    The constructor, ``step`` and ``evaluate_loss`` are SVI's, and so, under one seed, are losses and
    parameters, up to rounding. The first step of each shape of the arguments is an ordinary one: it finds
    the parameters and starts the optimizer. The second records loss and gradient as a graph of tensor
    operations and compiles it with the update of Adam or AdamW; with another optimizer the gradient alone.
    The param store, the modules and the optimizer's state stay the truth after every step: they are changed
    in place, so schedules, checkpoints and ordinary steps in between work.

    Tensors and floating-point numbers among the arguments may change between steps, and tensors elsewhere may
    be changed in place. Anything else among the arguments, and numbers and flags that the programs find in
    attributes, closures and globals, are part of the shape: a step with others is compiled for itself, up to
    16 in all. A program that cannot be recorded (control flow on values, enumeration) runs in ordinary steps,
    with one warning that says why, and so does any where there is no compiler.

    On a GPU a step is captured in a CUDA graph. There ``step`` waits for its loss, as SVI's does; ``advance``
    does not.

    :param model: Pyro model.
    :param guide: Pyro guide.
    :param optim: a ``pyro.optim`` optimizer.
    :param loss: an ELBO, or a loss function.
    :param noise: "torch" for the random numbers that SVI would draw; "hashed" for numbers of the same
        distributions that cost less (:mod:`pyro_dvae.recording.hashed_noise`), from the same global seed;
        "threefry" for JAX's generator.
    :param bfloat16: round the factors of the matrix products to bfloat16; the weights stay in float32.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        optim: PyroOptim,
        loss: Any,
        loss_and_grads: Callable[..., Any] | None = None,
        *,
        noise: str = "torch",
        bfloat16: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, guide, optim, loss, loss_and_grads=loss_and_grads, **kwargs)
        self.numerics = Numerics(checks.known("noise", noise, NOISES), bfloat16)
        self._shapes: dict[_Key, _Shape] = {}
        self._surroundings = Surroundings(self.model, self.guide, self.loss, self.loss_and_grads)
        self._numbers_vary = True
        self._warned = False

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """Take one step on the loss; return it (for Pyro's ELBOs the negative bound, summed; nats)."""
        loss = self.advance(*args, **kwargs)
        if isinstance(loss, Tensor) and loss.dim() == 0:
            value = torch_item(loss)
            warn_if_nan(value, "loss")
            return value
        return loss

    def advance(self, *args: Any, **kwargs: Any) -> Any:
        """Take one step; return its loss as a tensor on its device, so that nothing waits for it.

        An ordinary step (the first of each shape) returns what SVI does.
        """
        leaves, spec = _flat(args, kwargs)
        key = self._key(leaves, spec)
        if key not in self._shapes and len(self._shapes) >= _SEEN_AT_MOST:
            self._warn(
                "training by ordinary steps, which are slower: shapes, numbers or tensors outside of the "
                "arguments keep changing (pass them as arguments, or change tensors in place)"
            )
            return self._ordinary(_Shape(), args, kwargs)
        shape = self._shapes.setdefault(key, _Shape())
        if shape.fast is not None and not shape.fast.valid():
            shape.fast, shape.leaves = None, None
        if shape.fast is not None:
            return shape.fast.run(self._inputs(leaves))
        before = self._surroundings.values()
        try:
            if shape.leaves is None or shape.plain:
                return self._ordinary(shape, args, kwargs)
            shape.fast = self._compile(shape.leaves, leaves, spec)
            return shape.fast.run(self._inputs(leaves))
        except Unrecordable as error:
            if self._numbers_vary and any(isinstance(leaf, float) for leaf in leaves):
                # Perhaps for a number that decides something: then each value is a shape of its own.
                self._numbers_vary = False
                return self.advance(*args, **kwargs)
            return self._give_up(shape, error, args, kwargs)
        except NoCompiler as error:
            return self._give_up(shape, error, args, kwargs)
        finally:
            if self._surroundings.settle(before):  # what the programs change themselves makes no new shape
                self._shapes[self._key(leaves, spec)] = shape

    def _give_up(self, shape: _Shape, error: Exception, args: Any, kwargs: Any) -> Any:
        shape.plain, shape.fast = True, None
        self._warn(f"training by ordinary steps, which are slower: {error}")
        return self._ordinary(shape, args, kwargs)

    def _key(self, leaves: list[Any], spec: TreeSpec | int) -> _Key:
        described = tuple(
            (tuple(leaf.shape), leaf.dtype, leaf.device)
            if isinstance(leaf, Tensor)
            else (float if self._is_number(leaf) else _value(leaf))
            for leaf in leaves
        )
        return spec, described, self._surroundings.values()

    def _is_number(self, leaf: Any) -> bool:
        return self._numbers_vary and type(leaf) is float

    def _inputs(self, leaves: list[Any]) -> list[Tensor]:
        """Return the arguments that may change, as tensors without gaps."""
        inputs = []
        for leaf in leaves:
            if isinstance(leaf, Tensor):
                inputs.append(leaf.detach().contiguous())
            elif self._is_number(leaf):
                # Without dimensions, so that it does not widen what it is combined with.
                inputs.append(torch.tensor(leaf, dtype=torch.float64))
        return inputs

    def _ordinary(self, shape: _Shape, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Take the step of SVI, but for one whose loss is no number: that changes no weight."""
        with poutine.trace(param_only=True) as capture:
            loss = self.loss_and_grads(self.model, self.guide, *args, **kwargs)
        named = {name: unconstrained(site["value"]) for name, site in capture.trace.nodes.items()}
        leaves = set(named.values())
        value = tuple(map(torch_item, loss)) if isinstance(loss, tuple) else torch_item(loss)
        if all(map(math.isfinite, value if isinstance(value, tuple) else (value,))):
            self.optim(leaves)
            shape.leaves = named
        zero_grads(leaves)
        return value

    def _compile(self, named: dict[str, Tensor], leaves: list[Any], spec: TreeSpec | int) -> _Fast:
        if len({id(shape) for shape in self._shapes.values() if shape.fast is not None}) >= _SHAPES_AT_MOST:
            raise Unrecordable(f"the arguments have come in more than {_SHAPES_AT_MOST} shapes")
        found: list[_Fast] = []
        # Recording runs steps: random streams and the buffers of all modules are afterwards as they were.
        discover(
            self.model, self.guide, lambda: found.append(self._recorded(named, leaves, spec)), required=False
        )
        return found[0]

    def _recorded(self, named: dict[str, Tensor], leaves: list[Any], spec: TreeSpec | int) -> _Fast:
        def loss_and_grads(*given: Tensor) -> Any:
            rest = iter(given)
            varying = (isinstance(leaf, Tensor) or self._is_number(leaf) for leaf in leaves)
            filled = [next(rest) if varies else leaf for varies, leaf in zip(varying, leaves, strict=True)]
            args, kwargs = (filled, {}) if isinstance(spec, int) else tree_unflatten(filled, spec)
            return self.loss_and_grads(self.model, self.guide, *args, **kwargs)

        unique = list({id(leaf): leaf for leaf in named.values()}.values())
        inputs = self._inputs(leaves)
        gradient = record_for(loss_and_grads, unique, inputs, self.numerics)
        store = pyro.get_param_store()._params
        stored = {name: leaf for name, leaf in named.items() if store.get(name) is leaf}
        slots = [each for leaf in gradient.leaves if (each := self._slot(leaf)) is not None]
        if slots and len(slots) == len(gradient.leaves):
            whole = CompiledStep(gradient, slots, inputs)
            return _Fast(whole, whole, stored)
        return _Fast(self._with_optimizer(CompiledGradient(gradient, inputs), gradient), None, stored)

    def _slot(self, leaf: Tensor) -> Slot | None:
        optimizer = self.optim.optim_objs.get(leaf)
        if optimizer is None:
            return None
        return slot(getattr(optimizer, "optimizer", optimizer), leaf, **self.optim._get_grad_clip_args(leaf))

    def _with_optimizer(self, fast: CompiledGradient, gradient: Gradient) -> Callable[[list[Tensor]], Tensor]:
        leaves = list(gradient.leaves)

        def run(tensors: list[Tensor]) -> Tensor:
            loss = fast(tensors)
            with torch.enable_grad():
                self.optim(leaves)
            zero_grads(leaves)
            return loss

        return run

    def _warn(self, message: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(message, stacklevel=4)


def _flat(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Any], TreeSpec | int]:
    """Return the leaves of the arguments and how they were arranged: for tensors alone, their number."""
    if not kwargs and all(isinstance(arg, Tensor) for arg in args):
        return list(args), len(args)
    return tree_flatten((args, kwargs))


def _value(leaf: Any) -> Any:
    try:
        hash(leaf)
    except TypeError:
        return type(leaf), id(leaf)
    return type(leaf), leaf
