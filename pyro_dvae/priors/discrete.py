"""Priors of discrete latents, bits and one-hot categories, and of relaxed ones."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

from pyro_dvae import checks
from pyro_dvae.distributions import Flattened, Logistic, LogitBeta, OneHot, Temperature
from pyro_dvae.errors import InputError
from pyro_dvae.levels import Schedule
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


class ConcretePrior(Prior):
    """Relaxed bits (binary Concrete, Maddison et al. 2017), represented by their logits ``z``::

        z = (logit p + log u − log(1 − u)) / temperature,  u uniform in (0, 1);   code σ(z)

    As in their appendix C, the latent is the logit, because at low temperatures σ(z) rounds to 0 or 1 and its
    density cannot be computed. σ(z) exceeds ½ with probability p at any temperature.

    :param latent_size: d.
    :param probability: p in (0, 1): a number, or a tensor [d].
    :param temperature: a positive number, or a schedule updated by :meth:`set_epoch`.
    :param straight_through: give the decoder the bit 1[z > 0], with the gradient of σ(z) (Bengio et al.
        2013). The bound is then exact for a model of bits, but its gradient is biased.
    """

    logits: Tensor

    def __init__(
        self,
        latent_size: int,
        probability: float | Tensor = 0.5,
        *,
        temperature: float | Schedule = 0.5,
        straight_through: bool = False,
    ) -> None:
        super().__init__(latent_size)
        self.register_buffer("logits", bit_logits(self.latent_size, probability))
        self.temperature = Temperature(temperature)
        self.straight_through = checks.flag("straight_through", straight_through)

    def set_epoch(self, epoch: float) -> None:
        """Set a scheduled temperature to its value at ``epoch`` (0 for the first)."""
        self.temperature.set_epoch(epoch)

    def forward(self, like: Tensor) -> dist.Independent:
        temperature = self.temperature().to(like)
        return Logistic(self.logits.to(like) / temperature, 1 / temperature).to_event(1)

    def code(self, z: Tensor) -> Tensor:
        soft = z.sigmoid()
        if not self.straight_through:
            return soft
        return (z > 0).to(z.dtype) + (soft - soft.detach())


class GumbelSoftmaxPrior(Prior):
    """Relaxed one-hot vectors with equal probabilities, by their logarithms ``z`` (Maddison et al. 2017)::

        z = log softmax( (g_1, ..., g_K) / temperature ),  g_k standard Gumbel;   code exp(z), on the simplex

    also known as Gumbel-softmax (Jang et al. 2017). The latent is the concatenation of d / K vectors.

    :param latent_size: d, a multiple of ``categories``.
    :param categories: K for each variable; by default one variable with d categories.
    :param temperature: a positive number, or a schedule updated by :meth:`set_epoch`.
    :param straight_through: give the decoder the one-hot vector of the largest entry, with the gradient of
        exp(z). The bound is then exact for a model of categories, but its gradient is biased.
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
        """Set a scheduled temperature to its value at ``epoch`` (0 for the first)."""
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


class SparseBeta(Prior):
    """Each latent's code ``b = σ(z)`` in (0, 1) is ``Beta(a, c)`` with shapes below 1: dense near 0 and 1.

    The latent is the logit ``z``, because floating-point numbers cannot distinguish ``b`` from 1 where much
    of its mass lies (see :class:`~pyro_dvae.distributions.LogitBeta`). Clamping ``b`` would score a value
    that was not drawn, which invalidates the bound. With ``z``, any guide over the reals works unchanged;
    with :class:`~pyro_dvae.guides.GaussianGuide` the code is logit-normal. The bound is the same for either
    choice of the latent. The decoder sees ``b``, by :meth:`code`.

    :param latent_size: d.
    :param shapes: (a, c), each in (0, 1); with a < c more codes lie near 0.
    """

    def __init__(self, latent_size: int, shapes: tuple[float, float] = (0.5, 0.5)) -> None:
        super().__init__(latent_size)
        if not isinstance(shapes, tuple | list) or len(shapes) != 2:
            raise InputError(f"shapes: expected a pair of numbers in (0, 1), got {shapes!r}")
        self.shapes = (_below_one(shapes[0]), _below_one(shapes[1]))

    def forward(self, like: Tensor) -> dist.Independent:
        one, zero = (like.new_full((self.latent_size,), shape) for shape in self.shapes)
        return LogitBeta(one, zero).to_event(1)

    def code(self, z: Tensor) -> Tensor:
        return z.sigmoid()


def _below_one(shape: float) -> float:
    value = checks.positive_single("shapes", shape)
    if value >= 1:
        raise InputError(
            f"shapes: expected numbers below 1, where the density peaks at 0 and 1, got {shape!r}"
        )
    return value
