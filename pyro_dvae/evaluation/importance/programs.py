"""A model and a guide with their arguments, called on some rows at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import biject_to

from pyro_dvae.bounds import TraceDenoising_ELBO
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.arguments import rows_of, why_shared
from pyro_dvae.evaluation.importance.proposals import Pass
from pyro_dvae.programs.data_plate import by_rows
from pyro_dvae.programs.draws import Draws
from pyro_dvae.programs.observations import (
    leave_out_zeros,
    refuse_observed,
    require_no_rest,
    unequal_masks,
)
from pyro_dvae.programs.parameters import Trained, discover
from pyro_dvae.programs.plates import Layout
from pyro_dvae.programs.support import InSupport
from pyro_dvae.rows import Data
from pyro_dvae.sites import Auxiliary, is_point, plain_support

_PROBED = 16  # rows of the run that inspects model and guide


class Inspected(NamedTuple):
    """The result of a run of model and guide.

    :param trained: their parameters and modules.
    :param denoising: whether the guide has corruptions or other auxiliary sites.
    :param noisy: whether any of these is random even on clean input.
    :param nesting: number of dimensions of the plates.
    """

    trained: Trained
    denoising: bool
    noisy: bool
    nesting: int | float


@dataclass(frozen=True)
class SampledPrograms:
    """Model and guide with all their arguments; the first is the data."""

    model: Callable[..., Any]
    guide: Callable[..., Any]
    given: Data

    @property
    def num_data(self) -> int:
        return len(self.given)

    def rows(self, start: int, count: int) -> tuple[Tensor, ...]:
        """Return ``count`` rows from ``start``, padded with the last row."""
        return self.given[torch.arange(start, start + count).clamp(max=self.num_data - 1)].rows

    def log_weights(self, one: Pass, *rows: Tensor) -> Tensor:
        """Return the log weights of one pass over rows of :meth:`rows`, [draws, rows]."""
        return one.log_weights(self.model, self.guide, rows, dict(self.given.kwargs))

    def inspect(self, nesting: int | float) -> Inspected:
        """Run both on a few rows, and restore the random streams and buffers.

        :raises InputError: there is no data plate, or the guide sets a latent to a point.
        """
        probe = TraceDenoising_ELBO(num_particles=2, max_plate_nesting=nesting)
        few = self.rows(0, min(_PROBED, self.num_data))
        found: list[Draws] = []

        def run() -> None:
            draws = probe.draws(self.model, self.guide, few, dict(self.given.kwargs))
            found.append(by_rows(draws, len(few[0])))

        support = InSupport("data", few[0], estimated=True)
        with rows_of(len(few[0]), self.num_data), support:
            trained = discover(self.model, self.guide, run, required=False, data={"data": few[0]})
        support.require(self.given)
        refuse_observed(found[0].counted_sites())
        leave_out_zeros(found[0])
        require_no_rest(found[0])
        weights = found[0].log_weight().values[0, 0]
        if not found[0].datum_frames() or weights.numel() != len(few[0]):
            raise InputError(
                f"model: expected one plate with the {len(few[0])} rows of a batch around all sites, got "
                f"weights of shape {tuple(weights.shape)}{why_shared(found[0])}"
            )
        _refuse_points(found[0])
        _refuse_unequal_masks(found[0])
        auxiliary = found[0].auxiliary_sites()
        noisy = any(_random_on_clean_input(site["fn"]) for site in auxiliary)
        return Inspected(trained, bool(auxiliary), noisy, probe.plate_nesting)


def _refuse_points(draws: Draws) -> None:
    """Refuse latents that are points, unless they transform other draws of the guide (AutoGuides).

    Such a guide has draws of as many dimensions at sites that the model does not have. A function of other
    latents has no density.
    """
    sites = draws.guide_trace.nodes
    points = [site for site in draws.latent_sites() if is_point(site["fn"])]
    own = [site for site in draws.counted_sites() if site["name"] not in draws.model_trace.nodes]
    others = [site for site in own if not site["is_observed"] and not is_point(site["fn"])]
    sizes = [_dimensions(site, site) for site in others]
    needed = sum(_dimensions(sites[s["name"]], draws.model_trace.nodes[s["name"]]) for s in points)
    if 0 in sizes or sum(sizes) > needed:  # discrete, or more numbers than the points need
        raise InputError(
            f"guide: site {others[-1]['name']!r} is not in the model, so the density of the latents would be "
            "an integral over it; sample it with pyro_dvae.auxiliary, or give the model a site of that name"
        )
    for site in points:
        if needed > sum(sizes) or not _differs(site["value"], draws.layout, site["fn"].event_dim):
            raise InputError(
                f"guide: its latent {site['name']!r} is a point mass without a density; a likelihood needs a "
                "guide with a density"
            )


def _refuse_unequal_masks(draws: Draws) -> None:
    if names := unequal_masks(draws):
        raise InputError(
            f"model, guide: latent {names[0]!r} has other masks in the guide than in the model (of which "
            "obs_mask= is one), so its weights are not those of a density; mask it in both, with "
            "poutine.mask(mask=...)"
        )


def _dimensions(site: dict[str, Any], prior: dict[str, Any]) -> int:
    """Return the number of unconstrained real numbers of a value, on the support of its prior."""
    support = plain_support(prior["fn"])
    if support.is_discrete:
        return 0 if site is prior else int(site["value"].numel())
    return int(biject_to(support).inv(site["value"]).numel())


def _differs(value: Tensor, layout: Layout, event_dim: int) -> bool:
    where = value.dim() + layout.particle_dim - event_dim
    return where >= 0 and bool((value.narrow(where, 0, 1) != value).any())


def _random_on_clean_input(distribution: Any) -> bool:
    if isinstance(distribution, Auxiliary):
        distribution = distribution.without_noise()
    return not is_point(distribution)
