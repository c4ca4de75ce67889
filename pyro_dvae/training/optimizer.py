"""Makes one torch optimizer over all parameters from a class, a function or a Pyro optimizer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, TypeAlias

from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler
from torch import Tensor
from torch.optim import LBFGS, Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pyro_dvae.calling import calling
from pyro_dvae.errors import InputError, shown
from pyro_dvae.programs.parameters import matching

Choice: TypeAlias = Callable[..., Any] | PyroOptim | None


def build(
    choice: Choice,
    leaves: Mapping[str, Tensor],
    learning_rate: float,
    parameter_options: Mapping[str, Mapping[str, Any]],
) -> Optimizer:
    """Return the optimizer of some parameters.

    :param choice: None for Adam, fused if possible; a class of torch, or a ``partial`` of one; a function of
        parameter groups; a Pyro optimizer.
    :param leaves: the parameters by name.
    :param learning_rate: the base rate; functions and Pyro optimizers have their own.
    :param parameter_options: by pattern of names, options of these parameters that replace the common ones.
    """
    if isinstance(choice, PyroOptim):
        if parameter_options:
            raise InputError(
                "parameter_options: a Pyro optimizer has its own options; give it a function of names"
            )
        groups = [{"params": [leaf], **_pyro_options(choice, name)} for name, leaf in leaves.items()]
        return _called(choice.pt_optim_constructor, groups)
    groups = _groups(leaves, parameter_options)
    if choice is None:
        real = all(leaf.is_floating_point() for leaf in leaves.values())
        try:
            return _called(Adam, groups, lr=learning_rate, fused=real)
        except InputError:  # a device or type without a fused form
            return _called(Adam, groups, lr=learning_rate)
    kind = choice.func if isinstance(choice, partial) else choice
    given = choice.keywords if isinstance(choice, partial) else {}
    if isinstance(kind, type) and issubclass(kind, Optimizer) and "lr" not in given:
        return _called(choice, groups, lr=learning_rate)
    return _called(choice, groups)


def chosen(argument: str, value: Any) -> Choice:
    """Check and return an optimizer choice."""
    if isinstance(value, Optimizer):
        raise InputError(
            f"{argument}: expected a class or a function of the parameters, got an optimizer that has "
            f"parameters; give {type(value).__name__}, or lambda parameters: {type(value).__name__}(...)"
        )
    if value is not None and not callable(value):
        raise InputError(
            f"{argument}: expected a class of torch.optim, a function or a Pyro optimizer, got {shown(value)}"
        )
    choice: Choice = value
    return choice


def schedule_of(choice: Choice) -> Callable[[Optimizer], LRScheduler] | None:
    """Return the schedule of a Pyro optimizer, if it has one."""
    if not isinstance(choice, PyroLRScheduler):
        return None
    return partial(choice.pt_scheduler_constructor, **choice.kwargs)


def checked_schedule(made: Any, optimizer: Optimizer) -> LRScheduler:
    """Return a schedule that a function of the optimizer has made, or refuse anything else."""
    if not isinstance(made, LRScheduler):
        raise InputError(
            f"schedule: expected a function that returns a schedule of torch, got {shown(made)}; a function "
            "of the epoch has two arguments, (epoch, epochs)"
        )
    if not any(made.optimizer is each for each in (optimizer, *held_by(optimizer))):
        raise InputError("schedule: it belongs to another optimizer; make it for the one that is given")
    return made


def clips_of(choice: Choice, name: str) -> dict[str, float]:
    """Return how a Pyro optimizer clips the gradient of a parameter."""
    if not isinstance(choice, PyroOptim):
        return {}
    return _of_name(choice.pt_clip_args, name)


def described(optimizer: Optimizer) -> dict[str, Any]:
    """Return the class and the options of an optimizer, as JSON-able values."""
    kind = type(optimizer)
    plain = (bool, int, float, str, tuple, type(None))
    groups = []
    for group in optimizer.param_groups:
        values = {key: _as_number(value) for key, value in group.items() if key != "params"}
        found = {key: value for key, value in values.items() if isinstance(value, plain)}
        groups.append({key: [*value] if isinstance(value, tuple) else value for key, value in found.items()})
    return {"kind": f"{kind.__module__}.{kind.__qualname__}", "groups": groups}


def _as_number(value: Any) -> Any:
    """Return the number of a tensor with one element, such as a learning rate, and anything else as it is."""
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value


def _called(make: Callable[..., Any], groups: list[dict[str, Any]], **options: Any) -> Optimizer:
    known = [each for group in groups for each in group["params"]]
    try:
        with calling("optimizer"):
            made = make([dict(group) for group in groups], **options)
    except RuntimeError as error:
        raise InputError(f"optimizer: {error}") from error
    if not isinstance(made, Optimizer):
        raise InputError(f"optimizer: expected a torch.optim.Optimizer, got {shown(made)}")
    if isinstance(made, LBFGS):
        raise InputError(
            "optimizer: LBFGS evaluates the loss several times per step, each time with new noise; choose "
            "another optimizer"
        )
    for name in {key for group in groups for key in group} - {"params", *made.defaults}:
        known_options = ", ".join(map(repr, made.defaults))
        raise InputError(
            f"parameter_options: {type(made).__name__} has no option {name!r}; known: {known_options}"
        )
    held = [each for group in made.param_groups for each in group["params"]]
    if {id(each) for each in held} != {id(each) for each in known}:
        raise InputError("optimizer: expected an optimizer of all given parameters, got other parameters")
    require_shared_groups(made)
    return made


def held_by(optimizer: Optimizer) -> list[Optimizer]:
    """Return the optimizers in the attributes of an optimizer, such as one for each kind of weight."""
    values = [each if isinstance(each, list | tuple) else [each] for each in vars(optimizer).values()]
    return [each for found in values for each in found if isinstance(each, Optimizer)]


def require_shared_groups(optimizer: Optimizer) -> None:
    """Refuse an optimizer that holds others whose groups it does not show: no schedule would reach them."""
    own = {id(group) for group in optimizer.param_groups}
    if any(id(group) not in own for each in held_by(optimizer) for group in each.param_groups):
        raise InputError(
            f"optimizer: {type(optimizer).__name__} holds other optimizers; its param_groups must be a list "
            "of theirs, so that schedules change them"
        )


def _groups(
    leaves: Mapping[str, Tensor], parameter_options: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Group parameters by their options, in the order of the parameters."""
    for pattern in parameter_options:
        matching("parameter_options", pattern, leaves)
    groups: list[dict[str, Any]] = []
    for name, leaf in leaves.items():
        own: dict[str, Any] = {}
        for pattern, options in parameter_options.items():
            if fnmatchcase(name, pattern):
                own |= options
        for group in groups:
            if {key: value for key, value in group.items() if key != "params"} == own:
                group["params"].append(leaf)
                break
        else:
            groups.append({"params": [leaf], **own})
    return groups


def _pyro_options(optimizer: PyroOptim, name: str) -> dict[str, Any]:
    return _of_name(optimizer.pt_optim_args, name)


def _of_name(options: Any, name: str) -> dict[str, Any]:
    """Return the options of a parameter, by its name, or by its module's name and its name there."""
    if not callable(options):
        return dict(options)
    with calling("optimizer"):
        if len(inspect.signature(options).parameters) == 1:
            return dict(options(name.replace("$$$", ".")))
        module, _, own = name.rpartition("$$$")
        return dict(options(module or None, own))
