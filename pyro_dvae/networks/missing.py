"""Models of which cells of a row are observed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyro_dvae import checks


class SelfMasking(nn.Module):
    """Whether a cell is observed depends on its own value: logit p(s_j = 1 | x) = a_j + b_j x_j.

    A value may be missing because it is high or low (Ipsen et al. 2021). It starts at a = b = 0.

    :param data_size: D, the columns of a row.
    """

    def __init__(self, data_size: int) -> None:
        super().__init__()
        size = checks.count("data_size", data_size)
        self.intercept = nn.Parameter(torch.zeros(size))
        self.slope = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the cells of rows [..., D] to be observed."""
        return self.intercept + self.slope * x
