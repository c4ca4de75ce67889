"""The unconstrained parameters that a run trains, and its modules with their buffers.

One dry run of the bound finds the parameters (every Pyro ``param`` statement) and the modules (every module
that is called), whether they are in the param store, in ``nn.Module`` arguments, or in a function's closure.
"""

from __future__ import annotations

import difflib
import fnmatch
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pyro_dvae.buffers import KeptBuffers
from pyro_dvae.calling import named_error
from pyro_dvae.errors import CheckpointError, InputError, NumberTypeError, warn
from pyro_dvae.internals import uncompiled
from pyro_dvae.programs.statements import Inherited, Statement, Statements, why_untrained
from pyro_dvae.random_state import forked
from pyro_dvae.registration import asked_name


@dataclass
class Trained:
    """Leaves by name, and root modules by prefix: ``model``, ``guide``, then others in order of their calls.

    :param left_out: names of parameters of model or guide that no param statement registers.
    :param frozen: names of leaves that are not trained.
    :param without_gradient: parameters of the modules that required no gradient when the leaves were found.
    :param untrained: why a module would not be trained (:mod:`.statements`), or empty.
    :param of_rows: name of a leaf whose elements belong to single rows (:mod:`.row_parameters`), or empty.
    """

    parameters: dict[str, Tensor] = field(default_factory=dict)
    modules: dict[str, nn.Module] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    without_gradient: dict[str, Tensor] = field(default_factory=dict)
    of_rows: str = ""
    untrained: str = ""

    def refuse_unfrozen(self) -> None:
        """Refuse parameters that require a gradient now and did not when the leaves were found.

        Pyro registers no parameter without a gradient, so they would stay as they are.
        """
        for name, leaf in self.without_gradient.items():
            if leaf.requires_grad:
                raise InputError(
                    f"parameter {name!r} requires a gradient now, but did not when training began, so it is "
                    "not trained; let it require one at first, and freeze it in the start of a callback"
                )

    @property
    def free(self) -> dict[str, Tensor]:
        """The leaves that are trained."""
        return {name: leaf for name, leaf in self.parameters.items() if name not in self.frozen}

    def freeze(self, argument: str, choice: Any) -> None:
        """Exclude some leaves from training, given by names (with ``*``), modules or tensors, one or a list.

        :raises InputError: nothing is found, or nothing is left to train.
        """
        names: set[str] = set()
        for each in choice if isinstance(choice, list | tuple | set) else [choice]:
            if isinstance(each, str):
                names.update(matching(argument, each, self.parameters))
                continue
            if not isinstance(each, nn.Module | Tensor):
                raise InputError(f"{argument}: expected names, modules or tensors, got {type(each).__name__}")
            held = {id(leaf) for leaf in (each.parameters() if isinstance(each, nn.Module) else [each])}
            found = {name for name, leaf in self.parameters.items() if id(leaf) in held}
            if not found:
                raise InputError(f"{argument}: a {type(each).__name__} holds no parameter of model and guide")
            names |= found
        self.frozen = tuple(name for name in self.parameters if name in names)
        if not self.free:
            raise InputError(f"{argument}: expected some parameters to be left to train, got all of them")

    @contextmanager
    def without_frozen_gradients(self) -> Iterator[None]:
        """Let the frozen leaves require no gradient in the body, and silence Pyro's warning about it."""
        if not self.frozen:
            yield
            return
        leaves = [self.parameters[name] for name in self.frozen]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*was not registered in the param store")
            try:
                for leaf in leaves:
                    leaf.requires_grad_(False)
                yield
            finally:
                for leaf in leaves:
                    leaf.requires_grad_(True)

    def buffers(self) -> dict[str, Tensor]:
        """Return the current buffers of the modules and their parameters without a gradient, each once."""
        found: dict[int, tuple[str, Tensor]] = {}
        for prefix, module in self.modules.items():
            kept = [(name, leaf) for name, leaf in module.named_parameters(prefix) if not leaf.requires_grad]
            for name, buffer in [*module.named_buffers(prefix), *kept]:
                found.setdefault(id(buffer), (name, buffer))
        trained = {id(leaf) for leaf in self.parameters.values()}
        return dict(each for key, each in found.items() if key not in trained)

    def tensors(self) -> dict[str, Tensor]:
        """Return the live tensors as ``parameters/NAME`` and ``buffers/NAME``."""
        tensors = {f"parameters/{name}": leaf.detach() for name, leaf in self.parameters.items()}
        return tensors | {f"buffers/{name}": buffer.detach() for name, buffer in self.buffers().items()}

    def require_same(self, saved: Mapping[str, Tensor], where: str) -> None:
        """Refuse saved tensors whose names, shapes or types differ from the live ones."""
        live = self.tensors()
        for name in [*live, *sorted(saved.keys() - live.keys())]:
            then, now = _shown(saved.get(name)), _shown(live.get(name))
            if then != now:
                kind, _, label = name.partition("/")
                raise CheckpointError(
                    f"{where}: {kind} {label!r}: the checkpoint has {then}, this run has {now}"
                )

    def assign(self, saved: Mapping[str, Tensor]) -> None:
        """Copy saved tensors, named as by :meth:`tensors`, into the live ones, in place."""
        with torch.no_grad():
            for name, tensor in self.tensors().items():
                tensor.copy_(saved[name])

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Put every module in evaluation mode in the body, and restore their modes."""
        modes = {part: part.training for root in self.modules.values() for part in root.modules()}
        for root in self.modules.values():
            root.eval()
        try:
            yield
        finally:
            for part, mode in modes.items():
                part.training = mode


def matching(argument: str, pattern: str, names: Iterable[str]) -> list[str]:
    """Return the names that match a pattern with ``*``; if there are none, name the nearest in an error."""
    known = list(names)
    found = fnmatch.filter(known, pattern)
    if not found:
        near = difflib.get_close_matches(pattern, known, n=1, cutoff=0.3) or known[:1]
        raise InputError(f"{argument}: no parameter matches {pattern!r}; the nearest is {near[0]!r}")
    return found


def _shown(tensor: Tensor | None) -> str:
    if tensor is None:
        return "none"
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def modules_of(model: Any, guide: Any) -> dict[str, nn.Module]:
    """Return the modules of a model and a guide: themselves, or those whose methods or partials they are."""
    found = {"model": _module_of(model), "guide": _module_of(guide)}
    return {name: module for name, module in found.items() if module is not None}


def _module_of(target: Any) -> nn.Module | None:
    for _ in range(20):  # nested wrappers
        if isinstance(target, nn.Module):
            return target
        following = (getattr(target, name, None) for name in ("__self__", "func", "__wrapped__"))
        target = next((inner for inner in following if inner is not None), None)
    return None


def float_type(*programs: Any) -> torch.dtype:
    """Return the type of the modules' real numbers; torch's default if there are none."""
    found = {number: _module_of(program) for number, program in enumerate(programs)}
    held = (leaf for module in found.values() if module is not None for leaf in module.parameters())
    return next((leaf.dtype for leaf in held if leaf.is_floating_point()), torch.get_default_dtype())


def discover(
    model: Any,
    guide: Any,
    run: Callable[[], object],
    required: bool = True,
    data: Mapping[str, Any] | None = None,
) -> Trained:
    """Return the parameters and modules of ``run``, one evaluation of the bound.

    The parameters are those of Pyro's ``param`` statements (which ``pyro.module`` makes), as for ``SVI``.
    Random state and buffers are restored; modules wrapped by ``torch.compile`` run uncompiled. If parameters
    are ``required``, a pair without any is refused.

    :param data: the arguments of ``run`` by name, for a message about wrong types.
    :raises InputError: the run fails and ``data`` is given; the message names a wrong type, or the exception
        in one line.
    """
    trained = Trained(modules=modules_of(model, guide))
    recorder = KeptBuffers()
    for module in trained.modules.values():
        recorder.snapshot(module)
    capture, inherited = Statements(), Inherited(trained.modules)
    try:
        with recorder, forked(), torch.enable_grad(), uncompiled(), capture:
            run()
    except Exception as error:
        if data is None or (isinstance(error, InputError) and not isinstance(error, NumberTypeError)):
            raise
        if isinstance(error, RuntimeError | TypeError | ValueError):
            seen = [*trained.modules.values(), *recorder.called]
            held = [leaf for module in seen for leaf in module.parameters()]
            _explain(error, data, [*held, *(each.leaf for each in capture.all)])
        named = named_error(", ".join(["model", "guide", *data]), error)
        if named is error:
            raise
        note = inherited.note()
        raise (InputError(f"{named}; {note}") if note else named) from error
    own = [pair for prefix, root in trained.modules.items() for pair in root.named_parameters(prefix)]
    inside = {id(part) for root in trained.modules.values() for part in root.modules()}
    for module in recorder.called:
        if id(module) not in inside:
            trained.modules[f"module{len(trained.modules)}"] = module
            inside.update(id(part) for part in module.modules())
    held = [leaf for module in trained.modules.values() for leaf in module.parameters()]
    trained.untrained = why_untrained(capture.all, held)
    if required and trained.untrained:
        raise InputError(f"model, guide: {trained.untrained}")
    if required and (note := inherited.note()):
        warn(note)
    trained.parameters = _collect(capture.all)
    every = [pair for prefix, root in trained.modules.items() for pair in root.named_parameters(prefix)]
    trained.without_gradient = {name: leaf for name, leaf in every if not leaf.requires_grad}
    known = {id(leaf) for leaf in trained.parameters.values()}
    trained.left_out = tuple(name for name, leaf in own if leaf.requires_grad and id(leaf) not in known)
    if required and not trained.parameters:
        raise InputError("model, guide: expected parameters to train, found none (pyro.param, pyro.module)")
    return trained


def _explain(error: Exception, data: Mapping[str, Any], parameters: list[Tensor]) -> None:
    """Raise an error about types instead of ``error`` if data have none of the parameters' types."""
    types = sorted({str(leaf.dtype) for leaf in parameters if leaf.is_floating_point()})
    for argument, each in data.items():
        if not types or not isinstance(each, Tensor) or str(each.dtype) in types:
            continue
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{argument}: expected {' or '.join(types)}, as in the parameters of model and guide, got "
            f"{each.dtype}; convert it (.to({types[0]})) or the modules ({reason})"
        ) from error


def _collect(statements: Iterable[Statement]) -> dict[str, Tensor]:
    """Return the leaves of the param statements by name."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, leaf, _ in statements:
        if id(leaf) in seen or not leaf.requires_grad:
            continue
        if not leaf.is_leaf:
            raise InputError(
                f"model, guide: parameter {name!r} is computed from others, expected a leaf tensor"
            )
        seen.add(id(leaf))
        name = asked_name(name, leaf)
        if name in found and found[name].data_ptr() == leaf.data_ptr():
            found[name] = leaf  # a PyroModule that is set up in this run has replaced the leaf
            continue
        unique, copies = name, 1
        while unique in found:  # two modules with local parameters may use one name
            copies += 1
            unique = f"{name}#{copies}"
        found[unique] = leaf
    return found
