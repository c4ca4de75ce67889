"""The parts of the bound: reconstruction and the KL divergence of each latent, also by dimension."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import Distribution, Independent

from pyro_dvae.bounds import TraceDenoising_ELBO
from pyro_dvae.distributions.divergence import closed_form_kl
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.estimates import Estimate, estimate_values, finite
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
from pyro_dvae.programs.dependence import dependent_priors, out_of_order
from pyro_dvae.programs.draws import Draws, same
from pyro_dvae.programs.parameters import float_type
from pyro_dvae.rows import Data
from pyro_dvae.sites import DRAW_PLATES


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
    """Return the divergence of a guide's site from the model's, in closed form if wanted and known."""
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
    """Return the latents with a valid closed form: no prior depends on what the guide draws from them."""
    return {site["name"] for site in draws.latent_sites()} - set(dependent_priors(draws, out_of_order(draws)))


def _factors(q: Distribution, p: Distribution) -> tuple[Distribution, Distribution] | None:
    """Return the univariate factors of both, batched over [*batch, *event], or None if there are none."""
    if len(q.event_shape) != len(p.event_shape):
        return None
    while isinstance(q, Independent):
        q = q.base_dist
    while isinstance(p, Independent):
        p = p.base_dist
    return None if q.event_shape or p.event_shape else (q, p)


@dataclass(frozen=True, eq=False)  # compared by identity: == of tensors has no single truth value
class BoundParts:
    """The bound of each observation, split: ``bound = reconstruction − Σ kl``; all in nats.

    :param reconstruction: log-density of the observed sites, per observation [N].
    :param kl: per latent site KL(q(z|x) ‖ p(z)), per observation [N].
    :param kl_per_dimension: per latent site the mean over the data for each of its dimensions, float64,
        shape [*inner plates, *event]; None if the site does not factorise over them.
    :param closed_form: the sites whose KL is in closed form; the others have sampled log q − log p.
    """

    reconstruction: Estimate
    kl: dict[str, Estimate]
    kl_per_dimension: dict[str, Tensor | None]
    closed_form: tuple[str, ...]

    @property
    def total_kl(self) -> Estimate:
        """The KL of all latents together."""
        return Estimate(torch.stack([part.per_datum for part in self.kl.values()]).sum(0))

    @property
    def bound(self) -> Estimate:
        """The denoising bound, the sum of the parts."""
        return Estimate(self.reconstruction.per_datum - self.total_kl.per_datum)

    def __str__(self) -> str:
        return self.table()

    def table(self) -> str:
        """Return the parts as aligned text: mean ± standard error over the rows, and the kind of each KL."""
        rows = [("bound", self.bound, ""), ("reconstruction", self.reconstruction, "")]
        for name, part in self.kl.items():
            how = "closed form" if name in self.closed_form else "sampled"
            dimensions = self.kl_per_dimension[name]
            over = "" if dimensions is None else f", {dimensions.numel()} dimensions"
            rows.append((f"KL {name}", part, how + over))
        width = max(len(label) for label, _, _ in rows)
        lines = [f"parts of the bound of {len(self.reconstruction.per_datum)} rows, nats per observation"]
        for label, part, note in rows:
            error = "n/a" if math.isnan(part.standard_error) else f"{part.standard_error:.3f}"
            lines.append(f"{label:<{width}}  {part.mean:>12.3f} ± {error}  {note}".rstrip())
        return "\n".join(lines)

    def to_dict(self, per_datum: bool = False) -> dict[str, Any]:
        """Return the record as JSON-able values; non-finite numbers are None.

        :param per_datum: include the values of each observation.
        """
        return {
            "num_data": len(self.reconstruction.per_datum),
            "unit": "nats per observation",
            "bound": estimate_values(self.bound, per_datum),
            "reconstruction": estimate_values(self.reconstruction, per_datum),
            "kl": {name: estimate_values(part, per_datum) for name, part in self.kl.items()},
            "kl_per_dimension": {
                name: None if v is None else finite(v.tolist()) for name, v in self.kl_per_dimension.items()
            },
            "closed_form": list(self.closed_form),
        }


def bound_parts(
    model: Program,
    guide: Program,
    data: Any,
    *args: Any,
    num_corruptions: int = 1,
    num_particles: int = 1,
    closed_form: bool = True,
    max_plate_nesting: int | float = math.inf,
    clean: bool = True,
    seed: int | None = None,
    batch_size: int | None = None,
    **kwargs: Any,
) -> BoundParts:
    """Split the bound of each row of ``data`` into reconstruction and KL, without a gradient (nats)::

        L_dvae = E_{x̃ ~ p_π(x̃|x)} [ E_{z ~ q_φ(z|x̃)} log p_θ(x|z) − Σ_sites KL(q_φ(z|x̃) ‖ p_θ(z)) ]

    (Kingma and Welling 2014, equation 3; Im et al. 2017, equation 8.) The KL of a site is in closed form if
    PyTorch has one and the site's prior does not depend on latents that the guide draws from the site;
    otherwise it is log q − log p of the draws. It is split into the site's elements if guide and prior are
    independent over them. With the same seed and batch_size, the parts add up to ``TraceDenoising_ELBO`` for
    ``closed_form=False``, otherwise to ``TraceMeanFieldDenoising_ELBO`` if that applies.

    :param model: Pyro model of a batch, with one data plate.
    :param guide: Pyro guide of a batch.
    :param data: rows [N, ...], from any source (:mod:`pyro_dvae.rows`).
    :param args: further data for model and guide, N rows each, split like ``data``.
    :param kwargs: further arguments of model and guide, passed unchanged.
    :param num_corruptions: M, as in the bounds; only useful if ``clean`` is False.
    :param num_particles: K, draws of the latents per corruption; for K·M > 1 model and guide must vectorise.
    :param closed_form: use closed forms where they exist; False samples every KL.
    :param max_plate_nesting: number of dimensions of the user's plates; by default found by one run.
    :param clean: give the guide clean input; otherwise corrupt it.
    :param seed: seed of a separate random stream; None uses the global one.
    :param batch_size: rows of ``data`` at a time; by default about 2,000 divided by the draws per row.
    :raises InputError: ``data`` is empty or not finite, or there is no latent, observation or data plate.
    """
    given = Data.opened("data", (data, *args), kwargs, float_type(model, guide))
    bound = TraceDenoising_ELBO(
        num_corruptions=num_corruptions, num_particles=num_particles, max_plate_nesting=max_plate_nesting
    )
    gathered = _Parts()
    first = first_chunk(given, batch_size, num_corruptions * num_particles)
    with measuring(model, guide, first, clean, seed, given):
        for rows in chunks(given, batch_size, num_corruptions * num_particles):
            gathered.add(bound.draws(model, guide, rows.rows, dict(rows.kwargs)), len(rows), closed_form)
    return gathered.record(len(given))


class _Parts:
    """Gathers the parts of the bound from chunks."""

    def __init__(self) -> None:
        self.reconstruction: list[Tensor] = []
        self.kl: dict[str, list[Tensor]] = {}
        self.sums: dict[str, Tensor | None] = {}
        self.closed: set[str] = set()

    def add(self, draws: Draws, size: int, closed_form: bool) -> None:
        """Add a chunk of ``size`` rows."""
        require_latents(draws)
        plate = data_plate(draws, size)
        outer = draws.log_weight().scale
        observed = [site for site in draws.model_sites() if site["is_observed"]]
        if not observed:
            raise InputError("model: expected at least one observed site, got none")
        terms = [_rows(site["unscaled_log_prob"], site, plate, outer) for site in observed]
        self.reconstruction.append(_total(terms))
        valid = integrable(draws)
        for latent in draws.latent_sites():
            name = latent["name"]
            part = divergence(latent, draws.model_trace.nodes[name], closed_form and name in valid)
            elements = [_rows(value, site, plate, outer) for site, value in part.terms]
            self.kl.setdefault(name, []).append(_total(elements))
            dimensions = torch.stack([value.double().sum(0).cpu() for value in elements]).sum(0)
            earlier = self.sums.get(name)
            total = dimensions if earlier is None else earlier + dimensions
            self.sums[name] = total if part.factorised else None
            self.closed |= {name} if part.closed_form else set()

    def record(self, size: int) -> BoundParts:
        """Return the record of all ``size`` rows."""
        return BoundParts(
            Estimate(torch.cat(self.reconstruction)),
            {name: Estimate(torch.cat(parts)) for name, parts in self.kl.items()},
            {name: None if total is None else total / size for name, total in self.sums.items()},
            tuple(name for name in self.kl if name in self.closed),
        )


def _rows(value: Tensor, site: Site, plate: str, outer: float | Tensor) -> Tensor:
    """Average a value of a site, [*batch, ...], over the draws and arrange it by row: [n, ...].

    The bound leaves out the scale that all sites share (plate subsampling), so only the site's own scale
    remains.
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
