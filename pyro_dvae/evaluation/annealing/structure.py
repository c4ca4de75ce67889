"""The data plate and the latents of a model that annealing runs on, and their supports."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.transforms import Transform

from pyro_dvae import checks
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.annealing.discrete import combinations, is_discrete
from pyro_dvae.programs.data_plate import the_data_plate
from pyro_dvae.programs.observations import refuse_observed
from pyro_dvae.programs.plates import is_deterministic
from pyro_dvae.random_state import forked
from pyro_dvae.rows import Arguments, Data
from pyro_dvae.sites import clean_input, element_support, is_circular, plain_support


def to_support(fn: Any) -> Transform | None:
    """Return the bijection from unconstrained space to the support of ``fn``; None if it is the identity."""
    support = plain_support(fn)
    return None if element_support(support) is constraints.real else biject_to(support)


class ImproperPriorError(InputError):
    """A latent cannot be drawn from its prior."""


class ProperLatents(Messenger):
    """Refuses latents that cannot be drawn, because a chain needs a start."""

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if not msg["is_observed"] and _is_a(dist.ImproperUniform, msg["fn"]):
            raise ImproperPriorError(
                f"model: latent {msg['name']!r} has an improper prior (ImproperUniform), which has no draws "
                "to start from and leaves p(x) undefined up to a factor; give it a proper prior, or use "
                "pyro_dvae.log_likelihood without refine, which draws it from the guide"
            )


def check_continuous(program: str, site: dict[str, Any]) -> None:
    """Refuse a latent without a density over a continuous space."""
    name, fn = site["name"], site["fn"]
    remedy = "use pyro_dvae.log_likelihood without refine, which draws them from the guide"
    if site["infer"].get("enumerate"):
        what = "asks for enumeration"
    elif _is_a(dist.Delta, fn):
        what = "is a point mass (Delta)"
    elif is_discrete(fn):
        what = "is discrete"
    elif is_circular(fn):
        what = "is an angle"
    elif not _has_bijection(fn):
        what = f"has a support ({fn.support}) without a known bijection"
    else:
        return
    raise InputError(
        f"{program}: latent {name!r} {what}, but annealing and refinement follow gradients of the density "
        f"in unconstrained space; {remedy}"
    )


def _is_a(kind: type, fn: Any) -> bool:
    while not isinstance(fn, kind):
        fn = getattr(fn, "base_dist", None)
        if fn is None:
            return False
    return True


def _has_bijection(fn: Any) -> bool:
    try:
        biject_to(plain_support(fn))
    except NotImplementedError:
        return False
    return True


Program = Callable[..., Any]
Site = dict[str, Any]

# Rows in the run that finds the structure.
PROBED = 100


@dataclass(frozen=True)
class Structure:
    """The sites of a model and their dimensions.

    :param nesting: dimensions of the user's plates; the chains take the next one to the left.
    :param data_dim: dimension of the data plate (negative).
    :param latents: names of the continuous latent sites.
    :param observed: names of the observed sites.
    :param discrete: values of the discrete latents in all K combinations, each [K, *event].
    :param in_guide: names of the discrete latents that the guide samples, too.
    """

    nesting: int
    data_dim: int
    latents: tuple[str, ...]
    observed: tuple[str, ...]
    discrete: Mapping[str, Tensor] = field(default_factory=dict)
    in_guide: frozenset[str] = frozenset()

    @property
    def combinations(self) -> int:
        """K, the number of combinations of the discrete latents' values; 1 without such latents."""
        return next((len(values) for values in self.discrete.values()), 1)

    @property
    def log_repeats(self) -> float:
        """The logarithm of how often a sum over all combinations counts each one of the guide's latents."""
        distinct = math.prod(len(self.discrete[name].unique(dim=0)) for name in self.in_guide)
        return math.log(self.combinations / distinct)

    def placed(self, index: Tensor) -> dict[str, Tensor]:
        """Return the discrete latents [C, *plates, *event] of the combinations ``index`` [C, N]."""
        plates = [1] * self.nesting
        plates[self.data_dim] = index.shape[1]
        return {
            name: values[index.to(values.device)].reshape(len(index), *plates, *values.shape[1:])
            for name, values in self.discrete.items()
        }

    @property
    def chain_dim(self) -> int:
        """The dimension of the chains, left of all plates."""
        return -self.nesting - 1

    def per_datum(self, value: Tensor) -> Tensor:
        """Sum a site's value [C, *plates] to [C, N]; a missing dimension becomes 1."""
        width = self.nesting + 1
        if value.dim() > width:
            raise InputError(
                f"max_plate_nesting: a site has the batch shape {tuple(value.shape)}, chains included, for "
                f"plates of at most {self.nesting} dimensions"
            )
        full = value.reshape((1,) * (width - value.dim()) + value.shape)
        others = [dim for dim in range(-width, 0) if dim not in (self.chain_dim, self.data_dim)]
        return full.sum(others) if others else full


