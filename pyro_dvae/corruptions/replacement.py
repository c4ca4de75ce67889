"""Corruptions that replace elements by fixed values (masking, bit flips), exact and relaxed."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, NoReturn, TypeAlias

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.corruptions.base import Corruption
from pyro_dvae.errors import InputError
from pyro_dvae.levels import LevelLike, level


class RelaxedReplacement(dist.TorchDistribution):
    """Each element moves towards an atom by a relaxed Bernoulli step, ``x̃ = (1 − s) x + s a``.

    The step is the binary Concrete variable of Maddison et al. (2017) and Jang et al. (2017), ``s =
    sigmoid((logit rate + logit u) / temperature)`` with u uniform, so the rate has a pathwise gradient. This
    corruption differs from :class:`Replacement`, so the gradient is biased, but has low variance. As the
    temperature falls, ``s`` approaches a Bernoulli(rate) draw, the bias vanishes, and the variance of the
    gradient grows. As in :class:`Replacement`, the atom ``a`` is drawn with probability equal to its share,
    which gets no gradient. At rate 0 nothing changes.

    :param x: clean values, any shape; the batch shape.
    :param rate: probability in [0, 1] that ``s`` > ½, broadcastable to ``x``.
    :param atoms: pairs of a value (number or tensor broadcastable to ``x``) and its share; shares sum to 1.
    :param temperature: positive temperature.
    """

    arg_constraints: ClassVar[dict[str, dist.constraints.Constraint]] = {}
    has_rsample = True

    def __init__(
        self, x: Tensor, rate: Tensor, atoms: Atoms, temperature: float, validate_args: bool | None = None
    ) -> None:
        if any(isinstance(share, Tensor) and share.requires_grad for _, share in atoms):
            raise InputError("atoms: a relaxed corruption has no gradient for shares that require one")
        self.x = x
        self.rate = rate.to(x.dtype)
        self.atoms = atoms
        self.temperature = checks.positive("temperature", temperature)
        super().__init__(x.shape, validate_args=validate_args)

    def expand(
        self, batch_shape: torch.Size, _instance: dist.TorchDistribution | None = None
    ) -> RelaxedReplacement:
        x = self.x.expand(batch_shape)
        return RelaxedReplacement(x, self.rate, self.atoms, self.temperature, validate_args=False)

    @property
    def support(self) -> dist.constraints.Constraint:
        """The reals, because clean values and atoms may have any value."""
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
        """Raise an error; no bound scores a corruption site."""
        raise NotImplementedError(
            "a relaxed corruption has no log_prob: the corruption site is never scored; "
            "for its probabilities use the unrelaxed corruption (temperature=None)"
        )


Atoms: TypeAlias = list[tuple[float | Tensor, float | Tensor]]


class Replacement(dist.TorchDistribution):
    """Each element keeps its value with probability 1 − rate and otherwise becomes one of the atoms.

    With atoms ``a_j`` of shares ``s_j`` the mass of a value ``v`` is ``(1 - rate) 1[v = x] + rate Σ_j s_j 1[v
    = a_j]``. Atoms may coincide with the element itself, so the same formula serves binary and real-valued
    data. Draws have pathwise gradients in ``x`` and score-function gradients in the rate. Each element uses
    one uniform random number.

    :param x: clean values, any shape; the batch shape.
    :param rate: probability of a replacement in [0, 1], broadcastable to ``x``.
    :param atoms: pairs of a value (number or tensor broadcastable to ``x``) and its share; shares sum to 1.
    """

    arg_constraints: ClassVar[dict[str, dist.constraints.Constraint]] = {}
    has_rsample = False

    def __init__(
        self,
        x: Tensor,
        rate: Tensor,
        atoms: Atoms,
        validate_args: bool | None = None,
    ) -> None:
        self.x = x
        self.rate = rate.to(x.dtype)
        self.atoms = atoms
        super().__init__(x.shape, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: dist.TorchDistribution | None = None) -> Replacement:
        return Replacement(self.x.expand(batch_shape), self.rate, self.atoms, validate_args=False)

    @property
    def support(self) -> dist.constraints.Constraint:
        """The reals, because any clean value may be kept."""
        return dist.constraints.real

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """Draw values of shape ``sample_shape + batch_shape``."""
        shape = torch.Size(sample_shape) + self.x.shape
        with torch.no_grad():
            uniform = torch.rand(shape, dtype=self.x.dtype, device=self.x.device)
            # From the last threshold (the rate itself) down: each smaller one overwrites its share.
            thresholds = []
            total: float | Tensor = 0.0
            for _, share in self.atoms:
                total = total + self.rate * share
                thresholds.append(total)
        value = self.x.expand(shape)
        for (atom, _), threshold in zip(reversed(self.atoms), reversed(thresholds), strict=True):
            value = torch.where(uniform < threshold, atom, value)
        return value

    def mass(self, value: Tensor) -> Tensor:
        """Return the probability of each element."""
        mass = (1 - self.rate) * (value == self.x).to(self.x.dtype)
        for atom, share in self.atoms:
            mass = mass + self.rate * share * (value == atom)
        return mass

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of each element (nats)."""
        return self.mass(value).log()


