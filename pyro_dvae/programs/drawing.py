"""One vectorised run of guide and model over M corruptions and K latents, with checks of the pair."""

from __future__ import annotations

import math
import re
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from pyro import poutine
from pyro.distributions import Unit
from pyro.infer.enum import get_importance_trace
from pyro.poutine.trace_struct import Trace
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from pyro_dvae.errors import InputError
from pyro_dvae.programs.data_plate import other_counts
from pyro_dvae.programs.draws import Draws, Pair
from pyro_dvae.programs.leaves import NOT_INVERTED, Leaves, RefusesChangedValues
from pyro_dvae.programs.plates import Layout, Program, Subsamples, data_frames, is_deterministic
from pyro_dvae.sites import is_circular, is_point, is_uncounted, layers

_HALF_TURN = math.pi * (1 + 1e-6)
LOOP = "a bound with vectorize_particles=False (one draw after another)"


def draw(
    model: Program,
    guide: Program,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    layout: Layout,
    with_leaves: bool = False,
) -> Draws:
    """Run the guide, then the model on its latents, in one pass over M corruptions × K latents.

    The nesting of the user's plates may be infinite (unknown) if M = K = 1, because no dimension is added.

    :param with_leaves: replace reparameterised draws with leaves of the autograd graph.
    """
    leaving = Leaves() if with_leaves else nullcontext()
    with RefusesChangedValues(), Subsamples() as subsamples, leaving as leaves, sampled_latents():
        try:
            model_trace, guide_trace = get_importance_trace(
                "flat", layout.nesting, layout.wrap(model), layout.wrap(guide), args, kwargs
            )
        except NOT_INVERTED as error:
            if not with_leaves:
                if traceback.extract_tb(error.__traceback__)[-1].name != "_inverse":
                    raise
                raise InputError(
                    "model: it has a flow without an inverse, whose density is known at its own draws alone, "
                    "but its values come from the guide or the data; use a flow with an inverse"
                ) from error
            raise InputError(
                "gradient: it differentiates densities at given latents, and the guide has a flow without an "
                "inverse, whose density is known at its own draws alone; use gradient='pathwise', or a flow "
                "with an inverse"
            ) from error
    found = tuple(leaves.found) if leaves is not None else ()
    draws = Draws(model_trace, guide_trace, layout, subsamples, Pair(model, guide, args, kwargs), found)
    check(draws)
    return draws


def draw_from_prior(pair: Pair, layout: Layout) -> Draws:
    """Run only the model; its latents, drawn from the prior, replace draws of a guide."""
    with Subsamples() as subsamples:
        trace = poutine.trace(layout.wrap(pair.model)).get_trace(*pair.args, **pair.kwargs)
    model_trace = poutine.util.prune_subsample_sites(trace)
    model_trace.compute_log_prob()
    refuse_undeclared(Draws(model_trace, Trace(), layout, subsamples, pair), "several draws")
    latents = Trace()
    for site in model_trace.nodes.values():
        if site["type"] == "sample" and not site["is_observed"]:
            latents.add_node(site["name"], **site)
    return Draws(model_trace, latents, layout, subsamples, pair)


@contextmanager
def sampled_latents() -> Iterator[None]:
    """Replace Pyro's error for a guide that observes a latent of the model by a one-line error."""
    try:
        yield
    except RuntimeError as error:
        found = re.match(r"site (\S+) must be sampled in trace", str(error))
        if found is None:
            raise
        raise InputError(
            f"guide: latent {found[1]!r} is observed in the guide (pyro.condition, obs=) but sampled in the "
            "model; condition the model on it too"
        ) from error


def check(draws: Draws) -> None:
    """Refuse a pair for which the bounds would not be right.

    :raises InputError: naming the site and the remedy.
    """
    sampled = [site for site in draws.guide_trace.nodes.values() if site["type"] == "sample"]
    refuse_enumeration([*draws.model_sites(), *sampled])
    _refuse_mismatch(draws, {site["name"]: site for site in sampled})
    for name, site in draws.subsamples.sites.items():
        if 0 < site["fn"].size < len(site["value"]):
            raise InputError(
                f"model: plate {name!r} has size {site['fn'].size}, but {len(site['value'])} rows in the "
                "guide; give both the same size"
            )
    if draws.layout.several:
        refuse_undeclared(draws, counts(draws.layout))


def refuse_enumeration(sites: Iterable[dict[str, Any]]) -> None:
    """Refuse sites that ask for enumeration."""
    for site in sites:
        if site["infer"].get("enumerate"):
            raise InputError(
                f"model, guide: site {site['name']!r} asks for enumeration, which the denoising bounds do "
                "not support; train with pyro.infer.TraceEnum_ELBO and estimate log p(x) with "
                "pyro_dvae.annealed_log_likelihood, or remove infer={'enumerate': ...} and sample it in the "
                "guide"
            )


