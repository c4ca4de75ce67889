"""``dv.check``: the sites of a model and a guide as a table, with remarks to read before training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, fields
from typing import Any

from pyro import poutine
from pyro.infer import ELBO
from pyro.infer.inspect import get_dependencies
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.bounds.denoising import TraceDenoising_ELBO
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.sites import SiteRow, Step, TriedPair, site_rows, tried
from pyro_dvae.programs.data_plate import data_plates, other_counts, plates_around
from pyro_dvae.programs.draws import Draws, Pair
from pyro_dvae.programs.observations import unequal_masks
from pyro_dvae.programs.parameters import discover
from pyro_dvae.programs.plates import data_frames, is_deterministic
from pyro_dvae.programs.row_parameters import wrong_for_others
from pyro_dvae.sites import is_uncounted

_SHOWN = 4  # names in one remark


def remarks(seen: TriedPair, num_data: int | None) -> tuple[str, ...]:
    """Return the remarks, each a sentence that says what to do."""
    draws, step = seen.draws, seen.step
    found: list[str] = []
    if step.stopped is not None:
        found.append(f"a step of this loss raises: {step.stopped}")
    found += _mismatches(draws)
    found += _masks(draws)
    if step.stopped is None:
        found += _counts(draws)
    if num_data is not None:
        found += _sizes(draws, num_data)
        if seen.of_rows and len(draws.pair.args[0]) < num_data:
            found.append(wrong_for_others(seen.of_rows, f"train on all {num_data} rows at once"))
    found += _undeclared(draws)
    found += _independent_in_guide(draws)
    if seen.random:
        found.append(
            f"the density of {_names(seen.random)} differs between two runs on the same draws: a module "
            "draws random numbers (dropout); put it in evaluation mode, or sample them with "
            "pyro_dvae.auxiliary"
        )
    if seen.untrained:
        found.append(seen.untrained)
    if step.stopped is None:
        if len(step.without_gradient) == step.parameters:
            found.append("no parameter gets a gradient; see pyro.param and pyro.module")
        elif step.without_gradient:
            found.append(f"no gradient reaches the parameters {_names(step.without_gradient)}")
    return tuple(found)


def _names(names: Any) -> str:
    ordered = list(dict.fromkeys(names))
    rest = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(repr(name) for name in ordered[:_SHOWN]) + rest


def _mismatches(draws: Draws) -> Iterator[str]:
    guide = {site["name"] for site in draws.guide_trace.nodes.values() if site["type"] == "sample"}
    model = {site["name"] for site in draws.model_sites()}
    latents = [s for s in draws.model_sites() if not s["is_observed"] and not is_deterministic(s)]
    if missing := [site["name"] for site in latents if site["name"] not in guide]:
        yield f"the guide does not sample the model's latents {_names(missing)}: sample them there"
    extra = [
        site["name"]
        for site in draws.counted_sites()
        if site["name"] not in model and not site["infer"].get("is_auxiliary") and not is_deterministic(site)
    ]
    if extra:
        yield (
            f"the guide's sites {_names(extra)} are not in the model: sample corruptions with "
            "pyro_dvae.corrupt, other noise with pyro_dvae.auxiliary"
        )


def _masks(draws: Draws) -> Iterator[str]:
    if names := unequal_masks(draws):
        yield (
            f"{_names(names)} has other masks in the guide than in the model (of which obs_mask= is one), so "
            "the loss counts entropies of values that the model does not have; mask it in both (poutine.mask)"
        )


def _counts(draws: Draws) -> Iterator[str]:
    for site in draws.latent_sites():
        if reason := other_counts(draws.model_trace.nodes[site["name"]], site):
            yield reason


def _sizes(draws: Draws, num_data: int) -> Iterator[str]:
    rows = next((len(arg) for arg in draws.pair.args if isinstance(arg, Tensor) and arg.dim()), None)
    plates = {} if rows is None else data_plates(draws.model_sites(), rows, drawn=True)
    if not plates:
        yield f"no plate around the observations has the {rows} rows of the batch; add a pyro.plate"
    shared = [site["name"] for site in draws.latent_sites() if not plates_around(site) & set(plates)]
    for name, plate in plates.items():
        full = round(plate.size * draws.subsamples.scale(name))
        if full == num_data:
            continue
        what = f"the loss counts {full} observations"
        if shared:
            what = f"the prior of {_names(shared)} counts {num_data / full:g} times as much as it should"
        yield (
            f"plate {name!r} has size {full}, but num_data is {num_data}: {what}; give the plate its full "
            f"size, pyro.plate({name!r}, {num_data}, subsample_size=len(x))"
        )


def _undeclared(draws: Draws) -> Iterator[str]:
    sites = [*draws.model_sites(), *draws.counted_sites(), *draws.auxiliary_sites()]
    told = set()
    for site in sites:
        shape = tuple(site["fn"].batch_shape if is_uncounted(site) else site["unscaled_log_prob"].shape)
        declared = {frame.dim for frame in data_frames(site)}
        loose = [dim for dim in range(-len(shape), 0) if shape[dim] > 1 and dim not in declared]
        if loose and site["name"] not in told:
            told.add(site["name"])
            yield (
                f"site {site['name']!r} has batch shape {shape}, and its dimension {loose[-1]} of size "
                f"{shape[loose[-1]]} lies in no plate: add .to_event or a pyro.plate"
            )


def _independent_in_guide(draws: Draws) -> Iterator[str]:
    """Remark on latents that depend on each other given the data, but not in the guide."""
    latents = {site["name"] for site in draws.latent_sites()}
    model, guide = _dependencies(draws.pair, draws.pair.model), _dependencies(draws.pair, draws.pair.guide)
    if model is None or guide is None:
        return
    ancestors = {name: _ancestors(name, guide["prior_dependencies"]) for name in guide["prior_dependencies"]}
    pairs = [
        (one, other)
        for one, others in model["posterior_dependencies"].items()
        for other in others
        if one != other and {one, other} <= latents & set(ancestors) and not ancestors[one] & ancestors[other]
    ]
    if pairs:
        shown = ", ".join(f"{one!r} and {other!r}" for one, other in pairs[:_SHOWN])
        rest = f" and {len(pairs) - _SHOWN} more pairs" if len(pairs) > _SHOWN else ""
        yield (
            f"given the data, {shown}{rest} depend on each other, but the guide draws them independently, so "
            "the bound is less tight"
        )


def _dependencies(pair: Pair, program: Any) -> Mapping[str, Any] | None:
    if isinstance(poutine.unwrap(program), Messenger):
        return None
    found: list[Mapping[str, Any]] = []

    def run() -> None:
        # Its tensors do not support every operation; a program that uses such a one gets no remark.
        with suppress(Exception):
            found.append(get_dependencies(program, pair.args, pair.kwargs))

    discover(pair.model, pair.guide, run, required=False)  # restores buffers and random streams
    return found[0] if found else None


def _ancestors(name: str, direct: Mapping[str, Mapping[str, Any]]) -> set[str]:
    found: set[str] = set()
    waiting = [name]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += direct.get(one, {})
    return found


@dataclass(frozen=True)
class Check:
    """How the library understands a model and a guide; ``print`` shows a table.

    :param loss: the name of the bound, with its counts.
    :param sites: a row for each site.
    :param step: how often a training step runs the programs, and the error that stopped it, if any.
    :param remarks: one sentence each.
    """

    loss: str
    sites: tuple[SiteRow, ...]
    step: Step
    remarks: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether a step runs without an error and there are no remarks."""
        return not self.remarks

    def __str__(self) -> str:
        header = ("site", *(field.name for field in fields(SiteRow)[1:]))
        lines = _columns([header, *(astuple(row) for row in self.sites)])
        lines.append("")
        if self.step.stopped is None:
            runs = f"the model {_times(self.step.model_runs)} and the guide {_times(self.step.guide_runs)}"
            first = self.step.first_runs
            later = (self.step.model_runs, self.step.guide_runs)
            extra = f" (the first one {_times(first[0])} and {_times(first[1])})" if first != later else ""
            lines.append(f"A step of {self.loss} runs {runs}{extra}.")
        lines += [f"- {remark}" for remark in self.remarks] or ["No remarks."]
        return "\n".join(lines)

    __repr__ = __str__


