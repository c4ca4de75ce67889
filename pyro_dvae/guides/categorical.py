"""Categorical latents, one-hot."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from pyro_dvae import checks
from pyro_dvae.corruptions import Corruption
from pyro_dvae.distributions import Flattened, OneHot
from pyro_dvae.errors import InputError
from pyro_dvae.guides.base import AmortisedGuide
from pyro_dvae.guides.bernoulli import LogitEncoder


class CategoricalGuide(AmortisedGuide):
    """Independent categories as one-hot vectors, for :class:`~pyro_dvae.priors.CategoricalPrior`.

    The latent is the d / K vectors end to end. As bits, they have a score-function gradient
    (:class:`~pyro_dvae.guides.BernoulliGuide` names its baselines).

    :param encoder: module from x̃ [..., D] to logits [..., d], those of a variable next to one another.
    :param corruption: the corruption.
    :param categories: K, of each variable; by default there is one variable of d categories.
    """

    def __init__(
        self, encoder: nn.Module, corruption: Corruption | None = None, *, categories: int | None = None
    ) -> None:
        super().__init__(encoder, corruption)
        self.categories = None if categories is None else checks.count("categories", categories, minimum=2)

    @classmethod
    def of_sizes(
        cls,
        data_size: int,
        latent_size: int,
        hidden_sizes: Sequence[int] = (200,),
        activation: str = "softplus",
        *,
        corruption: Corruption | None = None,
        categories: int | None = None,
    ) -> CategoricalGuide:
        encoder = LogitEncoder(data_size, latent_size, hidden_sizes, activation)
        return cls(encoder, corruption, categories=categories)

    def posterior(self, x_tilde: Tensor) -> Flattened:
        return Flattened(OneHot(logits=by_variable(self.encoder(x_tilde), self.categories)))


def by_variable(logits: Tensor, categories: int | None) -> Tensor:
    """Rearrange logits [..., d] to [..., d / K, K]."""
    size = logits.shape[-1]
    count = size if categories is None else categories
    if size % count:
        raise InputError(f"encoder: expected logits of a multiple of {count} categories, got {size}")
    return logits.unflatten(-1, (size // count, count))