@torch.no_grad()
def inspect(
    model: Program,
    guide: Program | None,
    given: Data,
    max_plate_nesting: int | float = math.inf,
    *,
    all_discrete: bool = False,
) -> Structure:
    """Find the structure by one run of the model, and of the guide if there is one.

    Discrete latents are to be summed over; the guide may leave them out.

    :param all_discrete: accept a model without a continuous latent.
    :raises InputError: there is not exactly one data plate, a latent lies outside it, is a point mass or has
        no bijection to unconstrained space, the values of discrete latents cannot be listed, a plate inside
        an observation is subsampled, or model and guide do not match.
    """
    rows = given[:PROBED]
    with forked(), poutine.block(), clean_input():
        sites = _sample_sites(ProperLatents()(model), rows)
        guide_sites = [] if guide is None else _sample_sites(guide, rows)
    observed = [site for site in sites if site["is_observed"]]
    latents = [site for site in sites if not site["is_observed"]]
    if not latents:
        raise InputError("model: expected at least one latent sample site, got none")
    if not observed:
        raise InputError("model: expected an observed sample site (obs=x), got none")
    plate = the_data_plate(sites, len(rows))
    discrete = {site["name"]: site for site in latents if is_discrete(site["fn"])}
    if len(discrete) == len(latents) and not all_discrete:
        check_continuous("model", latents[0])
    _check_sites("model", sites, plate, discrete)
    in_guide: frozenset[str] = frozenset()
    if guide is not None:
        refuse_observed(guide_sites)
        drawn = [site for site in guide_sites if not site["infer"].get("is_auxiliary")]
        in_guide = frozenset(site["name"] for site in drawn if site["name"] in discrete)
        left_out = discrete.keys() - in_guide
        _check_match({site["name"] for site in latents} - left_out, {site["name"] for site in drawn})
        _check_sites("guide", drawn, plate, discrete)
    frames = [frame for site in [*sites, *guide_sites] for frame in _vectorised(site)]
    return Structure(
        _nesting(max_plate_nesting, max(-frame.dim for frame in frames)),
        plate.dim,
        tuple(site["name"] for site in latents if site["name"] not in discrete),
        tuple(site["name"] for site in observed),
        combinations(discrete, plate.dim) if discrete else {},
        in_guide,
    )


def _sample_sites(program: Program, rows: Arguments) -> list[Site]:
    trace = poutine.trace(program).get_trace(*rows.rows, **rows.kwargs)
    return [
        site
        for site in trace.nodes.values()
        if site["type"] == "sample" and not site_is_subsample(site) and not is_deterministic(site)
    ]


def _vectorised(site: Site) -> list[CondIndepStackFrame]:
    return [frame for frame in site["cond_indep_stack"] if frame.vectorized]


def _check_sites(
    program: str, sites: list[Site], plate: CondIndepStackFrame, discrete: Collection[str]
) -> None:
    for site in sites:
        inside = {(frame.name, frame.dim) for frame in _vectorised(site)}
        kind = "observed site" if site["is_observed"] else "latent"
        if (plate.name, plate.dim) not in inside:
            fixed, first = "model", ""
            if not site["is_observed"]:
                fixed = f"pyro.poutine.condition(model, {{{site['name']!r}: value}})"
                first = "fix its value in the model, leave it out of the guide, and "
            remedy = f"{first}hide it, pyro.poutine.block({fixed}, hide=[{site['name']!r}])"
            raise InputError(
                f"{program}: {kind} {site['name']!r} lies outside the data plate {plate.name!r}, so a single "
                f"row has no log p(x); {remedy}, and use this or pyro_dvae.log_likelihood on the result"
            )
        part = [f for f in _vectorised(site) if f.name != plate.name and f.full_size not in (None, f.size)]
        if part:
            raise InputError(
                f"{program}: plate {part[0].name!r} inside an observation is subsampled, so {kind} "
                f"{site['name']!r} has no likelihood; give the whole plate"
            )
        if not (site["is_observed"] or site["name"] in discrete):
            check_continuous(program, site)


def _check_match(wanted: set[str], drawn: set[str]) -> None:
    if extra := sorted(drawn - wanted):
        raise InputError(
            f"guide: site {extra[0]!r} is not a latent of the model; sample corruptions with "
            "pyro_dvae.corrupt, and mark other such sites infer={'is_auxiliary': True}"
        )
    if missing := sorted(wanted - drawn):
        raise InputError(f"guide: the model's latent {missing[0]!r} is not sampled in the guide")


def _nesting(wanted: int | float, found: int) -> int:
    if wanted == math.inf:
        return found
    return checks.count("max_plate_nesting", wanted, minimum=found)
