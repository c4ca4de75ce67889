"""Categorical latents, one-hot."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyro_dvae import checks
from pyro_dvae.distributions import Flattened, OneHot
from pyro_dvae.errors import InputError
from pyro_dvae.priors.base import Prior


class CategoricalPrior(Prior):
    """Independent categories, each as a one-hot vector; the latent is the d / K vectors end to end.

    :param latent_size: d, a multiple of ``categories``.
    :param categories: K, of each variable; by default there is one variable of d categories.
    :param learnable: learn the probabilities of each variable, which start equal.
    """

    logits: Tensor

    def __init__(self, latent_size: int, categories: int | None = None, *, learnable: bool = False) -> None:
        super().__init__(latent_size)
        self.categories = category_count(latent_size, categories)
        start = torch.zeros(self.latent_size // self.categories, self.categories)
        if checks.flag("learnable", learnable):
            self.logits = nn.Parameter(start)
        else:
            self.register_buffer("logits", start)

    def forward(self, like: Tensor) -> Flattened:
        return Flattened(OneHot(logits=self.logits.to(like)))


def category_count(latent_size: int, categories: int | None) -> int:
    """Return the number of categories of each variable, or refuse one that does not divide the latent."""
    if categories is None:
        return checks.count("latent_size", latent_size)
    found = checks.count("categories", categories, minimum=2)
    if latent_size % found:
        raise InputError(f"categories: expected a divisor of the latent size {latent_size}, got {found}")
    return found
