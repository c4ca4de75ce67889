"""Lower-variance pathwise gradients: sticking the landing, and its doubly reparameterised form."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_dvae.bounds.draws import Draws
from pyro_dvae.bounds.rerun import leaf_run
from pyro_dvae.errors import InputError


def total_derivative_surrogate(draws: Draws, by_draw: Tensor, by_model: Tensor) -> Tensor:
    """Return a scalar whose gradient reaches the guide through its samples alone.

    With z = z(φ) and ``log w = log p_θ(x, z) − log q_φ(z|x̃)``, its gradient is
    ``Σ by_draw · ∂log w/∂z · ∂z/∂φ`` for the guide and ``Σ by_model · ∂log p/∂θ`` for the model. The explicit
    dependence of log q on φ is left out: it has mean zero (Roeder et al. 2017), or its part is already in
    the squared weights (Tucker et al. 2019).

    :param by_draw: factor of each draw for the guide, [K, M, *datum], outer scale included.
    :param by_model: the same for the model.
    """
    again, leaves = leaf_run(draws)
    log_weight = again.log_weight().values
    partials = torch.autograd.grad(
        (by_draw.detach() * log_weight).sum(), list(leaves.values()), retain_graph=True, allow_unused=True
    )
    total = (by_model.detach() * again.log_joint().values).sum()
    for name, partial in zip(leaves, partials, strict=True):
        if partial is not None:
            total = total + (partial * draws.guide_trace.nodes[name]["value"]).sum()
    return total


def refuse_chains(draws: Draws) -> None:
    """Refuse latents whose distribution in the guide depends on other latents.

    Their explicit dependence is not covered by the squared weights: that needs the generalised estimator of
    Bauer and Mnih (2021).
    """
    sites = draws.latent_sites()
    if len(sites) < 2:
        return
    again, leaves = leaf_run(draws)
    for site in again.latent_sites():
        others = {name: leaf for name, leaf in leaves.items() if name != site["name"]}
        if not others or not site["log_prob_sum"].requires_grad:
            continue
        found = torch.autograd.grad(
            site["log_prob_sum"], list(others.values()), retain_graph=True, allow_unused=True
        )
        for name, partial in zip(others, found, strict=True):
            if partial is not None:
                raise InputError(
                    f"gradient: 'dreg' covers one layer of latents, but {site['name']!r} depends on "
                    f"{name!r} in the guide; use gradient='pathwise'"
                )
