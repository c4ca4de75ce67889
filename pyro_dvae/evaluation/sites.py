"""The sites of a model and guide, found by a few runs, as rows of a table."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Unit
from pyro.infer.enum import get_importance_trace
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_dvae.bounds.mean_field import TraceMeanFieldDenoising_ELBO, closed_form
from pyro_dvae.bounds.score import has_score
from pyro_dvae.programs.draws import Draws, Pair
from pyro_dvae.programs.leaves import NOT_INVERTED
from pyro_dvae.programs.parameters import discover
from pyro_dvae.programs.plates import NO_SIZE, Layout, Subsamples, is_deterministic
from pyro_dvae.programs.row_parameters import row_parameter
from pyro_dvae.sites import is_uncounted


@dataclass(frozen=True)
class Step:
    """What one training step does.

    :param stopped: the first line of the exception it raised; None without one.
    :param model_runs: number of runs of the model.
    :param guide_runs: number of runs of the guide.
    :param first_runs: runs of model and guide in the first step, which inspects the pair.
    :param without_gradient: parameters whose gradient is missing or zero.
    :param parameters: number of parameters.
    """

    stopped: str | None
    model_runs: int = 0
    guide_runs: int = 0
    first_runs: tuple[int, int] = (0, 0)
    without_gradient: tuple[str, ...] = ()
    parameters: int = 0


@dataclass(frozen=True)
class TriedPair:
    """One draw of a pair, a training step, and the sites whose density differs between two runs.

    ``of_rows`` is the name of a parameter whose elements belong to single rows, ``untrained`` the reason for
    not training a module; both may be empty.
    """

    draws: Draws
    step: Step
    random: tuple[str, ...]
    of_rows: str
    untrained: str


def tried(pair: Pair, loss: Any) -> TriedPair:
    """Run a pair and restore random streams, buffers and gradients afterwards.

    :param loss: an ELBO, which is copied so that it keeps no state.
    """
    found: list[Draws] = []
    random: list[str] = []

    def runs() -> None:
        found.append(_one_draw(pair))
        random.extend(_random_sites(found[0]))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the remarks cover them
        rows = dict(zip(["batch"], pair.args, strict=False))
        trained = discover(pair.model, pair.guide, runs, required=False, data=rows)
        step = _step(pair, copy.copy(loss), trained.parameters)
        of_rows = ""
        if step.stopped is None and pair.args and all(isinstance(each, Tensor) for each in pair.args):
            model, guide = (partial(program, **pair.kwargs) for program in (pair.model, pair.guide))
            of_rows = row_parameter(model, guide, pair.args, trained)
    return TriedPair(found[0], step, tuple(random), of_rows, trained.untrained)


def _one_draw(pair: Pair) -> Draws:
    # Without validation, so that shapes which Pyro refuses are shown.
    with pyro.validation_enabled(False), Subsamples() as subsamples:
        model_trace, guide_trace = get_importance_trace(
            "flat", math.inf, pair.model, pair.guide, pair.args, pair.kwargs
        )
    return Draws(model_trace, guide_trace, Layout(1, 1, math.inf), subsamples, pair)


def _random_sites(draws: Draws) -> list[str]:
    """Return the sites whose density differs between two runs on the same draws."""
    if isinstance(poutine.unwrap(draws.pair.guide), poutine.messenger.Messenger):
        return []
    given = Trace()
    for trace in (draws.guide_trace, draws.model_trace):
        for name, site in trace.nodes.items():
            if site["type"] == "sample" and not site["is_observed"] and name not in given:
                given.add_node(name, **site)
    for name, site in draws.subsamples.sites.items():
        given.add_node(name, **site)
    once, again = _densities(draws.pair, given), _densities(draws.pair, given)
    return [name for name, value in once.items() if not torch.equal(value, again.get(name, value))]


@torch.no_grad()
def _densities(pair: Pair, given: Trace) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    with pyro.validation_enabled(False):
        for program in (pair.model, pair.guide):
            trace = poutine.trace(poutine.replay(program, trace=given)).get_trace(*pair.args, **pair.kwargs)
            for name, site in poutine.util.prune_subsample_sites(trace).nodes.items():
                if site["type"] == "sample":
                    with suppress(*NOT_INVERTED):
                        value = site["fn"].log_prob(site["value"])
                        found[name] = value if name not in found else found[name] + value
    return found


def _step(pair: Pair, loss: Any, leaves: dict[str, Tensor]) -> Step:
    before = {name: leaf.grad for name, leaf in leaves.items()}
    counts = {"model": 0, "guide": 0}

    def counted(name: str, program: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        counts[name] += 1
        return program(*args, **kwargs)

    programs = [
        partial(counted, name, program) for name, program in (("model", pair.model), ("guide", pair.guide))
    ]
    seen: list[tuple[int, int]] = []

    def one() -> None:
        for leaf in leaves.values():
            leaf.grad = None
        counts.update(model=0, guide=0)
        loss.loss_and_grads(*programs, *pair.args, **pair.kwargs)
        seen.append((counts["model"], counts["guide"]))

    try:
        for _ in range(2):
            discover(pair.model, pair.guide, one, required=False)
        missing = tuple(name for name, leaf in leaves.items() if leaf.grad is None or not leaf.grad.any())
    except Exception as error:  # any exception would end a training step
        return Step((str(error).strip() or type(error).__name__).splitlines()[0], parameters=len(leaves))
    finally:
        for name, leaf in leaves.items():
            leaf.grad = before[name]
    return Step(None, *seen[1], seen[0], missing, len(leaves))


Site = dict[str, Any]
_PATHWISE = {"stl": "sticking the landing", "dreg": "doubly reparameterised"}


@dataclass(frozen=True)
class SiteRow:
    """The properties of a site of model and guide.

    :param name: its name.
    :param kind: latent, observation, corruption, noise, auxiliary, factor or deterministic.
    :param plates: the plates around it with their sizes, such as "4 of 40" if subsampled.
    :param shape: [batch | event].
    :param distributions: of the model and, after "/", of the guide.
    :param gradient: the gradient estimator of a guide's site under the loss; empty for the model's.
    """

    name: str
    kind: str
    plates: str
    shape: str
    distributions: str
    gradient: str


def site_rows(draws: Draws, loss: Any) -> tuple[SiteRow, ...]:
    """Return a row for each site: the guide's sites in order, then the remaining sites of the model."""
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
    """Return the innermost distribution, without the wrappers around it."""
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
