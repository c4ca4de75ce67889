"""The denoising bound with KL terms in closed form."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from pyro_dvae.bounds.denoising import TraceDenoising_ELBO
from pyro_dvae.distributions.divergence import closed_form_kl
from pyro_dvae.errors import InputError
from pyro_dvae.programs.dependence import dependent_priors, out_of_order
from pyro_dvae.programs.draws import Draws, Term, same
from pyro_dvae.programs.looped import joined_terms


class TraceMeanFieldDenoising_ELBO(TraceDenoising_ELBO):
    """The denoising bound with each latent's KL to its prior in closed form, per observation, in nats::

        E_{x̃ ~ p_π(x̃|x)} [ E_{z ~ q_φ(z|x̃)} log p_θ(x|z) − KL(q_φ(z|x̃) ‖ p_θ(z)) ]

    This is the estimator L^B of Kingma and Welling (2014). A KL term is sampled (L^A) if it has no known
    closed form (see :func:`~pyro_dvae.distributions.divergence.closed_form_kl`), or if only one of model and
    guide scales or masks the site. Unlike Pyro's ``TraceMeanField_ELBO``, this class accepts discrete sites
    and uses their score functions.

    With several latents, the KL of each is computed at the drawn values of its parents. This is correct
    unless the prior of a latent depends on a latent that the guide draws from it, as for a guide that goes up
    a chain and a model that goes down (``ChainGuide``, ``ChainModel``). Such a pair raises an
    :class:`InputError`. If the sites of model and guide are in the same order, this cannot happen; otherwise
    one more run decides (see :func:`~pyro_dvae.programs.dependence.dependent_priors`).

    See :class:`~pyro_dvae.bounds.denoising.TraceDenoising_ELBO` for the arguments; ``gradient="stl"`` does
    not apply to a closed form and is refused.
    """

    def __init__(self, **kwargs: Any) -> None:
        if kwargs.get("gradient", "pathwise") == "stl":
            raise InputError("gradient: 'stl' is for sampled terms; use TraceDenoising_ELBO(gradient='stl')")
        super().__init__(**kwargs)
        self._cleared: tuple[Any, ...] | None = None  # the last pair that passed the check

    def _terms(self, draws: Draws) -> list[Term]:
        if draws.runs:
            return joined_terms([self._terms(run) for run in draws.runs], draws)
        guide = {site["name"]: site for site in draws.latent_sites()}
        closed: dict[str, Tensor] = {}
        for site in draws.model_sites():
            if (latent := guide.get(site["name"])) is not None:
                divergence = closed_form(latent, site)
                if divergence is not None:
                    closed[site["name"]] = divergence
        self._refuse_dependent_priors(draws, closed)
        terms = []
        for term in draws.model_terms():
            latent = guide.get(term.site["name"])
            if latent is not None and latent["name"] in closed:
                terms.append(Term(latent, -1.0, closed[latent["name"]]))
                continue
            terms.append(term)
        return [*terms, *(term for term in draws.guide_terms() if term.site["name"] not in closed)]

    def _refuse_dependent_priors(self, draws: Draws, closed: Collection[str]) -> None:
        """Refuse a pair if the closed form for one of these latents is not valid in the bound."""
        suspects = {name: others for name, others in out_of_order(draws).items() if name in closed}
        pair = (draws.pair.model, draws.pair.guide, draws.pair.kind, suspects)
        if not suspects or pair == self._cleared:
            return
        for name, other in dependent_priors(draws, suspects).items():
            raise InputError(
                f"guide: it draws {other!r} given {name!r}, whose prior in the model depends on {other!r}: "
                "closed-form KL terms do not give a bound; use TraceDenoising_ELBO"
            )
        self._cleared = pair


def closed_form(latent: dict[str, Any], prior: dict[str, Any]) -> Tensor | None:
    """Return the KL of a latent to its prior, [K, M, *plates], or None if it must be sampled.

    It may replace log q − log p of the draws only if both have the same scale and mask.
    """
    if not same(latent["scale"], prior["scale"]) or not same(latent["mask"], prior["mask"]):
        return None
    divergence = closed_form_kl(latent["fn"], prior["fn"])
    if divergence is None:
        return None
    # A prior may have more draws than the latent, because it can depend on others.
    return divergence.expand(torch.broadcast_shapes(latent["fn"].batch_shape, prior["fn"].batch_shape))
