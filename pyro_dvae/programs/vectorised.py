"""Checks whether a program vectorises: draws of one pass are compared with separate runs on them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Rejector
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.overrides import TorchFunctionMode

from pyro_dvae.buffers import on_trial
from pyro_dvae.errors import InputError
from pyro_dvae.internals import without_modes
from pyro_dvae.programs.drawing import LOOP, counts, draw, refuse_enumeration, sampled_latents
from pyro_dvae.programs.draws import Draws, Pair
from pyro_dvae.programs.leaves import NOT_INVERTED, Replay, is_rounded
from pyro_dvae.programs.plates import Layout, Program
from pyro_dvae.sites import CORRUPTIONS, PARTICLES, is_uncounted

CHECKED_RUNS = (1, 10, 100, 1_000, 10_000, 100_000)  # runs of a pair that are checked
_TOLERANCE = 1e-3  # relative, for single precision; a program that does not vectorise differs far more


@dataclass
class CheckedPair:
    """A model and guide on arguments of one kind, and what the last check found.

    :param nesting: number of dimensions of the plates of model and guide; None before the first check.
    :param runs: number of runs so far.
    """

    model: Program
    guide: Program
    kind: tuple[Any, ...]
    nesting: int | float | None = None
    runs: int = 0

    def is_of(self, pair: Pair) -> bool:
        """Whether ``pair`` is the same model and guide, on arguments of the same kind."""
        return (self.model, self.guide, self.kind) == (pair.model, pair.guide, pair.kind)

    def is_due(self) -> bool:
        """Whether to check this run (the 10th, the 100th, ...), because training may change a program."""
        return self.runs in CHECKED_RUNS and get_proxy_mode() is None


def check_vectorised(pair: Pair, layout: Layout) -> int | float:
    """Run a pair once on a forked random stream; refuse a pair that does not vectorise over the draws.

    :returns: number of dimensions of the plates of model and guide.
    :raises InputError: a draw has another log-density in the pass than in a separate run.
    """
    one_pass = layout.several and not layout.looped
    # Not part of a recording of the bound.
    with without_modes(), on_trial(), torch.no_grad(), Evaluation():
        alone = _run(pair)  # with Pyro's validation, if it is on, because it has better messages
        frames = [f for trace in alone for s in trace.nodes.values() for f in s.get("cond_indep_stack", ())]
        needed = max((-frame.dim for frame in frames if frame.vectorized), default=0)
        nesting = needed if layout.max_plate_nesting == float("inf") else layout.max_plate_nesting
        if needed > nesting:
            raise InputError(
                f"max_plate_nesting: expected at least {needed}, the number of plate dimensions of model and "
                f"guide, got {nesting}"
            )
        if one_pass:
            with pyro.validation_enabled(False):
                _compare(pair, replace(layout, max_plate_nesting=nesting), alone)
    return nesting


@contextmanager
def naming_draws(pair: Pair, layout: Layout) -> Iterator[None]:
    """Turn exceptions that a program raises for several draws, but not for one, into a one-line error."""
    try:
        yield
    except (InputError, Warning):
        raise
    except Exception as error:
        if not layout.several or get_proxy_mode() is not None:
            raise
        with without_modes(), on_trial(), torch.no_grad():
            for trace in _run(pair):  # an error for a single draw is the program's own, and is not changed
                refuse_enumeration(site for site in trace.nodes.values() if site["type"] == "sample")
                trace.compute_log_prob()
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        for plate, words in ((CORRUPTIONS, "M corruptions"), (PARTICLES, "K particles")):
            reason = reason.replace(f"{plate!r}", words)
        raise InputError(
            f"model, guide: they run for one draw but fail for {counts(layout)} in one pass ({reason}); make "
            "them vectorise over dimensions on the left (dv.networks.Lifted wraps a network of [N, ...]), or "
            f"use {LOOP}, or a single draw"
        ) from error


def _run(pair: Pair, guide: Trace | None = None, model: Trace | None = None) -> tuple[Trace, Trace]:
    """Run guide and model for one draw, on values if given; return their traces."""
    own = pair.guide if guide is None else Replay(guide)(pair.guide)
    guide_trace = _traced(own, pair)
    given = guide_trace if model is None else model
    with sampled_latents():
        model_trace = _traced(poutine.replay(pair.model, trace=given), pair)
    return guide_trace, model_trace


def _traced(program: Callable[..., Any], pair: Pair) -> Trace:
    unwrapped = poutine.unwrap(program)
    if isinstance(unwrapped, poutine.messenger.Messenger):  # a guide that is an effect handler of the model
        program(*pair.args, **pair.kwargs)
        return unwrapped.get_traces()[1]
    return poutine.trace(program).get_trace(*pair.args, **pair.kwargs)


def _compare(pair: Pair, layout: Layout, alone: tuple[Trace, Trace]) -> None:
    with naming_draws(pair, layout):
        whole = draw(pair.model, pair.guide, pair.args, pair.kwargs, layout)
    natural = {
        name: site for trace in alone for name, site in trace.nodes.items() if site["type"] == "sample"
    }
    ks, ms = ({0, count - 1} for count in (layout.num_particles, layout.num_corruptions))
    for number, index in enumerate(itertools.product(ks, ms)):
        given = _given(whole, index, natural)
        if given is None:
            return  # the sites differ between runs, so nothing can be compared
        once = _densities(_run(pair, *given))
        if number == 0:
            again = _densities(_run(pair, *given))
            if set(once) != set(again) or any(not torch.equal(once[key], again[key]) for key in once):
                return  # it draws outside its sites
        for program, trace in (("guide", whole.guide_trace), ("model", whole.model_trace)):
            for name, site in trace.nodes.items():
                if site["type"] != "sample" or is_uncounted(site) or (program, name) not in once:
                    continue
                part = _at(site["unscaled_log_prob"], index, layout, 0).double()
                sums = torch.stack([part.sum(), part.abs().sum()])
                if not _close(sums, once[program, name]):
                    raise InputError(
                        f"{program}: the log-density of site {name!r} for one of the draws is "
                        f"{float(sums[0]):.6g} in one pass but {float(once[program, name][0]):.6g} when the "
                        f"draw runs alone, so with {counts(layout)} the program does not vectorise over "
                        f"dimensions on the left; correct it, or use {LOOP}"
                    )


def _given(draws: Draws, index: tuple[int, int], natural: dict[str, Any]) -> tuple[Trace, Trace] | None:
    """Return the values of one draw, as traces to replay guide and model with."""
    traces = []
    for trace in (draws.guide_trace, draws.model_trace):
        kept = Trace()
        for name, site in trace.nodes.items():
            if site["type"] != "sample" or site["is_observed"]:
                continue
            if name not in natural or isinstance(site["fn"], Rejector) or is_rounded(site["fn"]):
                return None
            value = _at(site["value"], index, draws.layout, site["fn"].event_dim)
            shape = natural[name]["value"].shape
            if value.numel() != shape.numel():
                return None
            kept.add_node(name, **{**site, "value": value.reshape(shape)})
        for name, site in draws.subsamples.sites.items():
            kept.add_node(name, **site)
        traces.append(kept)
    return traces[0], traces[1]


def _at(value: Tensor, index: tuple[int, int], layout: Layout, event_dim: int) -> Tensor:
    """Return one draw of a value [K, M, *plates, *event]."""
    dims = ((layout.particle_dim, index[0]), (layout.corruption_dim, index[1]))
    for dim, position in dims:
        if dim and value.dim() >= event_dim - dim:
            where = value.dim() + dim - event_dim
            size = value.shape[where]
            value = value.narrow(where, position if size > 1 else 0, 1)
    return value


def _densities(traces: tuple[Trace, Trace]) -> dict[tuple[str, str], Tensor]:
    """Return the sums of each site's log-density and of its magnitude, by program and site."""
    found = {}
    for program, trace in zip(("guide", "model"), traces, strict=True):
        for name, site in trace.nodes.items():
            if site["type"] == "sample" and not site_is_subsample(site) and not is_uncounted(site):
                with suppress(*NOT_INVERTED):  # such a site cannot be compared
                    value = site["fn"].log_prob(site["value"]).double()
                    found[program, name] = torch.stack([value.sum(), value.abs().sum()])
    return found


def _close(a: Tensor, b: Tensor) -> bool:
    if not bool(torch.isfinite(torch.stack([a, b])).all()):
        return True  # infinities cannot be compared
    return bool((a - b).abs()[0] <= _TOLERANCE * (1 + torch.maximum(a, b)[1]))


class Evaluation(TorchFunctionMode):
    """Runs dropout and batch normalisation as in evaluation mode, so that runs can be compared."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.functional":
            known = signature(func)
            if "training" in known.parameters:
                bound = known.bind(*args, **kwargs)
                # Without running statistics, the batch provides them.
                if bound.arguments.get("running_mean", True) is not None:
                    bound.arguments["training"] = False
                args, kwargs = bound.args, bound.kwargs
        return func(*args, **kwargs)
