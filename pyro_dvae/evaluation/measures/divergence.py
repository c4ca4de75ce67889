"""The KL divergence of a latent site to its prior, element by element where it factorises."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.distributions import Distribution, Independent

from pyro_dvae.bounds.circular import circular, out_of_order
from pyro_dvae.bounds.draws import Draws, same
from pyro_dvae.distributions.divergence import closed_form_kl
from pyro_dvae.evaluation.measures.passes import Site


@dataclass(frozen=True)
class Divergence:
    """KL(q ‖ p) of one latent site, as signed terms, each with the scale and mask of its own site.

    :param terms: pairs of a site and a value, [*batch, *event] if ``factorised``, else [*batch] (nats).
    :param factorised: whether both distributions are independent over the elements of the event.
    :param closed_form: whether the value is the integral, not log q − log p of the draws.
    """

    terms: tuple[tuple[Site, Tensor], ...]
    factorised: bool
    closed_form: bool


def divergence(latent: Site, prior: Site, closed_form: bool) -> Divergence:
    """Return the divergence of a guide's site to the model's, in closed form if asked for and known."""
    q, p = latent["fn"], prior["fn"]
    factors, value = _factors(q, p), latent["value"]
    if closed_form and same(latent["scale"], prior["scale"]) and same(latent["mask"], prior["mask"]):
        shape = q.batch_shape if factors is None else value.shape
        exact = closed_form_kl(*(factors or (q, p)))
        if exact is not None:
            return Divergence(((latent, exact.to(value.device).expand(shape)),), factors is not None, True)
    if factors is None:
        terms = (latent, latent["unscaled_log_prob"]), (prior, -prior["unscaled_log_prob"])
        return Divergence(terms, False, False)
    log_q, log_p = (factor.log_prob(value).expand(value.shape) for factor in factors)
    return Divergence(((latent, log_q), (prior, -log_p)), True, False)


def integrable(draws: Draws) -> set[str]:
    """Return the latents whose closed form is right: no prior depends on what the guide draws from them."""
    return {site["name"] for site in draws.latent_sites()} - set(circular(draws, out_of_order(draws)))


def _factors(q: Distribution, p: Distribution) -> tuple[Distribution, Distribution] | None:
    """Return the univariate factors of both, batched over [*batch, *event], or None if there are none."""
    if len(q.event_shape) != len(p.event_shape):
        return None
    while isinstance(q, Independent):
        q = q.base_dist
    while isinstance(p, Independent):
        p = p.base_dist
    return None if q.event_shape or p.event_shape else (q, p)
