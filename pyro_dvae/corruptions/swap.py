"""Cells replaced by cells of other rows."""

from __future__ import annotations

from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.corruptions.base import Corruption
from pyro_dvae.errors import InputError
from pyro_dvae.levels import LevelLike, level


class Swapped(dist.TorchDistribution):
    """Each element keeps its value with probability 1 − rate, and otherwise takes the value of a random row.

    The mass of a value v in column j is ``(1 − rate) 1[v = x] + rate · mean_i 1[v = rows_ij]``. Each element
    draws its own row.

    :param x: clean values, [..., *event]; the batch shape.
    :param rate: probability of a swap in [0, 1], broadcastable to ``x``.
    :param columns: the values of each column in order, [*event, R], in the type of ``x``.
    """

    arg_constraints: ClassVar[dict[str, dist.constraints.Constraint]] = {}
    support = dist.constraints.real
    has_rsample = False

    def __init__(self, x: Tensor, rate: Tensor, columns: Tensor, validate_args: bool | None = None) -> None:
        self.x = x
        self.rate = rate.to(x.dtype)
        self.columns = columns
        super().__init__(x.shape, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: dist.TorchDistribution | None = None) -> Swapped:
        return Swapped(self.x.expand(batch_shape), self.rate, self.columns, validate_args=False)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """Draw values of shape ``sample_shape + batch_shape``."""
        x = self.x.expand(self._extended_shape(sample_shape))
        columns = self._columns(x)
        index = torch.randint(columns.shape[1], x.shape, device=x.device).reshape(-1, len(columns))
        other = columns.gather(1, index.mT).mT.reshape(x.shape)
        return torch.where(torch.rand_like(x) < self.rate, other, x)

    def mass(self, value: Tensor) -> Tensor:
        """Return the probability of each element."""
        value, x = torch.broadcast_tensors(value, self.x)
        columns = self._columns(x)
        wanted = value.reshape(-1, len(columns)).mT.contiguous()
        first, last = (torch.searchsorted(columns, wanted, right=side) for side in (False, True))
        share = ((last - first).to(x.dtype) / columns.shape[1]).mT.reshape(x.shape)
        return (1 - self.rate) * (value == x).to(x.dtype) + self.rate * share

    def _columns(self, x: Tensor) -> Tensor:
        """Return the values of each column of an observation, [C, R]."""
        event = self.columns.dim() - 1
        shape = x.shape[x.dim() - event :]
        return self.columns.expand(*shape, -1).flatten(0, -2).contiguous()

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of each element (nats)."""
        return self.mass(value).log()


class SwapNoise(Corruption):
    """Replace each cell by the same column's cell of a random row, with probability ``rate``.

    The replaced cells follow the column's own distribution, so this suits tables with any kinds of columns
    (Yoon et al. 2020). The state dict does not contain ``rows``.

    :param rate: probability of a swap, in [0, 1]: a number, a tensor with a value for each element, a
        schedule, or a network applied to the data (see :class:`NetworkCorruption`).
    :param rows: rows to swap with, [R, *event]: the training data, or some of them.
    :param learnable: learn the rate, starting at ``rate`` and bounded below by ``minimum``.
    """

    columns: Tensor

    def __init__(
        self, rate: LevelLike, rows: Tensor, *, learnable: bool = False, minimum: float = 0.0
    ) -> None:
        super().__init__()
        self.rate = level("rate", rate, learnable=learnable, minimum=minimum)
        rows = checks.data("rows", checks.floating("rows", rows)).detach()
        if rows.dim() < 2:
            raise InputError(f"rows: expected shape [rows, columns], got {tuple(rows.shape)}")
        columns = rows.movedim(0, -1).sort(-1).values  # columns are independent, so each may be sorted
        self.register_buffer("columns", columns.contiguous(), persistent=False)

    def row_sizes(self) -> dict[str, int]:
        return super().row_sizes() | {"rows": self.columns[..., 0].numel()}

    def distribution(self, x: Tensor) -> dist.TorchDistribution:
        own = self.columns.shape[:-1]
        event = x.shape[max(0, x.dim() - len(own)) :]
        if len(event) < len(own) or any(a not in (1, b) for a, b in zip(own, event, strict=True)):
            raise InputError(f"rows: expected rows of shape {tuple(event)} as in x, got {tuple(own)}")
        return Swapped(x, self.rate(x), self.columns.to(x))
