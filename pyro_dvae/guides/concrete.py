"""Relaxed discrete latents: pathwise gradients for bits and categories."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor, nn
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

from pyro_dvae import checks
from pyro_dvae.corruptions import Corruption
from pyro_dvae.distributions import Flattened, Logistic, Temperature
from pyro_dvae.guides.base import AmortisedGuide
from pyro_dvae.guides.discrete import LogitEncoder, by_variable
from pyro_dvae.levels import Schedule


class ConcreteGuide(AmortisedGuide):
    """Relaxed bits, the binary Concrete distribution of Maddison et al. (2017), by their logits ``z``::

        z = (logits(x̃) + log u − log(1 − u)) / temperature,  u uniform in (0, 1)

    It goes with :class:`~pyro_dvae.priors.ConcretePrior`, whose decoder sees σ(z). The bound is that of the
    relaxed model. As both temperatures fall its reconstruction tends to that of bits, while its KL stays that
    of z, which is above that of the bits: the relaxed bound does not tend to the discrete one, but below it,
    and gradients grow like 1 / temperature.

    :param encoder: module from x̃ [..., D] to logits [..., d].
    :param corruption: the corruption.
    :param temperature: above 0, a number or a schedule moved by :meth:`set_epoch`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        corruption: Corruption | None = None,
        *,
        temperature: float | Schedule = 2 / 3,
    ) -> None:
        super().__init__(encoder, corruption)
        self.temperature = Temperature(temperature)

    @classmethod
    def of_sizes(
        cls,
        data_size: int,
        latent_size: int,
        hidden_sizes: Sequence[int] = (200,),
        activation: str = "softplus",
        *,
        corruption: Corruption | None = None,
        temperature: float | Schedule = 2 / 3,
    ) -> ConcreteGuide:
        encoder = LogitEncoder(data_size, latent_size, hidden_sizes, activation)
        return cls(encoder, corruption, temperature=temperature)

    def set_epoch(self, epoch: float) -> None:
        """Move a scheduled temperature to its value at ``epoch`` (0 for the first), and the corruption."""
        self.temperature.set_epoch(epoch)
        self.corruption.set_epoch(epoch)

    def posterior(self, x_tilde: Tensor) -> dist.TorchDistribution:
        logits = self.encoder(x_tilde)
        temperature = self.temperature().to(logits)
        return Logistic(logits / temperature, 1 / temperature).to_event(1)


class GumbelSoftmaxGuide(ConcreteGuide):
    """Relaxed one-hot vectors, by their logarithms (Maddison et al. 2017; Jang et al. 2017)::

        z = log softmax( (logits(x̃) + g) / temperature ),  g standard Gumbel

    It goes with :class:`~pyro_dvae.priors.GumbelSoftmaxPrior`, whose decoder sees exp(z). What
    :class:`ConcreteGuide` says of its bound holds here.

    :param encoder: module from x̃ [..., D] to logits [..., d], those of a variable next to one another.
    :param corruption: the corruption.
    :param temperature: above 0, a number or a schedule moved by :meth:`set_epoch`.
    :param categories: K, of each variable; by default there is one variable of d categories.
    """

    def __init__(
        self,
        encoder: nn.Module,
        corruption: Corruption | None = None,
        *,
        temperature: float | Schedule = 2 / 3,
        categories: int | None = None,
    ) -> None:
        super().__init__(encoder, corruption, temperature=temperature)
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
        temperature: float | Schedule = 2 / 3,
        categories: int | None = None,
    ) -> GumbelSoftmaxGuide:
        encoder = LogitEncoder(data_size, latent_size, hidden_sizes, activation)
        return cls(encoder, corruption, temperature=temperature, categories=categories)

    def posterior(self, x_tilde: Tensor) -> Flattened:
        logits = by_variable(self.encoder(x_tilde), self.categories)
        return Flattened(ExpRelaxedCategorical(self.temperature().to(logits), logits=logits))
