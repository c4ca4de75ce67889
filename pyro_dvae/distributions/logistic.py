"""The logistic distribution, whose draws are always finite."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor


class Logistic(dist.Logistic):
    """Pyro's logistic distribution; its draws are infinite where a uniform number is 0, these never are.

    In single precision that is one draw in 2²⁴: with 50 latents and batches of 100 about once in 3,000 steps.

    :param loc: location.
    :param scale: scale, above 0.
    """

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """Draw values of shape ``sample_shape + batch_shape``."""
        uniform = torch.rand(self._extended_shape(sample_shape), dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + self.scale * torch.logit(uniform, torch.finfo(self.loc.dtype).eps)
