"""Mixtures of Gaussian vectors with gaps: densities, conditionals and draws in closed form."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

_NUMBERS = 2**21  # bytes of the [D, D] matrices of a block of rows


class Conditional(NamedTuple):
    """One Gaussian component given the observed cells of rows.

    :param log_prob: log N(x_observed), [N] (nats).
    :param mean: rows with conditional means in the gaps, [N, D].
    :param inverse: Σ_oo⁻¹, zero in rows and columns of missing cells, [N, D, D].
    """

    log_prob: Tensor
    mean: Tensor
    inverse: Tensor


def conditional(loc: Tensor, covariance: Tensor, x: Tensor, seen: Tensor) -> Conditional:
    """Return x_missing | x_observed of N(μ, Σ); its covariance is Σ − Σ ``inverse`` Σ.

    :param loc: μ, [D].
    :param covariance: Σ, [D, D].
    :param x: rows, [N, D]; missing cells are not read.
    :param seen: which cells are observed, [N, D].
    """
    patterns, which = seen.unique(dim=0, return_inverse=True)
    here = patterns.to(loc.dtype)
    gaps = torch.diag_embed(1 - here)
    tril = torch.linalg.cholesky(covariance * here.unsqueeze(-1) * here.unsqueeze(-2) + gaps)
    inverse = (torch.cholesky_inverse(tril) - gaps)[which]
    log_det = 2 * tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    constant = (log_det + math.log(2 * math.pi) * here.sum(-1))[which]
    residual = torch.where(seen, x - loc, 0.0)
    white = (inverse @ residual.unsqueeze(-1)).squeeze(-1)
    log_prob = -0.5 * ((white * residual).sum(-1) + constant)
    return Conditional(log_prob, torch.where(seen, x, loc + white @ covariance), inverse)


def blocks(rows: int, columns: int) -> Iterator[slice]:
    """Return slices of rows whose [D, D] matrices about fit into the cache."""
    size = max(1, _NUMBERS // (8 * columns**2))
    return (slice(start, start + size) for start in range(0, max(1, rows), size))


class GaussianMixture(dist.TorchDistribution):
    """``p(x) = Σ_k π_k N(x; μ_k, Σ_k)``, the same for all rows of a batch.

    :param logits: logits of π, [K].
    :param loc: μ, [K, D].
    :param covariance: Σ, [K, D, D].
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector

    def __init__(
        self, logits: Tensor, loc: Tensor, covariance: Tensor, batch_shape: torch.Size | tuple[int, ...] = ()
    ) -> None:
        self.logits, self.loc, self.covariance = torch.log_softmax(logits, -1), loc, covariance
        super().__init__(torch.Size(batch_shape), loc.shape[-1:], validate_args=False)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> GaussianMixture:
        return GaussianMixture(self.logits, self.loc, self.covariance, torch.Size(batch_shape))

    @property
    def mean(self) -> Tensor:
        """E x, [..., D]."""
        return (self.logits.exp() @ self.loc).expand(self.batch_shape + self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(x) of the batch shape (nats)."""
        return self.observed_log_prob(value, torch.ones_like(value, dtype=torch.bool))

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """Draw rows of shape ``sample_shape + batch_shape + [D]``."""
        shape = torch.Size(sample_shape) + self.batch_shape
        which = torch.multinomial(self.logits.exp(), shape.numel(), replacement=True)
        tril = torch.linalg.cholesky(self.covariance)
        noise = torch.randn(len(which), self.loc.shape[-1], dtype=self.loc.dtype, device=self.loc.device)
        found = noise.new_empty(noise.shape)
        for k in range(len(self.loc)):
            found[which == k] = self.loc[k] + noise[which == k] @ tril[k].mT
        return found.reshape(shape + self.event_shape)

    def observed_log_prob(self, x: Tensor, seen: Tensor) -> Tensor:
        """Return log p(x_observed) of rows [..., D] (nats)."""
        return self.joint(x, seen)[0].logsumexp(-1)

    def expected(self, x: Tensor, seen: Tensor) -> Tensor:
        """Return the rows with E(x_missing | x_observed) in the gaps, [..., D]."""
        log_joint, means = self.joint(x, seen)
        return (torch.softmax(log_joint, -1).unsqueeze(-1) * means).sum(-2)

    def drawn(self, x: Tensor, seen: Tensor, num_draws: int = 1, *, shared: bool = False) -> Tensor:
        """Return draws of the rows given their observed cells, [num_draws, ..., D], by Matheron's rule.

        A component is drawn by its weight given the observed cells, then a whole row of it, shifted by what
        its observed cells miss.

        :param shared: draw all rows from the same noise, so that the draws of a row do not depend on others.
        """
        flat, here = x.reshape(-1, x.shape[-1]), seen.reshape(-1, x.shape[-1])
        found = flat.new_empty(num_draws, *flat.shape)
        trils = torch.linalg.cholesky(self.covariance)
        log_joint = self.joint(flat, here)[0]
        share, common = torch.softmax(log_joint, -1), torch.empty(0)
        if shared:
            common = torch.randn(len(trils), num_draws, 1, flat.shape[-1], dtype=flat.dtype).to(flat.device)
            level = torch.rand(1, num_draws, dtype=flat.dtype).to(flat.device).expand(len(flat), -1)
            edges = share.cumsum(-1)[:, :-1].contiguous()
            which = torch.searchsorted(edges, level.contiguous(), right=True).T
        else:
            which = torch.multinomial(share, num_draws, replacement=True).T  # [draws, N]
        for k, (loc, covariance, tril) in enumerate(zip(self.loc, self.covariance, trils, strict=True)):
            own = (which == k).any(0).nonzero()[:, 0]
            for block in blocks(len(own), flat.shape[-1]):
                rows = own[block]
                given = conditional(loc, covariance, flat[rows], here[rows])
                size = (num_draws, len(rows), flat.shape[-1])
                noise = torch.randn(size, dtype=flat.dtype, device=flat.device) if not shared else common[k]
                noise = (noise @ tril.mT).expand(size)
                known = torch.where(here[rows], noise, 0.0)
                shift = torch.einsum("nij,rnj->rni", given.inverse, known) @ covariance
                draws = torch.where(here[rows], flat[rows], given.mean + noise - shift)
                chosen = (which[:, rows] == k).unsqueeze(-1)
                found[:, rows] = torch.where(chosen, draws, found[:, rows])
        return found.reshape(num_draws, *x.shape)

    def joint(self, x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return log π_k + log N_k(x_observed), [..., K], and the means of each component, [..., K, D]."""
        flat, here = x.reshape(-1, x.shape[-1]), seen.reshape(-1, x.shape[-1])
        joints, means = [], []
        for loc, covariance, logit in zip(self.loc, self.covariance, self.logits, strict=True):
            parts = [
                conditional(loc, covariance, flat[rows], here[rows])[:2]
                for rows in blocks(len(flat), flat.shape[-1])
            ]
            joints.append(torch.cat([log_prob for log_prob, _ in parts]) + logit)
            means.append(torch.cat([mean for _, mean in parts]))
        # Overflow of all components must not give NaN weights.
        joint = torch.stack(joints, -1).clamp(min=torch.finfo(x.dtype).min / 4)
        mean = torch.stack(means, -2)
        lead, (count, size) = x.shape[:-1], self.loc.shape
        return joint.reshape(*lead, count), mean.reshape(*lead, count, size)
