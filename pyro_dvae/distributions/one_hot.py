"""A category as a one-hot vector, drawn without a look at values."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor


class OneHot(dist.OneHotCategorical):
    """Pyro's one-hot category; its draws can be recorded, which those by PyTorch's ``one_hot`` cannot.

    A draw is the largest of logits plus standard Gumbel noise.
    """

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """Draw one-hot vectors of shape ``sample_shape + batch_shape + [K]``."""
        logits = self.logits.expand(self._extended_shape(sample_shape))
        noisy = logits - torch.empty_like(logits).exponential_().log()
        return torch.zeros_like(noisy).scatter(-1, noisy.argmax(-1, keepdim=True), 1.0)
