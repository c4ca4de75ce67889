"""Kinds of columns of a table: their likelihoods, and their features for an encoder.

A cell is one number in every kind: categories and ordered levels are 0 … K − 1.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_dvae import checks
from pyro_dvae.distributions.intervals import Categorical, Ordinal
from pyro_dvae.distributions.table import TableDistribution
from pyro_dvae.errors import InputError, shown
from pyro_dvae.networks.elements import Elements

Column = str | tuple[str, int]
_MINIMUM_SCALE, _MINIMUM_DISPERSION = 1e-3, 1e-3
_ONE = math.log(math.expm1(1.0))  # softplus of it is 1


class ColumnElements(Elements):
    """c columns of one kind, from outputs [..., numbers · c] of a network; a subclass defines the likelihood.

    :param count: c.
    :param levels: K for categories and ordered levels; 0 for other kinds.
    """

    outputs_each: int = 1

    def __init__(self, count: int, levels: int = 0) -> None:
        super().__init__()
        self.count = count
        self.levels = levels

    @abstractmethod
    def forward(self, outputs: Tensor) -> TorchDistribution:
        """Return the distribution of batch shape [..., c]."""

    @staticmethod
    def features(x: Tensor, levels: int) -> Tensor:
        """Return the features of cells [..., c] for an encoder: one or more numbers for each cell."""
        return x


class _ScaledColumns(ColumnElements):
    """Columns with one learned scale each, ``σ = 10⁻³ + softplus(u)``, which starts at 1."""

    def __init__(self, count: int, levels: int = 0) -> None:
        super().__init__(count, levels)
        self.unconstrained_scale = nn.Parameter(torch.full((count,), _ONE))

    @property
    def scale(self) -> Tensor:
        """σ, [c]."""
        return _MINIMUM_SCALE + softplus(self.unconstrained_scale)


class RealColumns(_ScaledColumns):
    """x ~ N(a, σ²), for standardised reals."""

    def forward(self, outputs: Tensor) -> dist.Normal:
        return dist.Normal(outputs, self.scale)


class HeavyTailedColumns(_ScaledColumns):
    """x ~ a + σ Student-t(ν), ν = 1 + softplus(v) for each column, which starts at 5: reals with outliers."""

    def __init__(self, count: int, levels: int = 0) -> None:
        super().__init__(count, levels)
        self.unconstrained_freedom = nn.Parameter(torch.full((count,), math.log(math.expm1(4.0))))

    @property
    def freedom(self) -> Tensor:
        """ν, [c]."""
        return 1 + softplus(self.unconstrained_freedom)

    def forward(self, outputs: Tensor) -> dist.StudentT:
        return dist.StudentT(self.freedom, outputs, self.scale)


class PositiveColumns(_ScaledColumns):
    """log x ~ N(a, σ²): amounts above 0 that differ by factors. An encoder sees log x."""

    def forward(self, outputs: Tensor) -> dist.LogNormal:
        return dist.LogNormal(outputs, self.scale)

    @staticmethod
    def features(x: Tensor, levels: int) -> Tensor:
        return x.clamp(min=1e-6).log()


class BinaryColumns(ColumnElements):
    """x ~ Bernoulli(sigmoid(a))."""

    discrete = True

    def forward(self, outputs: Tensor) -> dist.Bernoulli:
        return dist.Bernoulli(logits=outputs)


class CategoricalColumns(ColumnElements):
    """P(x = k) = softmax(a)_k, with K outputs for each column. An encoder sees one-hot vectors."""

    discrete = True

    def __init__(self, count: int, levels: int = 0) -> None:
        super().__init__(count, levels)
        self.outputs_each = levels

    def forward(self, outputs: Tensor) -> Categorical:
        return Categorical(logits=outputs.unflatten(-1, (self.count, self.levels)))

    @staticmethod
    def features(x: Tensor, levels: int) -> Tensor:
        values = torch.arange(levels, dtype=x.dtype, device=x.device)
        return (x.unsqueeze(-1) == values).to(x.dtype).flatten(-2)


class OrdinalColumns(ColumnElements):
    """Ordered levels by cumulative logits (McCullagh 1980): P(x ≤ k) = sigmoid(c_k − a).

    The cutpoints c_0 < … < c_(K−2) are learned for each column, and start one apart. An encoder sees levels
    from −1 to 1.
    """

    discrete = True

    def __init__(self, count: int, levels: int = 0) -> None:
        super().__init__(count, levels)
        self.first_cutpoint = nn.Parameter(torch.full((count, 1), -0.5 * (levels - 2)))
        self.unconstrained_gaps = nn.Parameter(torch.full((count, levels - 2), _ONE))

    @property
    def cutpoints(self) -> Tensor:
        """c, [columns, K − 1]."""
        gaps = 1e-3 + softplus(self.unconstrained_gaps)
        return torch.cat([self.first_cutpoint, self.first_cutpoint + gaps.cumsum(-1)], -1)

    def forward(self, outputs: Tensor) -> Ordinal:
        return Ordinal(outputs, self.cutpoints)

    @staticmethod
    def features(x: Tensor, levels: int) -> Tensor:
        return 2 * x / (levels - 1) - 1


class CountColumns(ColumnElements):
    """x ~ negative binomial of mean μ = exp(a) and variance μ + φ μ², φ learned for each column.

    An encoder sees log(1 + x).
    """

    discrete = True

    def __init__(self, count: int, levels: int = 0) -> None:
        super().__init__(count, levels)
        self.unconstrained_dispersion = nn.Parameter(torch.full((count,), math.log(math.expm1(0.5))))

    @property
    def dispersion(self) -> Tensor:
        """φ, [c]."""
        return _MINIMUM_DISPERSION + softplus(self.unconstrained_dispersion)

    def forward(self, outputs: Tensor) -> dist.NegativeBinomial:
        dispersion = self.dispersion
        return dist.NegativeBinomial(1 / dispersion, logits=outputs + dispersion.log())

    @staticmethod
    def features(x: Tensor, levels: int) -> Tensor:
        return x.clamp(min=0).log1p()


KINDS: dict[str, type[ColumnElements]] = {
    "binary": BinaryColumns,
    "categorical": CategoricalColumns,
    "count": CountColumns,
    "heavy-tailed": HeavyTailedColumns,
    "ordinal": OrdinalColumns,
    "positive": PositiveColumns,
    "real": RealColumns,
}
_WITH_LEVELS = ("categorical", "ordinal")


def column_kinds(columns: Sequence[Column]) -> list[tuple[str, int]]:
    """Return the kind and the number of levels (0 if it has none) of each column."""
    if isinstance(columns, (str, bytes)) or not isinstance(columns, Sequence) or len(columns) == 0:
        raise InputError(f"columns: expected a kind for each column, got {shown(columns)}")
    found = []
    for column in columns:
        name, *levels = column if isinstance(column, (tuple, list)) and column else (column,)
        kind = checks.known("columns", name, KINDS)
        if len(levels) != (kind in _WITH_LEVELS):
            wanted = f"({kind!r}, number of levels)" if kind in _WITH_LEVELS else repr(kind)
            raise InputError(f"columns: expected {wanted}, got {shown(column)}")
        found.append((kind, checks.count("columns", levels[0], minimum=2) if levels else 0))
    return found


ColumnGroup = tuple[tuple[int, ...], type[ColumnElements], int]  # positions, kind, levels


def column_groups(columns: Sequence[Column]) -> list[ColumnGroup]:
    """Group the columns by kind and number of levels."""
    places: dict[tuple[str, int], list[int]] = {}
    for position, kind in enumerate(column_kinds(columns)):
        places.setdefault(kind, []).append(position)
    return [(tuple(positions), KINDS[kind], levels) for (kind, levels), positions in places.items()]


def table_features(groups: Sequence[ColumnGroup], x: Tensor) -> Tensor:
    """Return the features of rows [..., C] for an encoder."""
    return torch.cat([kind.features(x[..., positions], levels) for positions, kind, levels in groups], -1)


class TableElements(Elements):
    """Columns of several kinds, as a :class:`~pyro_dvae.distributions.table.TableDistribution`.

    :param columns: for each column a kind, or (kind, K) for ``"categorical"`` and ``"ordinal"``.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__()
        groups = column_groups(columns)
        parts = [kind(len(positions), levels) for positions, kind, levels in groups]
        self.positions = [positions for positions, _, _ in groups]
        self.sizes = [part.outputs_each * part.count for part in parts]
        self.parts = nn.ModuleList(parts)
        self.discrete = all(part.discrete for part in parts)

    def forward(self, outputs: Tensor) -> TableDistribution:
        """Return the distribution of event shape [C] for outputs [..., sum of ``sizes``]."""
        parts = zip(self.positions, self.parts, outputs.split(self.sizes, -1), strict=True)
        return TableDistribution([(positions, part(each)) for positions, part, each in parts])
