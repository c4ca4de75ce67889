"""The sites of a pair as rows of a table: their plates, shapes, kinds and gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyro.distributions import Unit

from pyro_dvae.bounds.draws import Draws
from pyro_dvae.bounds.mean_field import TraceMeanFieldDenoising_ELBO, closed_form
from pyro_dvae.bounds.plates import is_deterministic
from pyro_dvae.bounds.score import has_score
from pyro_dvae.sites import is_uncounted

Site = dict[str, Any]
NO_SIZE = -1  # what Pyro gives a plate without a size
_PATHWISE = {"stl": "sticking the landing", "dreg": "doubly reparameterised"}


@dataclass(frozen=True)
class SiteRow:
    """What a site of model and guide is.

    :param name: its name.
    :param kind: latent, observation, corruption, noise, auxiliary, factor or deterministic.
    :param plates: the plates around it with their sizes; "4 of 40" where one is subsampled.
    :param shape: [batch | event].
    :param distributions: of the model and, after "/", of the guide.
    :param gradient: the estimator that a guide's site gets under the loss; empty for the model's.
    """

    name: str
    kind: str
    plates: str
    shape: str
    distributions: str
    gradient: str


def site_rows(draws: Draws, loss: Any) -> tuple[SiteRow, ...]:
    """Return a row for each site: those of the guide in its order, then the rest of the model's."""
    model = {site["name"]: site for site in draws.model_sites()}
    guide = {site["name"]: site for site in draws.guide_trace.nodes.values() if site["type"] == "sample"}
    rows = []
    for name in dict.fromkeys([*guide, *model]):
        own, drawn = model.get(name), guide.get(name)
        shown = drawn or own
        assert shown is not None
        names = [type(_base(site["fn"])).__name__ for site in (own, drawn) if site is not None]
        gradient = "" if drawn is None else _gradient(drawn, own, loss)
        plates = ", ".join(_plate(frame, draws) for frame in shown["cond_indep_stack"])
        rows.append(SiteRow(name, _kind(own, drawn), plates, _shape(shown), " / ".join(names), gradient))
    return tuple(rows)


def _base(fn: Any) -> Any:
    """Return the distribution that was written, without the layers around it."""
    while type(fn).__name__ in ("Independent", "ExpandedDistribution", "MaskedDistribution", "Auxiliary"):
        fn = fn.base_dist
    return fn


def _plate(frame: Any, draws: Draws) -> str:
    if not frame.vectorized:
        return f"{frame.name} (sequential)"
    if frame.size == NO_SIZE:
        return str(frame.name)
    full = round(frame.size * draws.subsamples.scale(frame.name))
    return f"{frame.name} {frame.size}" + (f" of {full}" if full != frame.size else "")


def _shape(site: Site) -> str:
    batch, event = (" ".join(map(str, shape)) for shape in (site["fn"].batch_shape, site["fn"].event_shape))
    return f"[{batch} | {event}]" if event else f"[{batch}]"


def _kind(own: Site | None, drawn: Site | None) -> str:
    site = own if own is not None else drawn
    assert site is not None
    if is_uncounted(site):
        return "noise" if site["fn"].clean is None else "corruption"
    if is_deterministic(site):
        return "deterministic"
    if isinstance(_base(site["fn"]), Unit):
        return "factor"
    if own is None:
        return "auxiliary"
    if own["is_observed"]:
        return "observation"
    return "latent" if drawn is not None else "latent, not in the guide"


def _gradient(site: Site, prior: Site | None, loss: Any) -> str:
    if site["is_observed"] or is_deterministic(site):
        return ""
    if has_score(site):
        own = site["infer"].get("baseline")
        return f"score function, baseline {'of its own' if own else _baseline(loss)}"
    uncounted = is_uncounted(site)
    if not site["value"].requires_grad and (uncounted or not site["log_prob"].requires_grad):
        return "none: fixed"
    closed = isinstance(loss, TraceMeanFieldDenoising_ELBO)
    if closed and prior is not None and closed_form(site, prior) is not None:
        return "pathwise, KL in closed form"
    return "pathwise" if uncounted else _PATHWISE.get(getattr(loss, "gradient", ""), "pathwise")


def _baseline(loss: Any) -> str:
    baseline = getattr(loss, "baseline", None)
    if getattr(baseline, "learned", None) is not None:
        return "learned"
    draws = getattr(loss, "num_corruptions", 1) * loss.num_particles
    if not getattr(baseline, "leave_one_out", False):
        return "none"
    return "leave-one-out" if draws > 1 else "none (a single draw)"
