"""Lower-variance pathwise gradients: sticking the landing, and its doubly reparameterised form."""

from __future__ import annotations

import torch
from pyro.distributions import MaskedDistribution
from torch import Tensor

from pyro_dvae.bounds.score import has_score
from pyro_dvae.errors import InputError
from pyro_dvae.programs.draws import Draws, same
from pyro_dvae.sites import is_point, layers


def total_derivative_surrogate(
    draws: Draws, by_draw: Tensor, by_model: Tensor, score: Tensor | float = 0.0
) -> Tensor:
    """Return a scalar whose gradient reaches the guide's densities only through its draws.

    With z = z(φ) and ``log w = log p_θ(x, z) − log q_φ(z|x̃)``, its gradient is ``Σ by_draw · ∂log w/∂z ·
    ∂z/∂φ`` for the guide and ``Σ by_model · ∂log p/∂θ`` for the model. The explicit dependence of log q on φ
    is omitted: either it has mean zero (Roeder et al. 2017), or the squared weights already contain it
    (Tucker et al. 2019). Factors, and ``Delta`` sites with a log-density as in AutoGuides, are deterministic
    functions of the draws, so their explicit dependence stays.

    :param draws: draws of a run with leaves.
    :param by_draw: factor of each draw for the guide, [K, M, *datum], outer scale included.
    :param by_model: factor of each draw for the model.
    :param score: the score-function part of the surrogate, which is added and may depend on the draws.
    """
    explicit = [*draws.model_terms(), *(term for term in draws.guide_terms() if _is_function(term.site))]
    total = (by_model.detach() * draws.part(explicit)).sum() + score
    if not draws.leaves:
        return total
    leaves = [leaf.value for leaf in draws.leaves]
    target = (by_draw.detach() * draws.log_weight().values).sum() + score
    adjoints = [torch.zeros_like(leaf) for leaf in leaves]
    _add(adjoints, target, leaves)
    # From the last draw to the first, because a draw may be a function of earlier ones.
    for position in reversed(range(len(leaves))):
        live = draws.leaves[position].live
        if not live.requires_grad:
            continue
        part = (adjoints[position].detach() * live).sum()
        _add(adjoints, part, leaves[:position])
        total = total + part
    return total


def _add(adjoints: list[Tensor], value: Tensor, leaves: list[Tensor]) -> None:
    if not leaves or not value.requires_grad:
        return
    found = torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True)
    for position, gradient in enumerate(found):
        if gradient is not None:
            adjoints[position] = adjoints[position] + gradient


def _is_function(site: dict[str, object]) -> bool:
    """Whether a guide site is a deterministic function of others, with its own density."""
    return (is_point(site["fn"]) or bool(site["is_observed"])) and not has_score(site)


def factor_of_density(draws: Draws) -> float | Tensor:
    """Return the factor of log q in each observation's weight: 1 without scales and masks in the guide.

    :returns: a number, or [*datum].
    :raises InputError: the factor differs between latents or inside an observation.
    """
    _, factor = draws.joint()
    sites = [site for site in draws.counted_sites() if not _is_function(site)]
    for site in sites:
        if any(isinstance(each, MaskedDistribution) for each in layers(site["fn"])):
            raise InputError(
                f"gradient: 'dreg' does not cover the masked distribution of {site['name']!r}; use "
                "poutine.mask, or gradient='pathwise'"
            )
    masks = [site["mask"] for site in sites if site["mask"] is not None]
    if not masks:
        return factor
    mask = torch.as_tensor(masks[0])
    frames = draws.datum_frames()
    inside = mask.dim() > max((-frame.dim for frame in frames), default=0)
    if inside or len(masks) < len(sites) or not all(same(each, masks[0]) for each in masks):
        raise InputError(
            "gradient: 'dreg' needs one mask (poutine.mask) of whole observations for all latents of the "
            "guide; use 'pathwise'"
        )
    return factor * mask


def refuse_chains(draws: Draws) -> None:
    """Refuse latents whose distribution in the guide depends on other latents.

    The squared weights do not cover their explicit dependence, which needs the generalised estimator of Bauer
    and Mnih (2021).

    :param draws: draws of a run with leaves.
    """
    for site in draws.counted_sites():
        others = [leaf for leaf in draws.leaves if leaf.name != site["name"]]
        if _is_function(site) or not others or not site["log_prob_sum"].requires_grad:
            continue
        found = torch.autograd.grad(
            site["log_prob_sum"], [leaf.value for leaf in others], retain_graph=True, allow_unused=True
        )
        for leaf, partial in zip(others, found, strict=True):
            if partial is not None:
                raise InputError(
                    f"gradient: 'dreg' covers one layer of latents, but {site['name']!r} depends on "
                    f"{leaf.name!r} in the guide; use gradient='pathwise'"
                )
