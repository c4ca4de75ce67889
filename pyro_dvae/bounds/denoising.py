"""The denoising variational lower bound."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions.util import is_identically_zero
from pyro.infer.util import MultiFrameTensor
from torch import Tensor

from pyro_dvae.bounds.base import DenoisingELBO
from pyro_dvae.bounds.draws import Draws
from pyro_dvae.bounds.plates import CORRUPTIONS, PARTICLES


class TraceDenoising_ELBO(DenoisingELBO):
    """The denoising bound of Im et al. (2017), equations 8 and 11, per datum and in nats::

        L_dvae = E_{x̃ ~ p_π(x̃|x)} E_{z ~ q_φ(z|x̃)} [ log p_θ(x, z) − log q_φ(z|x̃) ]  ≤  log p_θ(x)

    estimated by the mean over M corruptions and K latents of each. The model observes clean ``x``; only
    the guide sees ``x̃``. With no corruption site it is Pyro's ``Trace_ELBO`` with vectorised particles.

    Gradients: pathwise where a site is reparameterised; elsewhere the score function, Rao-Blackwellised over
    plates as in ``Trace_ELBO``, with a leave-one-out baseline over the K draws of a latent (over the M
    corruptions where K = 1) and over the M draws of a corruption where M > 1.

    See :class:`~pyro_dvae.bounds.base.DenoisingELBO` for the arguments.
    """

    def _combine(self, log_weight: Tensor) -> Tensor:
        return log_weight.mean((0, 1))

    def _bound(self, draws: Draws) -> Tensor:
        log_model = sum(_mean_over_draws(site["log_prob"].detach(), site) for site in draws.model_sites())
        log_guide = sum(_mean_over_draws(site["log_prob"].detach(), site) for site in draws.latent_sites())
        return torch.as_tensor(log_model - log_guide)

    def _surrogate(self, draws: Draws) -> Tensor:
        total = sum(_mean_over_draws(site["log_prob"], site) for site in draws.model_sites())
        for site in draws.latent_sites():
            entropy = site["score_parts"].entropy_term
            if not is_identically_zero(entropy):
                total = total - _mean_over_draws(entropy, site)
        cost: MultiFrameTensor | None = None
        for site in [*draws.latent_sites(), *draws.auxiliary_sites()]:
            score = site["score_parts"].score_function
            if not is_identically_zero(score):
                cost = _cost(draws) if cost is None else cost
                total = total + _mean_over_draws(self._signal(draws, cost, site) * score, site)
        return torch.as_tensor(total)

    def _signal(self, draws: Draws, cost: MultiFrameTensor, site: dict[str, Any]) -> Tensor:
        """Return the learning signal of a score-function site, shape [K, M, *plates] or [M, *plates]."""
        names = {frame.name for frame in site["cond_indep_stack"]}
        signal = cost.sum_to(site["cond_indep_stack"])
        if draws.layout.num_particles > 1 and PARTICLES not in names:
            signal = signal / draws.layout.num_particles
        if draws.layout.num_particles > 1 and PARTICLES in names:
            return _leave_one_out(signal, draws.layout.particle_dim)
        if draws.layout.num_corruptions > 1 and CORRUPTIONS in names:
            return _leave_one_out(signal, draws.layout.corruption_dim)
        return signal


def _cost(draws: Draws) -> MultiFrameTensor:
    """Return log p − log q of the counted sites, by their plates, without a gradient."""
    cost = MultiFrameTensor()
    for site in draws.model_sites():
        cost.add((site["cond_indep_stack"], site["log_prob"].detach()))
    for site in draws.latent_sites():
        cost.add((site["cond_indep_stack"], -site["log_prob"].detach()))
    return cost


def _leave_one_out(signal: Tensor, dim: int) -> Tensor:
    """Subtract from each draw the mean of the other draws along ``dim``."""
    size = signal.shape[dim]
    return (signal - signal.mean(dim, keepdim=True)) * (size / (size - 1))


def _mean_over_draws(value: Tensor, site: dict[str, Any]) -> Tensor:
    """Sum over the user's plates, mean over the draws the site has."""
    count = 1
    for frame in site["cond_indep_stack"]:
        if frame.name in (CORRUPTIONS, PARTICLES):
            count *= frame.size
    return value.sum() / count
