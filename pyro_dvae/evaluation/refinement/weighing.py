"""Draws of refined proposals with their importance weights, and the estimates from the weights."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.annealing.chunks import annealed
from pyro_dvae.evaluation.annealing.density import ChainState
from pyro_dvae.evaluation.annealing.kernels import PILOT_CHAINS, adapted
from pyro_dvae.evaluation.annealing.settings import AnnealingSettings
from pyro_dvae.evaluation.importance.tally import Tally
from pyro_dvae.evaluation.refinement.gaussian import Gaussians
from pyro_dvae.evaluation.refinement.settings import Refinement
from pyro_dvae.evaluation.refinement.targets import Targets
from pyro_dvae.rows import Arguments

RESOLUTION = 1e-4  # nats: about the rounding error of a log weight in float32
_LEAPFROG_STEPS, _ACCEPTANCE = 5, 0.65


def weighted(
    targets: Targets, rows: Arguments, proposal: Gaussians, count: int, from_prior: int = 0
) -> tuple[Tensor, list[Tensor]]:
    """Return draws [S, N, D] and their log weights, from the proposal first, then from the prior::

        log w = log p(x, z) − log ((1 − a) q(z) + a p(z)),  a the share of draws from the prior

    :returns: the draws, and the log weights [1, draws, N] of each source (nats).
    """
    noise = proposal.draw_noise(count)
    position, log_q = proposal.place(noise), proposal.log_prob(noise)
    if from_prior:
        others = targets.prior(from_prior, rows).to(position)
        position = torch.cat([position, others])
        log_q = torch.cat([log_q, proposal.log_prob(proposal.noise_of(others))])
    prior, likelihood = targets.log_densities(position, rows)
    if from_prior:
        share = from_prior / len(position)
        log_q = torch.logaddexp(math.log1p(-share) + log_q, math.log(share) + prior)
    log_weight = (prior + likelihood - log_q).cpu()
    parts = [log_weight[None, :count]]
    return position, [*parts, log_weight[None, count:]] if from_prior else parts


def summary(parts: list[Tensor], computed_in: torch.dtype) -> dict[str, Tensor]:
    """Return the estimates of each row [N], by name, from log weights in parts [1, draws, N]."""
    tally = Tally(sum(part.shape[1] for part in parts), parts[0].shape[-1])
    tally.add(parts)
    return tally.results(RESOLUTION, torch.finfo(computed_in).eps)


def require_known(values: Tensor) -> Tensor:
    """Return log-densities, or refuse NaN."""
    if bool(values.isnan().any()):
        raise InputError(
            "model: expected log-densities, got NaN for a row and a latent; leave out rows with huge values, "
            "or use condition, which marks them as not reliable"
        )
    return values


def chains(
    targets: Targets, rows: Arguments, proposal: Gaussians, settings: Refinement
) -> tuple[Tensor, Tensor]:
    """Anneal chains from the proposal to the posterior (Neal 2001).

    :returns: their end points [C, N, D] and log weights [C, N] (nats).
    """

    def density(position: Tensor) -> ChainState:
        noise = proposal.noise_of(position)
        base, slope = proposal.log_prob(noise), proposal.slope(noise)
        joint, whole = targets.gradient(position, rows)
        return ChainState(position, base, joint - base, slope, whole - slope)

    def start(count: int) -> tuple[Callable[[Tensor], ChainState], ChainState]:
        return density, density(proposal.place(proposal.draw_noise(count)))

    plan = AnnealingSettings(
        settings.annealing_steps, settings.num_chains, "guide", _LEAPFROG_STEPS, "sigmoid", _ACCEPTANCE, 0
    )
    kernels = adapted(lambda: start(PILOT_CHAINS), len(rows), plan, _nothing)
    weights, point = annealed(*start(settings.num_chains), kernels, _nothing)
    return point.position, weights.log_weight


def _nothing() -> None:
    """Show no progress."""
