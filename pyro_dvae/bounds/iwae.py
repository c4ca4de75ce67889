"""The importance-weighted denoising bound."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from pyro_dvae import checks
from pyro_dvae.bounds.base import DenoisingELBO
from pyro_dvae.bounds.pathwise import factor_of_density, refuse_chains, total_derivative_surrogate
from pyro_dvae.bounds.reductions import AVERAGE, POOLED, Objective, log_mean_exp
from pyro_dvae.bounds.score import baseline_of, has_score, score_surrogate
from pyro_dvae.errors import InputError
from pyro_dvae.programs.draws import Draws, LogWeight
from pyro_dvae.programs.observations import check_weights
from pyro_dvae.programs.rerun import CrossDensity, mixture_density

_OBJECTIVES = {"average": AVERAGE, "pooled": POOLED, "mixture": POOLED}


class TraceDenoisingIWAE_ELBO(DenoisingELBO):
    """The importance-weighted denoising bound of Im et al. (2017), equation 12, per observation and in nats.

    With weights ``w_mk = p_θ(x, z_mk) / q_φ(z_mk|x̃_m)``::

        average   1/M Σ_m log 1/K Σ_k w_mk        as in the paper, with the 1/K that it omits in the log
        pooled    log 1/(MK) Σ_m Σ_k w_mk         tighter
        mixture   pooled, with w_mk = p_θ(x, z_mk) / (1/M Σ_m' q_φ(z_mk|x̃_m')), the balance heuristic of
                  Veach and Guibas (1995): the lowest variance of the weights, M times the densities of q

    All are lower bounds of log p(x) and grow with K. Each observation has its own weights. Plate scales and
    ``poutine.scale`` multiply after the logarithm. Without a corruption site this is the IWAE bound of Burda
    et al. (2016), for any Pyro model and guide. With a latent outside the data plate, one weight covers all
    data, which is correct for the whole data set and refused for mini-batches.

    :param combine: ``"average"``, ``"pooled"`` or ``"mixture"``.
    :param gradient: estimator for reparameterised sites: ``"pathwise"``, or ``"dreg"``, the doubly
        reparameterised gradient of Tucker et al. (2019), whose signal-to-noise ratio does not fall with K.
    :param baseline: baseline for the score functions of all other sites: ``"vimco"`` (Mnih and Rezende 2016),
        ``"none"``, or a network of the model's arguments, trained jointly (NVIL, Mnih and Gregor 2014).

    See :class:`~pyro_dvae.bounds.base.DenoisingELBO` for the other arguments.
    """

    def __init__(
        self,
        *,
        num_corruptions: int = 1,
        num_particles: int = 1,
        combine: str = "average",
        gradient: str = "pathwise",
        baseline: str | nn.Module = "vimco",
        **kwargs: Any,
    ) -> None:
        super().__init__(num_corruptions=num_corruptions, num_particles=num_particles, **kwargs)
        self.combine = checks.known("combine", combine, _OBJECTIVES)
        if checks.text("gradient", gradient) == "stl":
            raise InputError(
                "gradient: 'stl' is biased for importance weights; use 'dreg', its unbiased form"
            )
        self.gradient = checks.known("gradient", gradient, ("pathwise", "dreg"))
        if self.gradient == "dreg" and self.combine == "mixture":
            raise InputError("gradient: 'dreg' does not cover combine='mixture'; use 'pathwise'")
        self.baseline = baseline_of(
            baseline,
            "vimco",
            {"leave-one-out": "'leave-one-out' is of the denoising bound; use 'vimco'"},
        )

    @property
    def _objective(self) -> Objective:
        return _OBJECTIVES[self.combine]

    def _log_weight(self, draws: Draws) -> tuple[LogWeight, CrossDensity | None]:
        if self.num_particles > 1 or (self.combine != "average" and self.num_corruptions > 1):
            check_weights(draws, self._warned)
        if self.combine != "mixture" or self.num_corruptions == 1:
            return draws.log_weight(), None
        joint, factor = draws.joint()
        cross = mixture_density(draws)
        values = joint.values - factor * log_mean_exp(cross.values, (0,))
        return LogWeight(values, joint.scale, joint.rest), cross

    def _needs_leaves(self) -> bool:
        return self.gradient == "dreg"

    def _per_datum(self, draws: Draws) -> Tensor:
        return self._objective.reduce(self._log_weight(draws)[0].values)

    def _bound_and_surrogate(self, draws: Draws) -> tuple[Tensor, Tensor]:
        log_weight, cross = self._log_weight(draws)
        bound = self._objective.reduce(log_weight.values)
        total = (log_weight.scale * bound).sum() + log_weight.rest
        if not torch.is_grad_enabled():
            return total, total
        surrogate = total
        if self.gradient == "dreg":
            surrogate = log_weight.rest + self._doubly_reparameterised(draws, log_weight)
        score = score_surrogate(
            draws,
            log_weight,
            self._objective,
            self.baseline,
            None if cross is None else lambda: _mixture_without(draws, cross),
        )
        return total.detach(), surrogate + score

    def _doubly_reparameterised(self, draws: Draws, log_weight: LogWeight) -> Tensor:
        for site in draws.counted_sites():
            if has_score(site):
                raise InputError(
                    f"gradient: 'dreg' needs reparameterised latents, and {site['name']!r} is not; "
                    "use 'pathwise'"
                )
        refuse_chains(draws)
        weights = self._objective.weights(log_weight.values.detach())
        # (d bound / d log w)², where the average's factor 1/M must appear only once.
        columns = self.num_corruptions if self._objective.within_column else 1
        # If log q counts b times (a scale or a mask), b times the identity of Tucker et al. is needed.
        b = factor_of_density(draws)
        by_draw = (1 - b) * weights + b * columns * weights**2
        return total_derivative_surrogate(draws, log_weight.scale * by_draw, log_weight.scale * weights)


def _mixture_without(draws: Draws, cross: CrossDensity) -> Tensor | None:
    """Return the mixture bound without each corruption (its draws and its component), [M, *datum]."""
    count = len(cross.values)
    if count == 1:
        return None
    joint, factor = draws.joint()
    density, log_joint = cross.values.detach(), joint.values.detach()
    extra = [1] * (density.dim() - 3)
    same = torch.eye(count, dtype=torch.bool, device=density.device)
    # [left out, component, K, M, *datum], then [left out, K, M, *datum].
    kept = density.masked_fill(same.reshape(count, count, 1, 1, *extra), -math.inf)
    proposal = torch.logsumexp(kept, 1) - math.log(count - 1)
    weights = (log_joint - factor * proposal).masked_fill(same.reshape(count, 1, count, *extra), -math.inf)
    return torch.logsumexp(weights, (1, 2)) - math.log(log_joint.shape[0] * (count - 1))
