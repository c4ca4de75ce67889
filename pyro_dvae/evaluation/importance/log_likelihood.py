"""``log_likelihood``: the held-out log-likelihood of any model and guide, by importance sampling."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.calling import calling
from pyro_dvae.distributed import Ranks
from pyro_dvae.distributed.ranks import together
from pyro_dvae.engine import fast_products
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.importance.chunks import BOUND, WEIGHT, SampledChunks
from pyro_dvae.evaluation.importance.plan import smallest_pass
from pyro_dvae.evaluation.importance.programs import SampledPrograms
from pyro_dvae.evaluation.importance.proposals import KINDS, Pass, Proposal
from pyro_dvae.evaluation.importance.result import LogLikelihood
from pyro_dvae.evaluation.importance.tally import SavedChunks, fingerprint, stored_seed
from pyro_dvae.evaluation.progress import Tell, progress_of
from pyro_dvae.evaluation.refinement.likelihood import RefinedChunks
from pyro_dvae.evaluation.refinement.settings import Refined, Refinement
from pyro_dvae.evaluation.refinement.targets import Targets
from pyro_dvae.files import user_path
from pyro_dvae.interrupts import Interrupts, Stopped
from pyro_dvae.ownership import FileOwner
from pyro_dvae.programs.parameters import float_type
from pyro_dvae.random_state import derived_seed, forked, start_seed
from pyro_dvae.rows import Data
from pyro_dvae.rows.data import portion, share

AUTO = "auto"
_ROWS, _DRAWS = 16, 100
_WORTH = 0.1  # nats: least gain, because the mixture runs the encoder M times


def better_on_few(
    programs: SampledPrograms, clean: Proposal, nesting: int | float, noisy: bool, seed: int
) -> str:
    """Return ``"mixture"`` if it gives a higher estimate of log p(x) than ``"clean"``, else ``"clean"``.

    Both estimates lie below log p(x) in expectation, so the higher one is closer. The draws come from a
    separate stream, so the choice does not bias later estimates.
    """
    rows = programs.rows(0, min(_ROWS, programs.num_data))
    found: list[Tensor] = []
    for proposal in (clean, replace(clean, kind="mixture")):
        one = Pass(
            proposal, max(2, _DRAWS // proposal.strata), 2 if proposal.defensive else 0, nesting, noisy
        )
        with forked(derived_seed(seed, "pilot")):
            try:
                log_weight = programs.log_weights(one, *rows).double()
            except InputError:
                if proposal is clean:
                    raise
                return clean.kind  # the guide's densities under other corruptions are unknown
        found.append(torch.logsumexp(log_weight, 0) - math.log(len(log_weight)))
    gain = found[1] - found[0]
    error = float(gain.std()) / math.sqrt(len(gain)) if len(gain) > 1 else 0.0
    return "mixture" if float(gain.mean()) > max(_WORTH, 2 * error) else "clean"


Program = Callable[..., Any]


def log_likelihood(
    model: Program,
    guide: Program,
    data: Any,
    *args: Any,
    num_samples: int = 5000,
    proposal: str = "auto",
    num_corruptions: int = 10,
    defensive: float = 0.0,
    widen: float = 1.0,
    seed: int | None = None,
    memory: int = 2**29,
    compile: bool | None = None,  # noqa: A002 - torch's own word for it
    bfloat16: bool = False,
    keep_log_weight: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | Callable[[int, int], None] | None = None,
    max_plate_nesting: int | float = math.inf,
    refine: bool | int | Refinement = False,
    part: tuple[int, int] | None = None,
    **kwargs: Any,
) -> LogLikelihood:
    """Estimate log p(x) of each observation by importance sampling with the guide as proposal::

        log p(x) ≈ log 1/S Σ_s p(x, z_s) / q(z_s)        E 1/S Σ_s w_s = p(x), for every proposal

    (Rezende et al. 2014, appendix E; Burda et al. 2016.) Latents may be continuous or discrete. If the guide
    has no corruption sites, all kinds of ``proposal`` are equal. Modules run in evaluation mode.
    The draws come from separate random streams, so on the same machine a seed always gives the same values.

    With ``torch.distributed`` initialised, call this in every process with the same arguments. Each process
    evaluates a part of the data, and all return the whole record, with the same values as one process.

    A long evaluation runs a recorded and compiled form of model and guide and checks that it gives the same
    values. If they cannot be recorded, for example because control flow depends on values, the evaluation
    runs uncompiled and warns.

    :param model: Pyro model of a batch, with one data plate.
    :param guide: Pyro guide of a batch.
    :param data: data, shape [N, ...].
    :param args: further data for model and guide, N rows each, split like ``data``.
    :param kwargs: further arguments of model and guide, passed unchanged.
    :param num_samples: S, draws per observation; rounded up to complete passes (see ``num_samples`` of the
        result).
    :param proposal: ``"clean"``, ``"corrupted"`` or ``"mixture"``, see :class:`Proposal`; ``"auto"`` tries
        the first and the last on a few rows and uses the mixture if there is one and its estimate is higher,
        because a guide trained only on corrupted input may be a bad proposal on clean input.
    :param num_corruptions: M of the mixture.
    :param defensive: share of the draws that come from the prior, below 1.
    :param widen: factor of the scale of the guide's latents.
    :param seed: seed of the random streams; None draws it from the global stream.
    :param memory: approximate number of bytes that the evaluation may use in addition to data and results,
        for any N and S.
    :param compile: compile model and guide; None does so if it saves time (from about half a minute on).
    :param bfloat16: round the factors of matrix products to bfloat16, which is faster but changes each log
        weight by some tenths of a nat.
    :param keep_log_weight: keep all N × S log weights in the result, if they fit into ``memory``.
    :param checkpoint: file that stores the progress, so that a stopped evaluation can continue; each of
        several processes uses its own file next to it. No other process may use it at the same time.
    :param progress: whether to show progress (None: in long evaluations), or a function of the numbers of
        finished and of all rows. Each of several processes counts its own rows, and rank 0 shows them.
    :param max_plate_nesting: number of dimensions of the user's plates; by default found by one run.
    :param refine: refine the proposal of each row whose Pareto k is bad: True, a number of Adam steps, or a
        :class:`~pyro_dvae.Refinement`. The first proposal is then the encoder's Gaussian on clean input
        (``proposal`` and ``widen`` keep their defaults), and the latents are continuous.
    :param part: (k, n): estimate only part k of n of the rows, k from 0, with the same values as in a run on
        all rows. A part may be empty. :meth:`LogLikelihood.joined` joins the parts.
    :raises InputError: if an argument is invalid, the model has no data plate, or a weight is NaN.
    :raises CheckpointError: if ``checkpoint`` belongs to another evaluation or is damaged.
    """
    checks.pair(model, guide)
    given = Data.opened("data", (data, *args), kwargs, float_type(model, guide))
    checks.nesting("max_plate_nesting", max_plate_nesting)
    checks.optional(checks.flag, "compile", compile)
    for argument, flag in (("bfloat16", bfloat16), ("keep_log_weight", keep_log_weight)):
        checks.flag(argument, flag)
    checks.progress(progress)
    num_samples = checks.count("num_samples", num_samples)
    memory = checks.count("memory", memory)
    if seed is not None:
        seed = checks.count("seed", seed, minimum=0)
    checks.known("proposal", proposal, (*KINDS, AUTO))
    wanted = portion("part", part)
    chosen = Proposal(
        "clean" if proposal == AUTO else proposal,
        num_corruptions,
        checks.number("defensive", defensive, 0.0, 1.0),
        checks.scale_factor("widen", widen),
    )
    refinement = Refinement.of(refine)
    if refinement is not None and (proposal, widen, bfloat16) != (AUTO, 1.0, False):
        raise InputError(
            "refine: it sets the form of the proposal, so expected proposal='auto', widen=1 and "
            "bfloat16=False (a Refinement has its own widen)"
        )
    programs = SampledPrograms(model, guide, given)
    trained, denoising, noisy, nesting = programs.inspect(max_plate_nesting)
    if not denoising:
        chosen = replace(chosen, kind="clean")
    path: Path | None = None
    ranks = Ranks.present(lambda: f"; what is done is in {path}" if path and path.exists() else "")
    if checkpoint is not None:
        path = _own_path(user_path("checkpoint", checkpoint), ranks)
    start = _start(seed, path, ranks)
    with torch.no_grad(), trained.evaluating(), fast_products(), calling("model, guide, data"):
        refined: RefinedChunks | None = None
        if refinement is not None:
            targets = Targets(model, guide, given, nesting, memory, compile)
            refined = RefinedChunks.planned(
                targets, guide, len(given), refinement, num_samples, defensive, keep_log_weight
            )
        elif proposal == AUTO and denoising and num_corruptions > 1:
            better = better_on_few(programs, chosen, nesting, noisy, start)
            chosen = replace(chosen, kind=ranks.of_first(better))
        planned: SampledChunks | RefinedChunks
        if refined is not None:
            planned = refined
        else:
            smallest = smallest_pass(chosen, nesting, noisy)
            planned = SampledChunks.planned(
                programs, smallest, num_samples, memory, keep_log_weight, compile, bfloat16
            )
        if keep_log_weight and (needed := 4 * len(given) * planned.num_samples) > memory:
            raise InputError(
                f"keep_log_weight: {len(given)} x {planned.num_samples} weights take {needed} bytes, above "
                f"memory={memory}; raise it, or evaluate fewer rows"
            )
        settings = {
            "data": given.digest(),
            "parameters": fingerprint(trained.tensors().values()),
            "num_samples": planned.num_samples,
            "proposal": str(chosen),
            "seed": start,
            "keep_log_weight": keep_log_weight,
            "bfloat16": bfloat16,
            "passes": planned.cut,
        }
        if refinement is not None:
            settings["refine"] = str(refinement)
        if part is not None:
            settings["part"] = list(part)
        if ranks.gather(settings) != [settings] * ranks.count:
            raise InputError("model, guide, data: expected the same weights, data and settings on every rank")

        def evaluated() -> dict[str, Tensor]:
            told = progress if ranks.first or callable(progress) else False
            with FileOwner(checkpoint=path).held(), progress_of("log-likelihood", told) as shown:
                done = SavedChunks(path, settings)
                _evaluate(programs, planned, done, shown, wanted, ranks)
            return done.joined() if done.chunks else {}

        found = [each for each in together(ranks, evaluated) if each]
    if found:
        results = {name: torch.cat([each[name] for each in found]) for name in found[0]}
    else:
        results = _nothing(planned, keep_log_weight, refined is not None)
    record = None
    if refined is not None:
        record = Refined(results.pop("proposal"), results.pop("pareto_k_before"), refined.settings)
    return LogLikelihood(
        bound_by_samples=(planned.sizes, results.pop(BOUND)),
        log_weight=results.pop(WEIGHT, None),
        num_samples=planned.num_samples,
        proposal=chosen,
        denoising=denoising,
        seed=start,
        refined=record,
        part=None if part is None else wanted,
        **results,
    )


def _nothing(planned: SampledChunks | RefinedChunks, keep: bool, refined: bool) -> dict[str, Tensor]:
    """Return the results of an empty part."""
    none = torch.empty(0, dtype=torch.float64)
    names = ["log_likelihood", "smoothed_log_likelihood", "standard_error", "ess", "pareto_k"]
    results = dict.fromkeys([*names, *(["proposal", "pareto_k_before"] if refined else [])], none)
    results[BOUND] = none.reshape(0, 1).expand(0, len(planned.sizes))
    return results | ({WEIGHT: torch.empty(0, planned.num_samples)} if keep else {})


def _own_path(path: Path, ranks: Ranks) -> Path:
    if not ranks.several:
        return path
    return path.with_name(f"{path.stem}.{ranks.rank + 1}-of-{ranks.count}{path.suffix}")


def _start(seed: int | None, path: Path | None, ranks: Ranks) -> int:
    """Return the seed of all streams: the given one, the one in a file to resume, or a new one."""
    if seed is not None:
        return seed
    stored = [each for each in ranks.gather(stored_seed(path)) if each is not None]
    return stored[0] if stored else ranks.of_first(start_seed(None))


def _evaluate(
    programs: SampledPrograms,
    planned: SampledChunks | RefinedChunks,
    done: SavedChunks,
    shown: Tell,
    part: tuple[int, int],
    ranks: Ranks,
) -> None:
    """Evaluate the remaining chunks of a part on this rank."""
    count, size = programs.num_data, planned.data
    chunks = range(0, count, size)
    chunks = chunks[share(len(chunks), *part)]
    own = chunks[ranks.share(len(chunks))]
    starts = own[len(done.chunks) :]
    if not starts:
        return
    first, last = own[0], min(own[-1] + size, count)
    with Interrupts() as interrupts, pyro.validation_enabled(False):
        estimated = planned.prepared(programs.rows(starts[0], size), len(starts))
        try:
            for start in starts:
                if interrupts.requested:
                    raise Stopped(done.path)
                with forked(derived_seed(done.settings["seed"], "log_likelihood", start)):
                    results = estimated(programs.rows(start, size), min(size, count - start))
                done.add(results)
                shown(min(start + size, count) - first, last - first)
        finally:
            done.save()