def _refuse_mismatch(draws: Draws, guide: dict[str, dict[str, Any]]) -> None:
    model = {site["name"]: site for site in draws.model_sites()}
    for name, site in guide.items():
        own = model.get(name)
        if is_uncounted(site) or is_deterministic(site):
            continue
        if own is not None and own["is_observed"] and not site["is_observed"]:
            raise InputError(
                f"guide: site {name!r} is observed in the model, so the guide must not sample it; remove it "
                "from the guide"
            )
        if site["is_observed"] and not isinstance(layers(site["fn"])[-1], Unit) and not is_point(site["fn"]):
            raise InputError(
                f"guide: site {name!r} is observed in the guide, so its density would be subtracted from the "
                f"bound, which is then none; hide it (pyro.poutine.block(guide, hide=[{name!r}])), which "
                "keeps its value"
            )
        if own is None and not site["infer"].get("is_auxiliary"):
            raise InputError(
                f"guide: site {name!r} is not a latent of the model; use pyro_dvae.corrupt for a corruption, "
                "pyro_dvae.auxiliary for noise that the guide integrates over, or "
                "infer={'is_auxiliary': True} for a site whose density counts"
            )
    for name, own in model.items():
        if is_uncounted(own):
            raise InputError(
                f"model: site {name!r} is a corruption or noise without a density (pyro_dvae.corrupt, "
                "pyro_dvae.auxiliary), which belongs in the guide; in the model use pyro.sample, or pass the "
                "corrupted data as an argument"
            )
        if own["is_observed"] or is_deterministic(own):
            continue
        drawn = guide.get(name)
        if drawn is None:
            raise InputError(
                f"guide: the model's latent {name!r} is not sampled in the guide; sample it there, or "
                "condition the model on it"
            )
        _refuse_sizes(name, own, drawn)
        if reason := other_counts(own, drawn):
            raise InputError(f"guide: {reason}")
        _refuse_beyond_circle(name, own, drawn)


def _refuse_beyond_circle(name: str, own: dict[str, Any], site: dict[str, Any]) -> None:
    """Refuse angles beyond −π to π: there the prior repeats, and its integral over all of them is no 1."""
    if get_proxy_mode() is None and is_circular(own["fn"]) and bool((site["value"].abs() > _HALF_TURN).any()):
        raise InputError(
            f"guide: latent {name!r} has a prior of angles from -pi to pi ({type(own['fn']).__name__}), but "
            "the guide draws values outside, where it would count again; use a distribution of angles "
            "(VonMises) in the guide"
        )


def _refuse_sizes(name: str, own: dict[str, Any], site: dict[str, Any]) -> None:
    sizes = {frame.dim: frame for frame in data_frames(own)}
    for frame in data_frames(site):
        other = sizes.get(frame.dim)
        if other is not None and min(frame.size, other.size) > 0 and frame.size != other.size:
            raise InputError(
                f"guide: latent {name!r} lies in plate {frame.name!r} of size {frame.size}, but in the model "
                f"in plate {other.name!r} of size {other.size}; give both the same size"
            )


def refuse_undeclared(draws: Draws, when: str) -> None:
    """Refuse sites with undeclared dimensions that would collide with the dimensions of the draws.

    :param when: the number of draws, in words.
    """
    layout = draws.layout
    refuse_outside_plates(draws, when)
    for program, site in _sites(draws):
        shape = tuple(site["fn"].batch_shape if is_uncounted(site) else site["unscaled_log_prob"].shape)
        left = shape[: len(shape) - int(layout.nesting)] if len(shape) > layout.nesting else ()
        if any(size > 1 for size in left):
            raise InputError(
                f"{program}: site {site['name']!r} has a log-density of shape {shape}, with undeclared "
                f"dimensions on the left, where {when} need theirs; declare them (.to_event, pyro.plate), or "
                f"use {LOOP}"
            )


def refuse_outside_plates(draws: Draws, when: str) -> None:
    """Refuse corruptions of several rows outside a plate if they are drawn more than once."""
    latents = [_places(site) for site in draws.counted_sites() if not site["is_observed"]]
    around = set.intersection(*latents) if latents else set()
    for site in draws.auxiliary_sites():
        shape, frames = site["fn"].batch_shape, site["cond_indep_stack"]
        declared = {frame.dim for frame in frames if frame.vectorized}
        inside = around <= _places(site) or site["fn"].clean is None
        if inside and all(n == 1 or place - len(shape) in declared for place, n in enumerate(shape)):
            continue
        raise InputError(
            f"guide: site {site['name']!r} lies outside the data plate, with batch shape {tuple(shape)}, "
            f"which is valid for a single draw but not for {when}; call pyro_dvae.corrupt inside the plate"
        )


def _places(site: dict[str, Any]) -> set[tuple[str, int]]:
    return {(frame.name, frame.dim) for frame in data_frames(site)}


def counts(layout: Layout) -> str:
    """Return the number of draws in words."""
    return f"M = {layout.num_corruptions} corruptions and K = {layout.num_particles} particles"


def _sites(draws: Draws) -> Iterator[tuple[str, dict[str, Any]]]:
    for program, trace in (("model", draws.model_trace), ("guide", draws.guide_trace)):
        for site in trace.nodes.values():
            if site["type"] == "sample":
                yield program, site
