"""How unusual a row is among the training rows, by several models of different resolution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_dvae.distributions.gaussian_mixture import GaussianMixture
from pyro_dvae.models.tables.candidates import fitted_mixtures, sizes
from pyro_dvae.random_state import forked

_RIDGES = (1.0, 0.1, 0.001)
_TAIL, _FILLINGS, _SEED, _ROWS = 0.2, 5, 0, 5000


@dataclass(frozen=True)
class TailProbability:
    """The tail probability of −log p(x) among the training rows, under the model that finds x most unusual::

        score(x) = max_m −log P_n(s_m(x_n) ≥ s_m(x)),    s_m(x) = −log p_m(x)

    Coarse models see that a row lies far out, fine ones that it lies in a hole between clusters. P is the
    share of the training rows; above their upper fifth, an exponential distribution of the excess. Gaps are
    filled by draws from p_m(x_missing | x_observed), so they make a row neither odd nor usual. All rows
    share the noise of these draws, so the score of a row does not depend on the others.

    :param mixtures: p_m.
    :param usual: s_m of the training rows, sorted, [M, n].
    """

    mixtures: tuple[GaussianMixture, ...]
    usual: Tensor

    @classmethod
    def beside(cls, x: Tensor) -> TailProbability:
        """Return the score for standardised training rows ``x`` [n, D], with all candidates."""
        return cls.among([each for _, each in fitted_mixtures(x, sizes(x), ridges=_RIDGES)], x)

    @classmethod
    def among(cls, mixtures: Sequence[GaussianMixture], x: Tensor) -> TailProbability:
        """Return the score for standardised training rows ``x`` [n, D] with NaN in gaps."""
        usual = torch.stack([_surprise(each, x) for each in mixtures])
        return cls(tuple(mixtures), usual.sort(dim=1).values)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the score of standardised rows [N, D], [N] (nats)."""
        found = x.new_zeros(len(x))
        for mixture, usual in zip(self.mixtures, self.usual, strict=True):
            surprise = torch.cat([_surprise(mixture, rows) for rows in x.split(_ROWS)])
            found = torch.maximum(found, _tail(usual, surprise))
        return found


def _surprise(mixture: GaussianMixture, x: Tensor) -> Tensor:
    """Return −log p(x) of rows whose gaps are filled, averaged over a few fillings, [N]."""
    seen = ~x.isnan()
    gaps = ~seen.all(1)
    found = x.new_empty(len(x))
    found[~gaps] = -mixture.log_prob(x[~gaps])
    with forked(_SEED):
        filled = mixture.drawn(x[gaps].nan_to_num(), seen[gaps], _FILLINGS, shared=True)
    found[gaps] = -mixture.log_prob(filled).mean(0)
    return found


def _tail(usual: Tensor, value: Tensor) -> Tensor:
    """Return −log P(s ≥ value) for sorted training values s [n]."""
    count = len(usual)
    above = count - torch.searchsorted(usual, value)
    share = ((1 + above) / (1 + count)).to(usual)
    start = usual[min(count - 1, math.ceil((1 - _TAIL) * count))]
    excess = (usual[usual >= start] - start).mean().clamp(min=1e-9)
    beyond = -math.log(_TAIL) + (value - start) / excess
    return torch.where(value > start, beyond, -share.clamp(min=_TAIL).log())
