"""The relaxed (Concrete) form of a replacement of elements by fixed values."""

from __future__ import annotations

from typing import ClassVar, NoReturn

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.corruptions.replacement import Atoms, Replacement
from pyro_dvae.errors import InputError


class RelaxedReplacement(dist.TorchDistribution):
    """Each element moves towards an atom by a relaxed Bernoulli step, ``x̃ = (1 − s) x + s a``.

    The step is the binary Concrete variable of Maddison et al. (2017) and Jang et al. (2017),
    ``s = sigmoid((logit rate + logit u) / temperature)`` with u uniform, so the rate has a pathwise
    gradient. It is that of another corruption than :class:`Replacement`: biased, of low variance. As the
    temperature falls, ``s`` tends to a Bernoulli(rate) draw, the bias to 0 and the variance of the gradient
    grows. The atom ``a`` is drawn by its share as it is there, with no gradient for the share. At rate 0
    nothing is changed.

    :param x: clean values, any shape; the batch shape.
    :param rate: probability in [0, 1] that ``s`` > ½, broadcastable to ``x``.
    :param atoms: pairs of a value (number or tensor broadcastable to ``x``) and its share; shares sum to 1.
    :param temperature: above 0.
    """

    arg_constraints: ClassVar[dict[str, dist.constraints.Constraint]] = {}
    has_rsample = True

    def __init__(
        self, x: Tensor, rate: Tensor, atoms: Atoms, temperature: float, validate_args: bool | None = None
    ) -> None:
        if any(isinstance(share, Tensor) and share.requires_grad for _, share in atoms):
            raise InputError("atoms: a relaxed corruption has no gradient for shares that want one")
        self.x = x
        self.rate = rate.to(x.dtype)
        self.atoms = atoms
        self.temperature = checks.positive("temperature", temperature)
        super().__init__(x.shape, validate_args=validate_args)

    def expand(
        self, batch_shape: torch.Size, _instance: dist.TorchDistribution | None = None
    ) -> RelaxedReplacement:
        """Return this distribution over a larger batch shape; levels and atoms broadcast as before."""
        x = self.x.expand(batch_shape)
        return RelaxedReplacement(x, self.rate, self.atoms, self.temperature, validate_args=False)

    @property
    def support(self) -> dist.constraints.Constraint:
        """The reals: clean values and atoms may be any."""
        return dist.constraints.real

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """Draw values of shape ``sample_shape + batch_shape``, differentiable in the rate and in ``x``."""
        tiny = torch.finfo(self.x.dtype).eps  # keeps the logits finite
        shape = torch.Size(sample_shape) + self.x.shape
        noise = torch.logit(torch.rand(shape, dtype=self.x.dtype, device=self.x.device), tiny)
        step = torch.sigmoid((torch.logit(self.rate, tiny) + noise) / self.temperature) * (self.rate > 0)
        atom = Replacement(self.x, torch.ones_like(self.rate), self.atoms).sample(sample_shape)
        return (1 - step) * self.x + step * atom

    def log_prob(self, value: Tensor) -> NoReturn:
        """Refuse: no bound scores a corruption site."""
        raise NotImplementedError(
            "a relaxed corruption has no log_prob: the corruption site is never scored; "
            "for its probabilities use the unrelaxed corruption (temperature=None)"
        )
