"""The distribution behind every corruption that replaces elements by fixed values."""

from __future__ import annotations

from typing import ClassVar, TypeAlias

import pyro.distributions as dist
import torch
from torch import Tensor

Atoms: TypeAlias = list[tuple[float | Tensor, float | Tensor]]


class Replacement(dist.TorchDistribution):
    """Each element keeps its value with probability 1 − rate, else becomes one of some atoms.

    With atoms ``a_j`` of shares ``s_j`` the mass of a value ``v`` is
    ``(1 - rate) 1[v = x] + rate Σ_j s_j 1[v = a_j]``. Atoms may coincide with the element itself, so
    the same formula serves binary and real-valued data. Draws follow ``x`` pathwise and depend on the
    rate by their probability only (score function). One uniform number per element is drawn.

    :param x: clean values, any shape; the batch shape.
    :param rate: probability of a replacement in [0, 1], broadcastable to ``x``.
    :param atoms: pairs of a value (number or tensor broadcastable to ``x``) and its share; shares sum to 1.
    """

    arg_constraints: ClassVar[dict[str, dist.constraints.Constraint]] = {}
    has_rsample = False

    def __init__(
        self,
        x: Tensor,
        rate: Tensor,
        atoms: Atoms,
        validate_args: bool | None = None,
    ) -> None:
        self.x = x
        self.rate = rate.to(x.dtype)
        self.atoms = atoms
        super().__init__(x.shape, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: dist.TorchDistribution | None = None) -> Replacement:
        """Return this distribution over a larger batch shape; levels and atoms broadcast as before."""
        return Replacement(self.x.expand(batch_shape), self.rate, self.atoms, validate_args=False)

    @property
    def support(self) -> dist.constraints.Constraint:
        """The reals: any clean value may be kept."""
        return dist.constraints.real

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """Draw values of shape ``sample_shape + batch_shape``."""
        shape = torch.Size(sample_shape) + self.x.shape
        with torch.no_grad():
            uniform = torch.rand(shape, dtype=self.x.dtype, device=self.x.device)
            # From the last threshold (the rate itself) down: each smaller one overwrites its share.
            thresholds = []
            total: float | Tensor = 0.0
            for _, share in self.atoms:
                total = total + self.rate * share
                thresholds.append(total)
        value = self.x.expand(shape)
        for (atom, _), threshold in zip(reversed(self.atoms), reversed(thresholds), strict=True):
            value = torch.where(uniform < threshold, atom, value)
        return value

    def mass(self, value: Tensor) -> Tensor:
        """Return the probability of each element."""
        mass = (1 - self.rate) * (value == self.x).to(self.x.dtype)
        for atom, share in self.atoms:
            mass = mass + self.rate * share * (value == atom)
        return mass

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of each element (nats)."""
        return self.mass(value).log()
