"""The denoising bound with KL terms in closed form."""

from __future__ import annotations

from typing import Any

import torch
from pyro.infer.trace_mean_field_elbo import _check_mean_field_requirement
from pyro.infer.util import is_validation_enabled
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_dvae.bounds.denoising import TraceDenoising_ELBO
from pyro_dvae.bounds.draws import Draws, Term
from pyro_dvae.errors import InputError


class TraceMeanFieldDenoising_ELBO(TraceDenoising_ELBO):
    """The denoising bound with the KL of each latent to its prior in closed form, per datum and in nats::

        E_{x̃ ~ p_π(x̃|x)} [ E_{z ~ q_φ(z|x̃)} log p_θ(x|z) − KL(q_φ(z|x̃) ‖ p_θ(z)) ]

    the estimator L^B of Kingma and Welling (2014); a site whose KL PyTorch does not know is sampled (L^A).
    Unlike Pyro's ``TraceMeanField_ELBO`` it allows discrete sites: they get their score function. As there, a
    latent's prior must not depend on latents that follow it in the guide.

    See :class:`~pyro_dvae.bounds.denoising.TraceDenoising_ELBO` for the arguments; ``gradient="stl"`` has
    nothing to leave out of a closed form and is refused.
    """

    def __init__(self, num_corruptions: int = 1, num_particles: int = 1, **kwargs: Any) -> None:
        if kwargs.get("gradient", "pathwise") == "stl":
            raise InputError("gradient: 'stl' is for sampled terms; use TraceDenoising_ELBO(gradient='stl')")
        super().__init__(num_corruptions, num_particles, **kwargs)

    def _terms(self, draws: Draws) -> list[Term]:
        if is_validation_enabled():
            _check_mean_field_requirement(draws.model_trace, draws.guide_trace)
        guide = {site["name"]: site for site in draws.latent_sites()}
        terms = []
        for term in draws.model_terms():
            latent = guide.get(term.site["name"])
            divergence = None if latent is None else _closed_form(latent, term.site)
            if latent is not None and divergence is not None:
                terms.append(Term(latent, -1.0, divergence))
                continue
            terms.append(term)
            if latent is not None:
                terms.append(Term(latent, -1.0, latent["unscaled_log_prob"]))
        return terms


def _closed_form(latent: dict[str, Any], prior: dict[str, Any]) -> Tensor | None:
    """Return the KL of a latent to its prior, [K, M, *plates], or None where it is not known."""
    try:
        divergence = kl_divergence(latent["fn"], prior["fn"])
    except NotImplementedError:
        return None
    if not isinstance(divergence, Tensor):  # of masked distributions
        divergence = torch.full(latent["fn"].batch_shape, float(divergence), device=latent["value"].device)
    return divergence.expand(latent["fn"].batch_shape)