class ReplacingCorruption(Corruption):
    """Each element becomes one of the subclass's atoms with probability ``rate``.

    A learned rate has a score-function gradient. With a ``temperature`` the corruption is relaxed
    (:class:`RelaxedReplacement`): gradients are pathwise and have low variance, but are biased, because draws
    lie between the element and an atom. The attribute may change during training; None turns relaxation off.

    :param rate: probability of a replacement, in [0, 1]: a number, a tensor with a value for each element, a
        schedule, or a network applied to the data (see :class:`NetworkCorruption`).
    :param learnable: learn the rate, starting at ``rate`` and bounded below by ``minimum``.
    :param temperature: positive temperature of the relaxation.
    """

    def __init__(
        self,
        rate: LevelLike,
        *,
        learnable: bool = False,
        minimum: float = 0.0,
        temperature: float | None = None,
    ) -> None:
        super().__init__()
        self.rate = level("rate", rate, learnable=learnable, minimum=minimum)
        self.temperature = None if temperature is None else checks.positive("temperature", temperature)

    @abstractmethod
    def atoms(self, x: Tensor, rate: Tensor) -> Atoms:
        """Return pairs of a value that may replace an element of ``x`` and its share; shares sum to 1."""

    def distribution(self, x: Tensor) -> TorchDistribution:
        rate = self.rate(x).to(x.dtype)
        atoms = self.atoms(x, rate)
        if self.temperature is None:
            return Replacement(x, rate, atoms)
        return RelaxedReplacement(x, rate, atoms, self.temperature)


class Masking(ReplacingCorruption):
    """Replace each element by 0 with probability ``rate``; other elements are not rescaled.

    :param rate: probability of masking, in [0, 1]: a number, a tensor with a value for each element, a
        schedule, or a network applied to the data.
    :param learnable: learn the rate, starting at ``rate`` and bounded below by ``minimum``.
    :param temperature: relax the corruption (see :class:`ReplacingCorruption`).
    """

    def atoms(self, x: Tensor, rate: Tensor) -> Atoms:
        return [(0.0, 1.0)]


class BitFlip(ReplacingCorruption):
    """Replace each element x by 1 − x with probability ``rate``; for binary data this flips bits.

    :param rate: probability of a flip, in [0, 1]: a number, a tensor with a value for each element, a
        schedule, or a network applied to the data.
    :param learnable: learn the rate, starting at ``rate`` and bounded below by ``minimum``.
    :param temperature: relax the corruption (see :class:`ReplacingCorruption`).
    """

    def atoms(self, x: Tensor, rate: Tensor) -> Atoms:
        return [(1 - x, 1.0)]
