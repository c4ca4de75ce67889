"""Rows of a table whose columns have different kinds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

Group = tuple[tuple[int, ...], TorchDistribution]


class OfColumns(constraints.Constraint):
    """Rows whose observed cells meet the constraint of their column; there is no bijection to them.

    :param parts: positions of columns, and their constraint.
    """

    event_dim = 1

    def __init__(self, parts: Sequence[tuple[tuple[int, ...], constraints.Constraint]]) -> None:
        self.parts = list(parts)
        self.is_discrete = all(part.is_discrete for _, part in parts)
        super().__init__()

    def cells(self, value: Tensor) -> Tensor:
        """Return whether each cell meets its constraint or is missing, [..., C]."""
        met = value.isnan()
        for columns, part in self.parts:
            met[..., columns] |= part.check(value[..., columns])
        return met

    def check(self, value: Tensor) -> Tensor:
        return self.cells(value).all(-1)

    def of(self, column: int) -> constraints.Constraint:
        """Return the constraint of a column."""
        return next(part for columns, part in self.parts if column in columns)


class TableDistribution(TorchDistribution):
    """Independent columns, given in groups of one kind: ``log p(x) = Σ_j log p_j(x_j)``.

    :param groups: for each group the positions of its c columns, and a distribution of batch shape [..., c]
        and event shape []; each of the C columns is in exactly one group.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = False

    def __init__(self, groups: Sequence[Group]) -> None:
        self.groups = list(groups)
        order = [column for columns, _ in self.groups for column in columns]
        self._back = [order.index(column) for column in range(len(order))]
        shape = torch.broadcast_shapes(*(fn.batch_shape[:-1] for _, fn in self.groups))
        super().__init__(shape, torch.Size([len(order)]), validate_args=False)

    @constraints.dependent_property(event_dim=1)
    def support(self) -> constraints.Constraint:
        """Each cell lies in the support of its column; cells may be missing (NaN)."""
        return OfColumns([(columns, fn.support) for columns, fn in self.groups])

    def expand(
        self, batch_shape: torch.Size, _instance: TorchDistribution | None = None
    ) -> TableDistribution:
        return TableDistribution(
            [(columns, fn.expand(torch.Size([*batch_shape, len(columns)]))) for columns, fn in self.groups]
        )

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """Draw rows of shape ``sample_shape + batch_shape + [C]``."""
        return self._joined([fn.sample(sample_shape) for _, fn in self.groups])

    def column_log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability or log-density of each cell, [..., C] (nats)."""
        return self._joined([fn.log_prob(value[..., columns]) for columns, fn in self.groups])

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(x) of the batch shape (nats)."""
        return self.column_log_prob(value).sum(-1)

    @property
    def mean(self) -> Tensor:
        """E x, [..., C]; NaN for categories, which have no mean."""
        return self._joined([fn.mean.expand(fn.batch_shape) for _, fn in self.groups])

    def _joined(self, parts: list[Tensor]) -> Tensor:
        kinds = [part.dtype for part in parts if part.is_floating_point()] or [torch.get_default_dtype()]
        return torch.cat([part.to(kinds[0]) for part in parts], -1)[..., self._back]
