"""Guides with discrete latents, bits and one-hot categories, and their relaxations."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor, nn
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

from pyro_dvae import checks
from pyro_dvae.corruptions import Corruption
from pyro_dvae.distributions import Flattened, Logistic, OneHot, Temperature
from pyro_dvae.errors import InputError
from pyro_dvae.guides.base import AmortisedGuide
from pyro_dvae.levels import Schedule
from pyro_dvae.networks.mlp import last_dimension, linear, trunk
from pyro_dvae.registration import Module


class LogitEncoder(Module):
    """Logits of discrete latents, ``W h + b`` with h = trunk(x): [..., data_size] to [..., latent_size].

    Every layer, the head included, starts with Glorot uniform weights and zero biases.
    """

    def __init__(
        self,
        data_size: int,
        latent_size: int,
        hidden_sizes: Sequence[int] = (200,),
        activation: str = "softplus",
    ) -> None:
        super().__init__()
        self.data_size = checks.count("data_size", data_size)
        self.latent_size = checks.count("latent_size", latent_size)
        self.trunk = trunk(self.data_size, hidden_sizes, activation)
        self.head = linear(hidden_sizes[-1], self.latent_size)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [..., latent_size] for ``x`` of [..., data_size]."""
        last_dimension("x", x, self.data_size, "data_size")
        logits: Tensor = self.head(self.trunk(x))
        return logits


class BernoulliGuide(AmortisedGuide):
    """Independent bits, ``z_i ~ Bernoulli(σ(logits_i(x̃)))``: for :class:`~pyro_dvae.priors.BernoulliPrior`.

    Bits have no pathwise gradient; every bound of this package uses score functions for them.
    ``TraceDenoising_ELBO(baseline=network)`` is NVIL (Mnih and Gregor 2014) with the denoising criterion.
    ``TraceDenoisingIWAE_ELBO(num_particles=K)`` is VIMCO (Mnih and Rezende 2016).

    :param encoder: module from x̃ [..., D] to logits [..., d].
    :param corruption: corruption of the encoder's input; none by default.
    """

    @classmethod
    def of_sizes(
        cls,
        data_size: int,
        latent_size: int,
        hidden_sizes: Sequence[int] = (200,),
        activation: str = "softplus",
        *,
        corruption: Corruption | None = None,
    ) -> BernoulliGuide:
        return cls(LogitEncoder(data_size, latent_size, hidden_sizes, activation), corruption)

    def posterior(self, x_tilde: Tensor) -> dist.Independent:
        return dist.Bernoulli(logits=self.encoder(x_tilde)).to_event(1)


class CategoricalGuide(AmortisedGuide):
    """Independent categories as one-hot vectors, for :class:`~pyro_dvae.priors.CategoricalPrior`.

    The latent is the concatenation of d / K vectors. Like bits, they have a score-function gradient (see
    :class:`~pyro_dvae.guides.BernoulliGuide` for baselines).

    :param encoder: module from x̃ [..., D] to logits [..., d]; the K logits of a variable are adjacent.
    :param corruption: corruption of the encoder's input; none by default.
    :param categories: K for each variable; by default one variable with d categories.
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
