"""Priors of discrete latents: independent bits and one-hot categories."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_dvae import checks
from pyro_dvae.distributions import Flattened, OneHot
from pyro_dvae.errors import InputError
from pyro_dvae.priors.base import Prior


class BernoulliPrior(Prior):
    """Independent bits, ``z_i ~ Bernoulli(p_i)``.

    :param latent_size: d.
    :param probability: probability of a 1, in (0, 1): a number, or a tensor [d].
    :param learnable: learn a probability for each latent, starting at ``probability``.
    """

    logits: Tensor

    def __init__(
        self, latent_size: int, probability: float | Tensor = 0.5, *, learnable: bool = False
    ) -> None:
        super().__init__(latent_size)
        start = bit_logits(self.latent_size, probability)
        if checks.flag("learnable", learnable):
            self.logits = nn.Parameter(start)
        else:
            self.register_buffer("logits", start)

    def forward(self, like: Tensor) -> dist.Independent:
        return dist.Bernoulli(logits=self.logits.to(like)).to_event(1)


def bit_logits(latent_size: int, probability: float | Tensor) -> Tensor:
    """Return the logits [d] of a probability, which must be in (0, 1)."""
    if isinstance(probability, Tensor):
        start = checks.finite("probability", checks.floating("probability", probability)).detach().clone()
        if start.shape not in ((), (latent_size,)):
            raise InputError(
                f"probability: expected a number or shape ({latent_size},), got {tuple(start.shape)}"
            )
    else:
        start = torch.tensor(checks.number("probability", probability, 0.0, 1.0))
    if not bool(((start > 0) & (start < 1)).all()):
        raise InputError(f"probability: expected values above 0 and below 1, got {probability!r}")
    return torch.logit(start.expand(latent_size)).clone()


class CategoricalPrior(Prior):
    """Independent categories as one-hot vectors; the latent is the concatenation of d / K vectors.

    :param latent_size: d, a multiple of ``categories``.
    :param categories: K for each variable; by default one variable with d categories.
    :param learnable: learn the probabilities of each variable, starting at equal ones.
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
    """Return the number of categories of each variable, which must divide the latent size."""
    if categories is None:
        return checks.count("latent_size", latent_size)
    found = checks.count("categories", categories, minimum=2)
    if latent_size % found:
        raise InputError(f"categories: expected a divisor of the latent size {latent_size}, got {found}")
    return found
