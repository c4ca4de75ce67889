"""A mini-batch that stands for a data set: global terms once, those of the data N / B times."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.errors import InputError


@dataclass(frozen=True)
class Share:
    """The part of N data that a mini-batch is.

    :param data_count: N, the data of the whole data set.
    :param bound_of: ``"data"``: sums over the data plate stand for all N data; ``"batch"``: the same times
        B / N, the share of the mini-batch.
    """

    data_count: int
    bound_of: str = "data"

    def __post_init__(self) -> None:
        checks.count("data_count", self.data_count)
        checks.known("bound_of", self.bound_of, ("data", "batch"))

    @contextmanager
    def of(self, x: Tensor) -> Iterator[pyro.plate]:
        """Give everything inside the scale of the bound; yields the plate of the rows of ``x`` [B, ...]."""
        rows = len(x)
        if not 0 < rows <= self.data_count:
            raise InputError(f"x: expected from 1 to data_count = {self.data_count} rows, got {rows}")
        # Which rows these are does not matter, only how many: given, Pyro does not draw N numbers.
        subsample = torch.arange(rows, device=x.device)
        scale = rows / self.data_count if self.bound_of == "batch" else 1.0
        with poutine.scale(scale=scale):
            yield pyro.plate("data", self.data_count, subsample=subsample)
