"""Gaussian mixtures of rows with gaps, by expectation-maximisation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_dvae.distributions.gaussian_mixture import GaussianMixture, blocks, conditional

_ACTIVE = 1e-4  # least responsibility of a component for a row to be updated in every step
_REFRESH = 5  # steps between updates of all responsibilities


def gaussian_mixture(
    x: Tensor,
    components: int = 1,
    *,
    ridge: float = 1e-2,
    prior: float = 10.0,
    num_steps: int = 25,
    tolerance: float = 3e-4,
    start: GaussianMixture | None = None,
) -> GaussianMixture:
    """Fit ``Σ_k π_k N(μ_k, Σ_k)`` to rows with gaps by expectation-maximisation::

        r_nk ∝ π_k N_k(x_n,observed),    S_k = Σ_n r_nk E_k[(x_n − μ_k)(x_n − μ_k)ᵀ | x_n,observed]
        Σ_k = (S_k + a Σ_j S_j / N) / (Σ_n r_nk + a) + ρ I

    The pooled covariance is a prior worth a rows. The ridge ρ is the variance of Gaussian noise on the
    rows; with one component it maximises the log-likelihood of the observed cells less ½ N ρ tr Σ⁻¹.

    :param x: standardised rows with NaN in missing cells, [N, D], float64.
    :param components: K.
    :param ridge: ρ.
    :param prior: a.
    :param num_steps: maximum number of steps.
    :param tolerance: stop when the gain in log-likelihood per cell is below this (nats).
    :param start: a mixture to start from; by default clusters of the rows, completed by one Gaussian.
    """
    seen = ~x.isnan()
    rows = torch.where(seen, x, 0.0)
    if start is None:
        start = _single(x) if components == 1 else _clusters(x, components)
    if start.loc.shape[0] == 1:
        prior = 0.0
    count, size = x.shape
    loc, covariance, log_weight = start.loc.clone(), start.covariance.clone(), start.logits.clone()
    overall = loc.mean(0)
    identity = torch.eye(size, dtype=x.dtype, device=x.device)
    active = torch.ones(count, components, dtype=torch.bool, device=x.device)
    last = -math.inf
    for step in range(num_steps):
        if step % _REFRESH == 0:
            active.fill_(True)
        joint = torch.full((count, components), -math.inf, dtype=x.dtype, device=x.device)
        means, inverses = [], []
        for k in range(components):
            own = active[:, k].nonzero()[:, 0]
            parts = [
                conditional(loc[k], covariance[k], rows[own[block]], seen[own[block]])
                for block in blocks(len(own), size)
            ]
            joint[own, k] = torch.cat([part.log_prob for part in parts]) + log_weight[k]
            means.append(torch.cat([part.mean for part in parts]))
            inverses.append([part.inverse for part in parts])
        evidence = joint.logsumexp(1, keepdim=True)
        share = (joint - evidence).exp()
        scatters = []
        for k in range(components):
            own = active[:, k].nonzero()[:, 0]
            weight, mean = share[own, k], means[k]
            total = weight.sum()
            loc[k] = (weight @ mean + bool(prior) * overall) / (total + bool(prior))
            centred = mean - loc[k]
            inverse = sum(
                torch.einsum("n,nij->ij", weight[block], part)
                for block, part in zip(blocks(len(own), size), inverses[k], strict=True)
            )
            spread = total * covariance[k] - covariance[k] @ inverse @ covariance[k]
            scatters.append((weight.unsqueeze(1) * centred).mT @ centred + spread)
        scatter, totals = torch.stack(scatters), share.sum(0)
        pooled = scatter.sum(0) / count
        covariance = (scatter + prior * pooled) / (totals + prior)[:, None, None] + ridge * identity
        covariance = (covariance + covariance.mT) / 2
        log_weight = ((totals + bool(prior)) / (totals + bool(prior)).sum()).log()
        active = share > _ACTIVE
        now = float(evidence.sum()) / max(1, int(seen.sum()))
        if step % _REFRESH == 0:
            if now - last < tolerance * _REFRESH:
                break
            last = now
    return GaussianMixture(log_weight, loc, covariance)


def _single(x: Tensor) -> GaussianMixture:
    loc = x.nanmean(0).nan_to_num()
    identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    return GaussianMixture(x.new_zeros(1), loc.unsqueeze(0), identity.unsqueeze(0))


def _clusters(x: Tensor, components: int) -> GaussianMixture:
    """Return components at clusters (k-means) of the rows completed by one Gaussian."""
    single = gaussian_mixture(x)
    seen = ~x.isnan()
    filled = single.expected(torch.where(seen, x, 0.0), seen)
    centres = filled[torch.randperm(len(x))[:components]]
    for _ in range(10):
        nearest = torch.cdist(filled, centres).argmin(1)
        for k in range(components):
            if bool((nearest == k).any()):
                centres[k] = filled[nearest == k].mean(0)
    share = torch.bincount(nearest, minlength=components).double() + 1
    covariance = 0.5 * single.covariance.expand(components, -1, -1)
    return GaussianMixture(share.log().to(x), centres, covariance)
