"""Semi-implicit bounds, which lie between the denoising bound and the bound of the marginal guide."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pyro_dvae import checks
from pyro_dvae.bounds.base import DenoisingELBO
from pyro_dvae.bounds.reductions import MEAN, log_mean_exp
from pyro_dvae.bounds.score import Baseline, baseline_of, score_surrogate
from pyro_dvae.buffers import on_trial
from pyro_dvae.corruptions import Schedule
from pyro_dvae.errors import InputError
from pyro_dvae.programs.drawing import refuse_outside_plates, refuse_undeclared
from pyro_dvae.programs.draws import Draws, LogWeight
from pyro_dvae.programs.observations import check_weights
from pyro_dvae.programs.rerun import mixture_density, redrawn_density


class TraceSemiImplicit_ELBO(DenoisingELBO):
    """The semi-implicit bound of Yin and Zhou (2018) for guides with auxiliary sites, per observation, nats::

        L_J = E log p_θ(x, z) / ( 1/(J+1) Σ_{j=0..J} q_φ(z|x̃_j) ),   z ~ q_φ(·|x̃_0),  x̃_j ~ p_π(x̃|x)

    L_0 is the denoising bound L_dvae; L_J grows with J to L_cvae, the bound of the marginal guide q̃(z|x) = E
    q_φ(z|x̃), and stays below log p(x). The guide is run once more with its latents fixed and its auxiliary
    sites drawn J times (shared by the M × K draws), in one pass on J inputs per observation. A chain of
    several stochastic layers in the guide (Im et al. 2017, Theorem 1) is redrawn as a whole.

    Gradients are pathwise for reparameterised sites. Other sites, including redrawn ones, use score
    functions.

    :param num_mixture: J ≥ 0, a number or a schedule over epochs (rounded), updated by :meth:`set_epoch`.
    :param baseline: ``"leave-one-out"``, ``"none"``, or a network of the model's arguments (NVIL).

    See :class:`~pyro_dvae.bounds.base.DenoisingELBO` for the other arguments.
    """

    def __init__(
        self,
        *,
        num_corruptions: int = 1,
        num_particles: int = 1,
        num_mixture: int | Schedule = 10,
        baseline: str | nn.Module = "leave-one-out",
        **kwargs: Any,
    ) -> None:
        super().__init__(num_corruptions=num_corruptions, num_particles=num_particles, **kwargs)
        self._schedule = num_mixture if isinstance(num_mixture, Schedule) else None
        self.num_mixture = 0
        if isinstance(num_mixture, Schedule):
            self.set_epoch(0)
        else:
            self.num_mixture = checks.count("num_mixture", num_mixture, minimum=0)
        refused = {"vimco": "'vimco' is of the importance-weighted bounds; use 'leave-one-out'"}
        self.baseline: Baseline = baseline_of(baseline, "leave-one-out", refused)

    def set_epoch(self, epoch: float) -> None:
        """Set a scheduled J to its value at ``epoch`` (0 for the first)."""
        if self._schedule is not None:
            self.num_mixture = checks.count("num_mixture", round(self._schedule(epoch)), minimum=0)

    @torch.no_grad()
    def upper_per_datum(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return the upper sandwich of L_cvae of each observation, [*datum] (nats): the mixture without x̃_0.

        It bounds L_cvae from above; it does not bound log p(x).
        """
        if self.num_mixture == 0:
            raise InputError("num_mixture: the upper sandwich needs at least 1, got 0")
        draws = self.draws(model, guide, args, kwargs)
        self._check(draws)
        joint, factor = draws.joint()
        redrawn = redrawn_density(draws, self.num_mixture)
        return MEAN.reduce(joint.values - factor * log_mean_exp(redrawn.values, (0,)))

    def _adds_dimensions(self) -> bool:
        return super()._adds_dimensions() or self.num_mixture > 0

    def _is_single(self) -> bool:
        return super()._is_single() and self.num_mixture <= 1

    def _per_datum(self, draws: Draws) -> Tensor:
        return MEAN.reduce(self._evaluate(draws)[0].values)

    def _bound_and_surrogate(self, draws: Draws) -> tuple[Tensor, Tensor]:
        log_weight, redrawn_score = self._evaluate(draws)
        total = (log_weight.scale * MEAN.reduce(log_weight.values)).sum() + log_weight.rest
        if not torch.is_grad_enabled():
            return total, total
        score = score_surrogate(draws, log_weight, MEAN, self.baseline)
        return total, total + score + redrawn_score

    def _check(self, draws: Draws) -> None:
        check_weights(draws, self._warned)
        if self._checked and self._checked[0].is_due():
            with on_trial(), torch.no_grad():
                mixture_density(draws)  # refuses a guide whose second run differs
        if draws.runs:
            return
        when = f"J = {self.num_mixture} further corruptions"
        if self.num_mixture > 1:
            refuse_undeclared(draws, when)
        else:
            refuse_outside_plates(draws, when)

    def _evaluate(self, draws: Draws) -> tuple[LogWeight, Tensor | float]:
        """Return the integrand [K, M, *datum], and the score-function surrogate of the redrawn sites."""
        if self.num_mixture == 0:
            return draws.log_weight(), 0.0
        self._check(draws)
        joint, factor = draws.joint()
        own = -draws.log_weight(draws.guide_terms()).values.unsqueeze(0)
        redrawn = redrawn_density(draws, self.num_mixture)
        shape = torch.broadcast_shapes(own.shape[1:], redrawn.values.shape[1:])
        # Without corruptions there is one value for all.
        further = redrawn.values.expand(self.num_mixture, *shape)
        densities = torch.cat([own.expand(1, *shape), further])
        values = joint.values - factor * log_mean_exp(densities, (0,))
        score: Tensor | float = 0.0
        if redrawn.score is not None and torch.is_grad_enabled():
            # The bound without component j does not depend on x̃_j, so it is a baseline.
            gain = (values.detach() - joint.values.detach()) + factor * _without_each(densities.detach())[1:]
            gain = gain / (gain.shape[1] * gain.shape[2])
            for dim in (1, 2):
                if redrawn.score.shape[dim] == 1:
                    gain = gain.sum(dim, keepdim=True)
            score = (joint.scale * gain * redrawn.score).sum()
        return LogWeight(values, joint.scale, joint.rest), score


def _without_each(densities: Tensor) -> Tensor:
    """Return the log of the mean density without each component, [J + 1, ...] of [J + 1, ...]."""
    count = densities.shape[0]
    same = torch.eye(count, dtype=torch.bool, device=densities.device)
    same = same.reshape(count, count, *[1] * (densities.dim() - 1))
    others = densities.unsqueeze(1).masked_fill(same, -math.inf)
    return torch.logsumexp(others, 0) - math.log(count - 1)
