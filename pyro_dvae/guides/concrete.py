"""Relaxed discrete latents, with pathwise gradients for bits and categories."""

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
    """Relaxed bits (binary Concrete, Maddison et al. 2017), represented by their logits ``z``::

        z = (logits(x̃) + log u − log(1 − u)) / temperature,  u uniform in (0, 1)

    Use it with :class:`~pyro_dvae.priors.ConcretePrior`, whose decoder sees σ(z). The bound is that of the
    relaxed model. As both temperatures fall, the reconstruction term converges to that of bits. The KL
    remains that of z and is larger than that of the bits, so the relaxed bound stays below the discrete one.
    Gradients grow like 1 / temperature.

    :param encoder: module from x̃ [..., D] to logits [..., d].
    :param corruption: corruption of the encoder's input; none by default.
    :param temperature: a positive number, or a schedule updated by :meth:`set_epoch`.
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
        """Set a scheduled temperature, and the corruption, to their values at ``epoch`` (0 for the first)."""
        self.temperature.set_epoch(epoch)
        self.corruption.set_epoch(epoch)

    def posterior(self, x_tilde: Tensor) -> dist.TorchDistribution:
        logits = self.encoder(x_tilde)
        temperature = self.temperature().to(logits)
        return Logistic(logits / temperature, 1 / temperature).to_event(1)


class GumbelSoftmaxGuide(ConcreteGuide):
    """Relaxed one-hot vectors, by their logarithms (Maddison et al. 2017; Jang et al. 2017)::

        z = log softmax( (logits(x̃) + g) / temperature ),  g standard Gumbel

    Use it with :class:`~pyro_dvae.priors.GumbelSoftmaxPrior`, whose decoder sees exp(z). The remarks on the
    bound of :class:`ConcreteGuide` also apply here.

    :param encoder: module from x̃ [..., D] to logits [..., d]; the K logits of a variable are adjacent.
    :param corruption: corruption of the encoder's input; none by default.
    :param temperature: a positive number, or a schedule updated by :meth:`set_epoch`.
    :param categories: K for each variable; by default one variable with d categories.
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
