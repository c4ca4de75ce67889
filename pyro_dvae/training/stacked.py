"""Several models of one structure as one set of stacked tensors, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro.infer import ELBO
from torch import Tensor

from pyro_dvae.errors import InputError, warn
from pyro_dvae.programs.parameters import Trained, discover
from pyro_dvae.programs.row_parameters import refuse_other_rows, row_parameter
from pyro_dvae.programs.support import InSupport
from pyro_dvae.rows import Data
from pyro_dvae.training.learning_rates import left_out
from pyro_dvae.training.objective import Loss, PlateScales, loss_of


@dataclass
class Member:
    """One of the models, with its parameters and its own param store.

    :param store: the state of its param store, because two models may use one name.
    :param length: N, the rows of its data.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]
    bound: ELBO
    store: dict[str, Any] = field(default_factory=lambda: {"params": {}, "constraints": {}})
    trained: Trained = field(default_factory=Trained)
    length: int | None = None
    loss: Loss = field(init=False)

    def __post_init__(self) -> None:
        self.loss = Loss(loss_of(self.model, self.guide, self.bound), PlateScales(self.length))

    def with_store(self) -> AbstractContextManager[Any]:
        """Return a context in which Pyro's param store is this model's; changes are kept."""
        scope: AbstractContextManager[Any] = pyro.get_param_store().scope(self.store)
        return scope

    def apart(self, run: Callable[[], object], example: Tensor | None = None) -> Trained:
        """Run with this model's param store, restore random streams and buffers, and return its parameters.

        With an ``example`` of the data, a model without parameters and data of another type are refused.
        """
        data = None if example is None else {"data": example}
        with self.with_store():
            return discover(self.model, self.guide, run, required=data is not None, data=data)


def members_of(
    pairs: Sequence[tuple[Callable[..., Any], Callable[..., Any]]],
    bound: ELBO,
    example: tuple[Tensor, ...],
    freeze: Any = None,
    rows_by_name: Mapping[str, Sequence[Data]] | None = None,
    length: int | None = None,
    validates: bool = False,
) -> list[Member]:
    """Return the models with their parameters; refuse models of another structure than the first.

    :param freeze: names of parameters that are not trained.
    :param rows_by_name: the rows of each model by argument name, unless they are transformed.
    :param length: N, the rows of each model's data, if known.
    :param validates: whether there are rows for validation.
    """
    members = []
    for number, pair in enumerate(pairs):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not all(callable(part) for part in pair):
            raise InputError(f"pairs[{number}]: expected a pair (model, guide), got {pair!r}")
        member = Member(pair[0], pair[1], bound, length=length)
        with InSupport("data", example[0]) as support:
            member.trained = member.apart(lambda m=member: m.loss(*example), example[0])  # type: ignore[misc]
        for argument, rows in (rows_by_name or {}).items():
            support.require(rows[number], argument)
        if freeze is not None:
            member.trained.freeze("freeze", freeze)
        if member.trained.left_out:
            warn(f"pairs[{number}]: {left_out(member.trained)}")
        members.append(member)
    shapes = [_shapes(member.trained) for member in members]
    for number, found in enumerate(shapes):
        if found != shapes[0]:
            odd = next((a, b) for a, b in zip(found, shapes[0], strict=False) if a != b)
            raise InputError(f"pairs[{number}]: expected {odd[1]}, as in the first pair, got {odd[0]}")
    first = members[0]
    with first.with_store():
        first.trained.of_rows = row_parameter(first.model, first.guide, example, first.trained)
    for member in members:
        member.trained.of_rows = first.trained.of_rows
    if length is not None and len(example[0]) < length:
        refuse_other_rows(first.trained, "batch_size", f"train on all rows at once, batch_size={length}")
    if validates:
        refuse_other_rows(first.trained, "validation", "leave it out")
    owners: dict[int, int] = {}
    for number, member in enumerate(members):
        for name, leaf in member.trained.parameters.items():
            if owners.setdefault(id(leaf), number) != number:
                raise InputError(
                    f"pairs[{number}]: parameter {name!r} is shared with pairs[{owners[id(leaf)]}]; expected "
                    "pairs without common parameters"
                )
    return members


def _shapes(trained: Trained) -> list[str]:
    described = [
        f"parameter {name!r} {list(leaf.shape)} {leaf.dtype}" for name, leaf in trained.parameters.items()
    ]
    return [*described, f"{len(described)} parameters and {len(trained.buffers())} buffers"]


def stack(tensors: Sequence[Tensor]) -> Tensor:
    """Stack tensors of one shape to [E, ...], detached."""
    return torch.stack([tensor.detach() for tensor in tensors])


def unstack(stacked: Sequence[Tensor] | Tensor, tensors: Sequence[Tensor]) -> None:
    """Copy the parts of [E, ...] into the tensors, in place."""
    with torch.no_grad():
        for part, tensor in zip(stacked, tensors, strict=True):
            tensor.copy_(part)
