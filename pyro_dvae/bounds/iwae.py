"""The importance-weighted denoising bound."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions.util import is_identically_zero
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.bounds.base import DenoisingELBO
from pyro_dvae.bounds.draws import Draws


class TraceDenoisingIWAE_ELBO(DenoisingELBO):
    """The importance-weighted denoising bound of Im et al. (2017), equation 12, per datum and in nats.

    With weights ``w_mk = p_θ(x, z_mk) / q_φ(z_mk|x̃_m)``::

        average   1/M Σ_m log 1/K Σ_k w_mk        the paper's, with the 1/K that it leaves out of the log
        pooled    log 1/(MK) Σ_m Σ_k w_mk         tighter

    Both are lower bounds of log p(x) and grow with K. Weights are per datum; plate scales and
    ``poutine.scale`` multiply after the logarithm. With no corruption site this is the IWAE bound of Burda
    et al. (2016) for any Pyro model and guide. Gradients are pathwise.

    :param combine: ``"average"`` or ``"pooled"``.

    See :class:`~pyro_dvae.bounds.base.DenoisingELBO` for the other arguments.
    """

    def __init__(
        self,
        num_corruptions: int = 1,
        num_particles: int = 1,
        *,
        combine: str = "average",
        **kwargs: Any,
    ) -> None:
        super().__init__(num_corruptions, num_particles, **kwargs)
        self.combine = checks.known("combine", combine, ["average", "pooled"])

    def _combine(self, log_weight: Tensor) -> Tensor:
        if self.combine == "pooled":
            return _log_mean_exp(log_weight, (0, 1))
        return _log_mean_exp(log_weight, (0,)).mean(0)

    def _bound(self, draws: Draws) -> Tensor:
        log_weight = draws.log_weight()
        return (log_weight.scale * self._combine(log_weight.values.detach())).sum()

    def _surrogate(self, draws: Draws) -> Tensor:
        for site in [*draws.latent_sites(), *draws.auxiliary_sites()]:
            if not is_identically_zero(site["score_parts"].score_function):
                raise NotImplementedError(
                    f"site {site['name']!r} is not reparameterised, and this bound has the pathwise gradient "
                    "only: use pyro_dvae.TraceDenoising_ELBO"
                )
        log_weight = draws.log_weight()
        return (log_weight.scale * self._combine(log_weight.values)).sum()


def _log_mean_exp(value: Tensor, dims: tuple[int, ...]) -> Tensor:
    count = math.prod(value.shape[dim] for dim in dims)
    return torch.logsumexp(value, dims) - math.log(count)
