"""Decides which calls of a loss run from a recording, and which run the program itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_dvae.engine.compiler import NoCompiler
from pyro_dvae.engine.following import BuiltIn, Unrecordable
from pyro_dvae.engine.observing import Observation, observed
from pyro_dvae.engine.step import CompiledGradient, CompiledStep, Gradient, Numerics, record_for
from pyro_dvae.engine.surroundings import Snapshot, global_settings, same
from pyro_dvae.errors import warn
from pyro_dvae.internals import TreeSpec, leaves_in_store, tree_flatten, tree_unflatten
from pyro_dvae.programs.statements import unconstrained
from pyro_dvae.text import to_stderr

_SHAPES_AT_MOST = 16  # recordings of one loss; with more, recording would dominate the time
_SEEN_AT_MOST = 64  # known shapes, and changes of what the programs read
_OFTEN = 1_000  # calls of a further shape from which compiling saves time
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
_CHANGING = (
    "shapes, numbers or tensors outside of the arguments keep changing (pass them as arguments, or change "
    "tensors in place)"
)

Step = CompiledStep | CompiledGradient


@dataclass
class RecordedCall:
    """A recorded call, and the parameters that must not be replaced.

    :param gradient: the recording.
    :param step: the step that runs it.
    :param stored: the parameters in the store, by name.
    :param calls: number of uncompiled calls so far; None once it is compiled.
    """

    gradient: Gradient
    step: Step
    stored: dict[str, Tensor]
    calls: int | None

    def valid(self) -> bool:
        """Whether it uses the current parameters in the store and the optimizer's current state."""
        store = leaves_in_store()
        return self.step.valid() and all(store.get(name) is leaf for name, leaf in self.stored.items())


@dataclass
class _Shape:
    """The state of the calls of one shape.

    :param leaves: the unconstrained parameters of the last ordinary call by name; None before it.
    :param seen: the observation of that call.
    :param fast: recorded calls, one for each state of what the programs read.
    :param missed: snapshots of that state when no recorded call applied.
    :param plain: whether further recordings are given up.
    """

    leaves: dict[str, Tensor] | None = None
    seen: Observation | None = None
    fast: list[RecordedCall] = field(default_factory=list)
    missed: list[Snapshot] = field(default_factory=list)
    plain: bool = False


