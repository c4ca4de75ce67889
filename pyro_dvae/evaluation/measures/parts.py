"""The parts of the bound: reconstruction, and the KL divergence of each latent site and dimension."""

from __future__ import annotations

import math

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.bounds import TraceDenoising_ELBO
from pyro_dvae.bounds.draws import Draws
from pyro_dvae.bounds.plates import DRAW_PLATES
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.estimates import Estimate
from pyro_dvae.evaluation.measures.divergence import divergence, integrable
from pyro_dvae.evaluation.measures.parts_record import BoundParts
from pyro_dvae.evaluation.measures.passes import (
    Program,
    Site,
    by_row,
    chunks,
    data_plate,
    first_chunk,
    measuring,
    require_latents,
)


def bound_parts(
    model: Program,
    guide: Program,
    x: Tensor,
    *,
    num_corruptions: int = 1,
    num_particles: int = 1,
    closed_form: bool = True,
    max_plate_nesting: int | float = math.inf,
    clean: bool = True,
    seed: int | None = None,
    chunk: int | None = None,
) -> BoundParts:
    """Split the bound of each row of ``x`` into reconstruction and KL, without a gradient (nats)::

        L_dvae = E_{x̃ ~ p_π(x̃|x)} [ E_{z ~ q_φ(z|x̃)} log p_θ(x|z) − Σ_sites KL(q_φ(z|x̃) ‖ p_θ(z)) ]

    (Kingma and Welling 2014, equation 3, over Im et al. 2017, equation 8.) The KL of a site is in closed form
    where PyTorch knows it and the site's prior does not depend on latents that the guide draws from it, else
    log q − log p of the draws. Where guide and prior are both independent over the site's elements it is
    split into them. With the same seed and chunk the parts add up to ``TraceDenoising_ELBO`` under
    ``closed_form=False``, and to ``TraceMeanFieldDenoising_ELBO``, where it applies, otherwise.

    :param model: Pyro model of a batch, with one data plate.
    :param guide: Pyro guide of a batch.
    :param x: data, shape [N, ...].
    :param num_corruptions: M, as in the bounds; of use where ``clean`` is False.
    :param num_particles: K, draws of the latents per corruption; for K·M > 1 model and guide must vectorise.
    :param closed_form: integrate where that is known; False samples every KL.
    :param max_plate_nesting: how many dimensions the user's plates take; found by one run where omitted.
    :param clean: give the guide clean input; else corrupt it.
    :param seed: draw from a stream of its own that starts here; None draws from the global one.
    :param chunk: rows of ``x`` at a time; by default about 2,000 divided by the draws of each.
    :raises InputError: ``x`` is empty or not finite, or there is no latent, observation or data plate.
    """
    checks.data("x", x)
    bound = TraceDenoising_ELBO(
        num_corruptions=num_corruptions, num_particles=num_particles, max_plate_nesting=max_plate_nesting
    )
    gathered = _Parts()
    with measuring(model, guide, first_chunk(x, chunk, num_corruptions * num_particles), clean, seed):
        for rows in chunks(x, chunk, num_corruptions * num_particles):
            gathered.add(bound.draws(model, guide, (rows,), {}), len(rows), closed_form)
    return gathered.record(len(x))


class _Parts:
    """The parts of the chunks so far."""

    def __init__(self) -> None:
        self.reconstruction: list[Tensor] = []
        self.kl: dict[str, list[Tensor]] = {}
        self.sums: dict[str, Tensor | None] = {}
        self.closed: set[str] = set()

    def add(self, draws: Draws, size: int, closed_form: bool) -> None:
        """Add the ``size`` data of a chunk."""
        require_latents(draws)
        plate = data_plate(draws, size)
        outer = draws.log_weight().scale
        observed = [site for site in draws.model_sites() if site["is_observed"]]
        if not observed:
            raise InputError("model: expected at least one observed site, got none")
        terms = [_rows(site["unscaled_log_prob"], site, plate, outer) for site in observed]
        self.reconstruction.append(_total(terms))
        right = integrable(draws)
        for latent in draws.latent_sites():
            name = latent["name"]
            part = divergence(latent, draws.model_trace.nodes[name], closed_form and name in right)
            elements = [_rows(value, site, plate, outer) for site, value in part.terms]
            self.kl.setdefault(name, []).append(_total(elements))
            dimensions = torch.stack([value.double().sum(0).cpu() for value in elements]).sum(0)
            earlier = self.sums.get(name)
            total = dimensions if earlier is None else earlier + dimensions
            self.sums[name] = total if part.factorised else None
            self.closed |= {name} if part.closed_form else set()

    def record(self, size: int) -> BoundParts:
        """Return the record of all ``size`` data."""
        return BoundParts(
            Estimate(torch.cat(self.reconstruction)),
            {name: Estimate(torch.cat(parts)) for name, parts in self.kl.items()},
            {name: None if total is None else total / size for name, total in self.sums.items()},
            tuple(name for name in self.kl if name in self.closed),
        )


def _rows(value: Tensor, site: Site, plate: str, outer: float | Tensor) -> Tensor:
    """Return a value of a site, [*batch, ...], averaged over the draws and by datum: [n, ...].

    The bound leaves out the scale that all sites share (plate subsampling); what is left is the site's own.
    """
    batch = len(site["fn"].batch_shape)
    event = (1,) * (value.dim() - batch)
    scale, mask = site["scale"] / outer, site["mask"]
    scale = scale.reshape(scale.shape + event) if isinstance(scale, Tensor) else scale
    mask = mask.reshape(mask.shape + event) if isinstance(mask, Tensor) else mask
    value = scale_and_mask(value, scale, mask)
    draws = [batch + frame.dim for frame in site["cond_indep_stack"] if frame.name in DRAW_PLATES]
    return by_row(value.mean(draws, keepdim=True) if draws else value, site, plate)


def _total(terms: list[Tensor]) -> Tensor:
    """Return the sum over the terms and over all but their first dimension, [n]."""
    return torch.stack([term.reshape(len(term), -1).sum(1) for term in terms]).sum(0).cpu()
