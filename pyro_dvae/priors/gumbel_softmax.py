"""The prior of relaxed categories."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

from pyro_dvae import checks
from pyro_dvae.corruptions.schedules import Schedule
from pyro_dvae.distributions import Flattened, Temperature
from pyro_dvae.priors.base import Prior
from pyro_dvae.priors.categorical import category_count


class GumbelSoftmaxPrior(Prior):
    """Relaxed one-hot vectors of equal categories, by their logarithms ``z`` (Maddison et al. 2017)::

        z = log softmax( (g_1, ..., g_K) / temperature ),  g_k standard Gumbel;   code exp(z), on the simplex

    also known as Gumbel-softmax (Jang et al. 2017). The latent is the d / K vectors end to end.

    :param latent_size: d, a multiple of ``categories``.
    :param categories: K, of each variable; by default there is one variable of d categories.
    :param temperature: above 0, a number or a schedule moved by :meth:`set_epoch`.
    :param straight_through: the decoder sees the one-hot vector of the largest, its gradient is that of
        exp(z): the bound is then exact, for a model of categories, and the gradient of it biased.
    """

    logits: Tensor

    def __init__(
        self,
        latent_size: int,
        categories: int | None = None,
        *,
        temperature: float | Schedule = 0.5,
        straight_through: bool = False,
    ) -> None:
        super().__init__(latent_size)
        self.categories = category_count(latent_size, categories)
        self.register_buffer("logits", torch.zeros(self.latent_size // self.categories, self.categories))
        self.temperature = Temperature(temperature)
        self.straight_through = checks.flag("straight_through", straight_through)

    def set_epoch(self, epoch: float) -> None:
        """Move a scheduled temperature to its value at ``epoch`` (0 for the first)."""
        self.temperature.set_epoch(epoch)

    def forward(self, like: Tensor) -> Flattened:
        return Flattened(ExpRelaxedCategorical(self.temperature().to(like), logits=self.logits.to(like)))

    def code(self, z: Tensor) -> Tensor:
        soft = z.exp()
        if not self.straight_through:
            return soft
        parts = z.detach().unflatten(-1, self.logits.shape)
        hard = torch.zeros_like(parts).scatter(-1, parts.argmax(-1, keepdim=True), 1.0)
        return hard.flatten(-2) + (soft - soft.detach())
