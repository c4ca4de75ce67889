"""Arguments and rows of several models that are trained together: one for all, or one for each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_dvae.errors import InputError, shown
from pyro_dvae.training.epochs import data_tensor, epoch_order
from pyro_dvae.training.settings import Settings


def each_of(argument: str, value: Any, count: int, check: Callable[[str, Any], Any]) -> list[Any]:
    """Return one checked value for each model."""
    if isinstance(value, (int, float)):
        return [check(argument, value)] * count
    if not isinstance(value, list | tuple | range):
        raise InputError(f"{argument}: expected a number or a list of them, got {shown(value)}")
    values = [check(argument, one) for one in value]
    if len(values) != count:
        raise InputError(f"{argument}: expected one value or {count}, one for each pair, got {len(values)}")
    return values


def sets_of(argument: str, data: Tensor | Sequence[Tensor], count: int) -> list[Tensor]:
    """Return the data of each model, checked."""
    if isinstance(data, Tensor):
        return [data_tensor(argument, data)] * count
    if not isinstance(data, list | tuple):
        raise InputError(f"{argument}: expected a tensor [N, ...] or a list of them, got {shown(data)}")
    if len(data) != count:
        raise InputError(f"{argument}: expected one set or {count}, one for each pair, got {len(data)}")
    checked = {id(each): data_tensor(f"{argument}[{number}]", each) for number, each in enumerate(data)}
    sets = [checked[id(each)] for each in data]
    if odd := [each for each in sets if each.shape != sets[0].shape or each.dtype != sets[0].dtype]:
        raise InputError(
            f"{argument}: expected sets of one shape and type, got {tuple(sets[0].shape)} of {sets[0].dtype} "
            f"and {tuple(odd[0].shape)} of {odd[0].dtype}"
        )
    return sets


class RowsOfMany:
    """The rows of each model in its own order, and their batches.

    :param sets: the data of each model, of one shape; the same set is held once.
    :param device: where batches go.
    """

    def __init__(
        self, sets: Sequence[Tensor], seeds: Sequence[int], settings: Settings, device: torch.device
    ) -> None:
        self._first_row, self._data = _joined(sets)
        self._seeds, self._settings, self._device = seeds, settings, device
        self.rows = len(sets[0])
        self.steps_per_epoch = math.ceil(self.rows / settings.batch_size)

    def sizes(self) -> list[int]:
        """Return the rows of each batch of an epoch."""
        full, rest = divmod(self.rows, self._settings.batch_size)
        return [self._settings.batch_size] * full + [rest] * (rest > 0)

    def orders(self, epoch: int) -> Tensor:
        """Return the rows [E, N] of each model in the order of an epoch (from 0)."""
        orders = torch.stack([epoch_order(self.rows, seed, epoch) for seed in self._seeds])
        return (orders + self._first_row).to(self._data.device)

    def batch(self, orders: Tensor, position: int) -> Tensor:
        """Return the data [E, B, ...] of a batch."""
        size, transform = self._settings.batch_size, self._settings.transform
        rows = orders[:, position * size : (position + 1) * size]
        found = self._data.index_select(0, rows.reshape(-1)).to(self._device, non_blocking=True)
        each = found.unflatten(0, rows.shape)
        return each if transform is None else torch.stack([transform(own) for own in each])


def _joined(sets: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the first row [E, 1] of the data of each model, and the rows of all sets; the same set once."""
    distinct = list({id(each): each for each in sets}.values())
    place = {id(each): number * len(each) for number, each in enumerate(distinct)}
    first_row = torch.tensor([place[id(each)] for each in sets])[:, None]
    return first_row, distinct[0] if len(distinct) == 1 else torch.cat(distinct)
