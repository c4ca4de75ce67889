"""The latents of a model as one vector per chain and datum, which is what Hamiltonian dynamics moves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """The shapes of the unconstrained latents, to go from them to one vector [C, N, D] and back.

    :param shapes: of each latent, [*plates, *event] with the data plate moved to the front, without chains.
    :param dtypes: of each latent.
    :param data_position: dimension of the data plate in an unpacked latent, counted from the left.
    """

    shapes: dict[str, torch.Size]
    dtypes: dict[str, torch.dtype]
    data_position: int

    @classmethod
    def of(cls, points: Mapping[str, Tensor], data_position: int) -> Packing:
        """Return the packing of latents [C, *plates, *event]."""
        front = {name: point.movedim(data_position, 1) for name, point in points.items()}
        return cls(
            {name: point.shape[1:] for name, point in front.items()},
            {name: point.dtype for name, point in points.items()},
            data_position,
        )

    def pack(self, points: Mapping[str, Tensor]) -> Tensor:
        """Return all latents as [C, N, D], D the unconstrained size of one datum's latents."""
        front = [points[name].movedim(self.data_position, 1) for name in self.shapes]
        return torch.cat([part.reshape(*part.shape[:2], -1) for part in front], -1)

    def unpack(self, position: Tensor) -> dict[str, Tensor]:
        """Return the latents by name of ``position`` [C, N, D]."""
        sizes = [math.prod(shape[1:]) for shape in self.shapes.values()]
        points = {}
        for (name, shape), part in zip(self.shapes.items(), position.split(sizes, -1), strict=True):
            point = part.reshape(position.shape[0], *shape).movedim(1, self.data_position)
            points[name] = point.to(self.dtypes[name])
        return points