def check(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *data: Any,
    num_data: int | None = None,
    loss: ELBO | None = None,
    **kwargs: Any,
) -> Check:
    """Report how the library understands a model and a guide, to check them before training::

        print(dv.check(model, guide, x, num_data=len(data), loss=dv.TraceDenoising_ELBO()))

    The table lists each site with its plates, shape, kind (latent, observation, corruption, …) and gradient
    estimator under ``loss``. Below, the report says how often a training step runs the programs, and has
    remarks on: what the loss refuses, a plate of a size other than the data's, latents that the guide does
    not sample or masks otherwise, dimensions that no plate declares, dependences between latents that the
    guide ignores, modules that draw random numbers, and parameters of single rows or without a gradient.

    The programs run a few times. Afterwards random streams, buffers and gradients are restored.

    :param model: Pyro model.
    :param guide: Pyro guide.
    :param data: arguments of both, the rows of a mini-batch first.
    :param num_data: N, the rows of the whole data set, to compare with the plates; by default not compared.
    :param loss: the bound, or another Pyro ELBO; ``TraceDenoising_ELBO()`` by default.
    :param kwargs: keyword arguments of both programs.
    :raises InputError: if ``num_data`` or ``loss`` is invalid, or if Python, torch or Pyro raises an error in
        a run of the programs, which is then the ``__cause__``. Other exceptions pass through.
    """
    if num_data is not None:
        num_data = checks.count("num_data", num_data)
    chosen = TraceDenoising_ELBO() if loss is None else loss
    if not isinstance(chosen, ELBO):
        raise InputError(f"loss: expected a bound (a Pyro ELBO), got {type(chosen).__name__}")
    seen = tried(Pair(model, guide, data, kwargs), chosen)
    return Check(_name(chosen), site_rows(seen.draws, chosen), seen.step, remarks(seen, num_data))


def _name(loss: Any) -> str:
    counts = f"K = {loss.num_particles}"
    if hasattr(loss, "num_corruptions"):
        counts = f"M = {loss.num_corruptions}, {counts}"
    return f"{type(loss).__name__} ({counts})"


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return ["  ".join(row).rstrip() for row in padded]