class Recordings:
    """The recorded calls of a loss, one for each shape of arguments and state of what it reads.

    :param loss_and_grads: function of arguments that returns the loss and adds to the parameters' gradients.
    :param programs: the model, guide and bound that it calls.
    :param numerics: numerics of the recordings.
    :param build: makes a step of a recording and example tensors, compiled or not.
    :param say: called with progress messages.
    :param steps: whether a call is a training step instead of only a loss.
    """

    def __init__(
        self,
        loss_and_grads: Callable[..., Any],
        programs: Sequence[Any],
        numerics: Numerics,
        build: Callable[[Gradient, list[Tensor], bool], Step],
        say: Callable[[str], object] | None,
        steps: bool,
    ) -> None:
        self._steps = steps
        self._loss_and_grads, self._programs, self._numerics = loss_and_grads, tuple(programs), numerics
        self._build, self._say = build, say or to_stderr
        self._forget()

    def _forget(self) -> None:
        self._shapes: dict[tuple[Any, ...], _Shape] = {}
        self._kept: list[Any] = []  # arguments that are identified by their id
        self._numbers_vary = True
        self._changes = 0
        self._warned = False

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the state of calls, which is valid only for these objects in this process."""
        kept = ("_steps", "_loss_and_grads", "_programs", "_numerics", "_build", "_say")
        return {name: getattr(self, name) for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    @property
    def all(self) -> list[RecordedCall]:
        return [fast for shape in self._shapes.values() for fast in shape.fast]

    @property
    def constants(self) -> tuple[BuiltIn, ...]:
        """The Python numbers that the recordings treat as constants."""
        return tuple(dict.fromkeys(number for fast in self.all for number in fast.gradient.recording.numbers))

    def __call__(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        ordinary: Callable[[], tuple[Any, bool]],
        fast: Callable[..., Any],
    ) -> Any:
        """Make one call: ``fast(step, tensors)`` from a recording, or ``ordinary()``.

        :param ordinary: returns the result, and whether the call was complete, so that the next may be
            recorded.
        """
        leaves, spec = _flat(args, kwargs)
        settings = global_settings()
        if any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in leaves):
            settings = "an argument asks for a gradient (detach it, or train it as a Pyro parameter)"
        if isinstance(settings, str):
            self._warn(settings)
            return ordinary()[0]
        shape = self._shape((settings, spec, self._described(leaves)), leaves)
        if shape is None:
            self._warn(_CHANGING)
            return ordinary()[0]
        found = self._applying(shape)
        if found is None and self._to_be_recorded(shape):
            try:
                found = self._recorded(shape, leaves, spec)
            except Unrecordable as error:
                if self._numbers_vary and any(isinstance(leaf, float) for leaf in leaves):
                    # Perhaps a number controls the program: treat each value as a separate shape.
                    self._numbers_vary = False
                    return self(args, kwargs, ordinary, fast)
                self._give_up(shape, error)
            except NoCompiler as error:
                self._give_up(shape, error)
        if found is not None:
            return fast(self._prepared(found, leaves), self._inputs(leaves))
        looking_on = nullcontext() if shape.plain else observed()
        with looking_on as shape.seen, poutine.trace(param_only=True) as capture:
            result, complete = ordinary()
        if complete:
            shape.leaves = {name: unconstrained(site["value"]) for name, site in capture.trace.nodes.items()}
        return result

    def _applying(self, shape: _Shape) -> RecordedCall | None:
        """Return the recorded call for the current state of what the programs read, or None."""
        for fast in list(shape.fast):
            if not fast.valid():
                shape.fast.remove(fast)
                shape.leaves = None
            elif fast.gradient.recording.surroundings.unchanged():
                return fast
        return None

    def _to_be_recorded(self, shape: _Shape) -> bool:
        """Whether what the programs read is unchanged since the last ordinary call."""
        if shape.plain or shape.leaves is None:
            return False
        present = [fast.gradient.recording.surroundings.snapshot() for fast in shape.fast]
        before, shape.missed = shape.missed, present
        if len(before) == len(present) and all(map(same, before, present)):
            return True
        self._changes += 1
        if self._changes >= _SEEN_AT_MOST:
            shape.plain = True
            self._warn(_CHANGING)
        return False

    def _shape(self, key: tuple[Any, ...], leaves: list[Any]) -> _Shape | None:
        if key not in self._shapes:
            if len(self._shapes) >= _SEEN_AT_MOST:
                return None
            self._shapes[key] = _Shape()
            self._kept += [leaf for leaf in leaves if not isinstance(leaf, (*_PLAIN, Tensor))]
        return self._shapes[key]

    def _described(self, leaves: list[Any]) -> tuple[Any, ...]:
        described: list[Any] = []
        for leaf in leaves:
            if isinstance(leaf, Tensor):
                described.append((leaf.shape, leaf.dtype, leaf.device, leaf.layout))
            elif self._is_number(leaf):
                described.append(float)
            elif type(leaf) in _PLAIN:
                described.append((type(leaf), repr(leaf)))
            else:
                described.append((type(leaf), id(leaf)))  # its contents are among what the programs read
        return tuple(described)

    def _is_number(self, leaf: Any) -> bool:
        return self._numbers_vary and type(leaf) is float

    def _inputs(self, leaves: list[Any]) -> list[Tensor]:
        """Return the arguments that may change, as contiguous tensors."""
        inputs = []
        for leaf in leaves:
            if isinstance(leaf, Tensor):
                inputs.append(leaf.detach().contiguous())
            elif self._is_number(leaf):
                # A scalar tensor does not change the type of results.
                inputs.append(torch.tensor(leaf, dtype=torch.float64))
        return inputs

    def _recorded(self, shape: _Shape, leaves: list[Any], spec: TreeSpec | int) -> RecordedCall:
        if len(self.all) >= _SHAPES_AT_MOST:
            raise Unrecordable(
                f"the arguments, or what the programs read, had more than {_SHAPES_AT_MOST} shapes"
            )

        def loss_and_grads(*given: Tensor) -> Any:
            rest = iter(given)
            varying = (isinstance(leaf, Tensor) or self._is_number(leaf) for leaf in leaves)
            filled = [next(rest) if varies else leaf for varies, leaf in zip(varying, leaves, strict=True)]
            args, kwargs = (filled, {}) if isinstance(spec, int) else tree_unflatten(filled, spec)
            return self._loss_and_grads(*args, **kwargs)

        named = shape.leaves or {}
        unique = list({id(leaf): leaf for leaf in named.values()}.values())
        inputs = self._inputs(leaves)
        given = [leaf for leaf in leaves if not isinstance(leaf, (*_PLAIN, Tensor))]
        gradient = record_for(
            loss_and_grads, unique, inputs, self._numerics, [*self._programs, *given], shape.seen
        )
        reached = {id(leaf) for leaf in gradient.leaves}
        if self._steps and any(id(leaf) not in reached and leaf.grad is not None for leaf in unique):
            raise Unrecordable(
                "a parameter that gets no gradient here is moved by the optimizer's momentum alone"
            )
        store = leaves_in_store()
        stored = {name: leaf for name, leaf in named.items() if store.get(name) is leaf}
        compiled = all(fast.calls is not None for fast in self.all)
        step = self._compiled(gradient, inputs) if compiled else self._build(gradient, inputs, False)
        shape.fast.append(RecordedCall(gradient, step, stored, None if compiled else 0))
        return shape.fast[-1]

    def _prepared(self, fast: RecordedCall, leaves: list[Any]) -> Step:
        """Return the step to run; a further shape is compiled after many calls."""
        if fast.calls is not None:
            fast.calls += 1
            if fast.calls > _OFTEN:
                fast.calls = None
                try:
                    fast.step = self._compiled(fast.gradient, self._inputs(leaves))
                except NoCompiler as error:
                    self._warn(str(error))
        return fast.step

    def _compiled(self, gradient: Gradient, inputs: list[Tensor]) -> Step:
        began = time.perf_counter()
        shapes = ", ".join(str(tuple(each.shape)) for each in inputs)
        what = "the training step" if self._steps else "the loss"
        self._say(f"compiling {what} for arguments of shape {shapes} ...")
        step = self._build(gradient, inputs, True)
        self._say(f"compiled in {time.perf_counter() - began:.1f} s")
        return step

    def _give_up(self, shape: _Shape, error: Exception) -> None:
        shape.plain = True
        self._warn(str(error))

    def _warn(self, message: str) -> None:
        if not self._warned:
            self._warned = True
            warn(f"training by uncompiled steps, which are slower: {message}")


def _flat(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Any], TreeSpec | int]:
    """Return the leaves of the arguments and their structure (for tensors alone, their number)."""
    if not kwargs and all(isinstance(arg, Tensor) for arg in args):
        return list(args), len(args)
    return tree_flatten((args, kwargs))
