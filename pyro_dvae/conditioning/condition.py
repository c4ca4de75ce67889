"""``condition``: draw any part of a row given any other part, by refined importance sampling."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.calling import calling
from pyro_dvae.conditioning.enumerated import Enumerated, enumerated
from pyro_dvae.conditioning.masks import NOISE, MaskModel
from pyro_dvae.conditioning.programs import (
    Completing,
    GapGuide,
    GapModel,
    Program,
    cells,
    fill_gaps,
    together,
)
from pyro_dvae.conditioning.refusals import refuse_readers
from pyro_dvae.conditioning.result import Conditioned
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.annealing.density import AnnealedPrograms
from pyro_dvae.evaluation.annealing.scoring import FixedSites, UnconstrainedScores
from pyro_dvae.evaluation.annealing.structure import Structure
from pyro_dvae.evaluation.estimates import evaluation_mode
from pyro_dvae.evaluation.importance.tally import resolved
from pyro_dvae.evaluation.progress import progress_of
from pyro_dvae.evaluation.refinement.chosen_proposals import ascended, shares
from pyro_dvae.evaluation.refinement.settings import Refined, Refinement
from pyro_dvae.evaluation.refinement.targets import Targets
from pyro_dvae.evaluation.refinement.weighing import chains, summary, weighted
from pyro_dvae.programs.parameters import float_type
from pyro_dvae.programs.support import require_observed
from pyro_dvae.random_state import derived_seed, forked, start_seed
from pyro_dvae.rows import Arguments, Data, InMemory
from pyro_dvae.rows.data import portion, share
from pyro_dvae.text import counted

_ROWS = 500
_BYTES_PER_NUMBER = 64  # for each latent value and each completed cell


def condition(
    model: Program,
    guide: Program,
    data: Any,
    *args: Any,
    num_draws: int = 100,
    num_samples: int = 1000,
    refine: bool | int | Refinement = True,
    defensive: float = 0.0,
    fill: float | Tensor = 0.0,
    pass_mask: bool = False,
    mask_model: MaskModel | None = None,
    seed: int | None = None,
    memory: int = 2**29,
    compile: bool | None = None,  # noqa: A002 - torch's own word for it
    progress: bool | Callable[[int, int], None] | None = None,
    max_plate_nesting: int | float = math.inf,
    part: tuple[int, int] | None = None,
    **kwargs: Any,
) -> Conditioned:
    """Draw the missing cells of each row from p(x_missing | x_observed)::

        z_s ~ q(z),  w_s = p(x_observed, z_s) / q(z_s),  z ∝ w_s,  x_missing ~ p(x_missing | z, x_observed)

    The proposal q is the encoder's on the filled row, refined for each row on the bound of its observed cells
    (see :class:`~pyro_dvae.Refinement`). Given the latents, the observed cells must be independent or a
    multivariate normal, whose conditionals are known. Modules run in evaluation mode. Discrete latents are
    summed over for each draw of the others; if all are discrete, the sum is exact and replaces the sampling.

    :param model: Pyro model of a batch, whose observed values are cells of its first argument.
    :param guide: Pyro guide of a batch.
    :param data: rows [N, ...] with NaN (or masked, or NA) in missing cells: a tensor, an array or a frame.
    :param args: further data of model and guide, N rows each, without gaps.
    :param kwargs: further arguments of model and guide, passed unchanged.
    :param num_draws: R, draws of each missing cell.
    :param num_samples: S, draws of the latents of each row, of which R are chosen by their weights.
    :param refine: refine the proposals: True, a number of Adam steps, a :class:`~pyro_dvae.Refinement`, or
        False for the encoder's proposal alone.
    :param defensive: share of the draws of the latents that come from the prior, below 1.
    :param fill: what the guide sees in missing cells: a number, or one for each cell of a row.
    :param pass_mask: call the guide as ``guide(x, seen, ...)``, as in :func:`~pyro_dvae.with_gaps`.
    :param mask_model: a model of the mask if cells are missing because of their values, as in
        :func:`~pyro_dvae.with_gaps`.
    :param seed: seed of the random streams; None draws it from the global stream.
    :param memory: approximate number of bytes to use in addition to data and results.
    :param compile: compile the model's density and its gradient; None does so if it saves time.
    :param progress: whether to show progress, or a function of the numbers of finished rows and all rows.
    :param max_plate_nesting: number of dimensions of the user's plates; by default found by one run.
    :param part: (k, n): condition only part k of n of the rows, k from 0, with the same draws as in a run on
        all rows. A part consists of whole chunks, of at most 500 rows if the latents are continuous.
    :raises InputError: an argument is invalid, the values of a discrete latent cannot be listed, or a
        likelihood has no conditionals.
    """
    checks.pair(model, guide)
    num_draws = checks.count("num_draws", num_draws)
    num_samples = checks.count("num_samples", num_samples, minimum=25)
    checks.progress(progress)
    checks.flag("pass_mask", pass_mask)
    memory = checks.count("memory", memory)
    checks.optional(checks.flag, "compile", compile)
    checks.nesting("max_plate_nesting", max_plate_nesting)
    part_number, num_parts = portion("part", part)
    if checks.number("defensive", defensive, 0.0, 1.0) == 1.0:
        raise InputError("defensive: expected a share below 1, got 1")
    settings = Refinement.of(refine) or Refinement(families=(), annealing_steps=0)
    data, args = together(data, args, float_type(model, guide))
    given, seen = fill_gaps(data, fill)
    others = Data.opened("args", args, kwargs, given.dtype).sources if args else ()
    rows = Data((InMemory(given, seen), *others), kwargs)
    if len(others) and len(others[0]) != len(given):
        raise InputError(f"args: expected {len(given)} rows, as in data, got {len(others[0])}")
    start = start_seed(seed)
    checks.optional(checks.program, "mask_model", mask_model)
    whole = bool(seen.all())
    programs = GapModel(model, mask_model, whole), GapGuide(guide, pass_mask, mask_model)
    if not whole:
        with calling("model, data"):
            refuse_readers(programs[0], rows[:2], ~seen.all(0))
    with torch.no_grad(), evaluation_mode(*programs, rows[:2], total=len(rows)):
        require_observed(model, torch.where(seen, given, torch.nan), *rows[:].rows[2:], **kwargs)
        exact = enumerated(programs[0], rows, max_plate_nesting)
        engine: _Engine | _Exact
        if exact is not None:
            engine, num_samples = _Exact(exact, num_draws, memory), exact.count
        else:
            with forked(derived_seed(start, "condition")):
                targets = Targets(*programs, rows, max_plate_nesting, memory, compile)
            engine = _Engine(targets, programs[1], settings, num_samples, num_draws, defensive)
            targets.expect(len(rows))
        size = engine.rows(given[0].numel())
        chunks = range(0, len(rows), size)
        if num_parts > len(chunks):
            most = counted(len(chunks), "part")
            raise InputError(f"part: expected at most {most}, of {size} rows each, got {num_parts}")
        chunks = chunks[share(len(chunks), part_number, num_parts)]
        parts = []
        with progress_of("conditioning", progress) as shown, pyro.validation_enabled(False):
            for done, first in enumerate(chunks, start=1):
                with forked(derived_seed(start, "condition", first)):
                    parts.append(engine(rows[first : first + size], model))
                shown(min(done * size, len(rows)), min(len(chunks) * size, len(rows)))
    joined = {name: torch.cat([part[name] for part in parts], -1) for name in parts[0]}
    if bool(joined["log_likelihood"].isnan().all()):
        raise InputError("model: expected log-densities, got NaN for every row")
    nan = torch.tensor(math.nan, dtype=given.dtype, device=given.device)
    refined = None
    if exact is None:
        refined = Refined(joined.pop("proposal"), joined.pop("pareto_k_before"), settings)
        joined.pop("smoothed_log_likelihood")
    own = slice(chunks[0], chunks[-1] + size)
    with_gaps = torch.where(seen[own], given[own], nan)
    return Conditioned(with_gaps, **joined, num_samples=num_samples, refined=refined, seed=start)


@dataclass(frozen=True)
class _Engine:
    targets: Targets
    guide: Program
    settings: Refinement
    num_samples: int
    num_draws: int
    defensive: float

    def rows(self, cells_of_row: int) -> int:
        """Return how many rows fit into the memory."""
        drawn = self.num_draws * self.targets.structure.combinations
        each = self.num_samples * self.targets.size + drawn * (cells_of_row + self.targets.size)
        each += 2 * self.targets.size**2
        return max(1, min(_ROWS, self.targets.memory // (_BYTES_PER_NUMBER * each)))

    def __call__(self, rows: Arguments, model: Program) -> dict[str, Tensor]:
        """Return the values of each row [N], and draws and means of the missing cells, row by row."""
        found = ascended(self.targets, self.guide, rows, self.settings, self.defensive)
        own, from_prior = shares(self.num_samples, self.defensive)
        latents = found.groups[0][1].loc.new_empty(self.num_draws, len(rows), self.targets.size)
        values: dict[str, Tensor] = {}
        for which, proposal in found.groups:
            annealed = found.annealed[which]
            for by_annealing in (False, True):
                chosen = (annealed == by_annealing).nonzero()[:, 0]
                if not len(chosen):
                    continue
                some, part = rows[which[chosen]], proposal[chosen]
                if by_annealing:
                    position, log_weight = chains(self.targets, some, part, self.settings)
                    parts = [log_weight[None]]
                else:
                    position, parts = weighted(self.targets, some, part, own, from_prior)
                result = summary(parts, part.loc.dtype)
                if by_annealing:
                    result["pareto_k"] = torch.full_like(result["pareto_k"], math.nan)
                for name, value in result.items():
                    values.setdefault(name, value.new_empty(len(rows)))[which[chosen]] = value
                picked = _resampled(torch.cat(parts, 1)[0], self.num_draws).to(position.device)
                index = picked[:, :, None].expand(-1, -1, position.shape[2])
                latents[:, which[chosen]] = position.gather(0, index)
        far = values["ess"] == 0  # rows too far for the numbers, where any latents will do
        latents[:, far] = latents[:, far].nan_to_num(0.0, 0.0, 0.0)
        values |= {"proposal": found.proposal, "pareto_k_before": found.before}
        return values | self._completed(model, rows, latents)

    def _completed(self, model: Program, rows: Arguments, latents: Tensor) -> dict[str, Tensor]:
        structure = self.targets.structure
        discrete = self.targets.discrete_given(latents, rows) if structure.discrete else {}
        placed = [UnconstrainedScores(structure, self.targets.unpacked(latents)), FixedSites(discrete)]
        draws, means = _completed(model, rows, placed, structure, len(latents))
        return {"cell_draws": draws, "cell_means": means.mean(0).to(rows.x)}


@dataclass(frozen=True)
class _Exact:
    """Does the same by an exact sum over the values of discrete latents."""

    posterior: Enumerated
    num_draws: int
    memory: int

    def rows(self, cells_of_row: int) -> int:
        """Return how many rows fit into the memory."""
        return self.posterior.rows(cells_of_row, self.num_draws, self.memory)

    def __call__(self, rows: Arguments, model: Program) -> dict[str, Tensor]:
        """Return the values of each row [N], and draws and exact means of the missing cells, row by row."""
        posterior, structure = self.posterior, self.posterior.structure
        given = posterior.log_joint(rows)
        least = torch.finfo(given.dtype).min / 4  # overflow of all values must not give NaN weights
        log_joint = given.nan_to_num(least, neginf=least)
        drawn = posterior.drawn(log_joint, self.num_draws)
        draws, _ = _completed(model, rows, [drawn], structure, self.num_draws)
        _, means = _completed(model, rows, [posterior.every()], structure, posterior.count)
        weight = log_joint.softmax(0)[:, _row_of_gap(rows)]
        found = given.logsumexp(0)
        known = resolved(found, torch.finfo(rows.x.dtype).eps)
        return {
            "log_likelihood": found,
            "standard_error": torch.zeros_like(found),
            "ess": torch.full_like(found, posterior.count),
            "pareto_k": torch.where(known, -math.inf, math.inf),
            "cell_draws": draws,
            "cell_means": (weight * means).sum(0).to(rows.x),
        }


def _row_of_gap(rows: Arguments) -> Tensor:
    """Return the row index of each missing cell."""
    return (~rows.rows[1]).nonzero()[:, 0]


def _completed(
    model: Program, rows: Arguments, latents: list[Any], structure: Structure, count: int
) -> tuple[Tensor, Tensor]:
    """Return draws and means of the missing cells, [count, cells] each, at ``count`` values of the latents.

    :param latents: the handlers that set the values of the latents.
    """
    x, seen, *others = rows.rows
    whole = Arguments((torch.where(seen, x, torch.nan), *others), rows.kwargs)
    gaps = ~seen.flatten()
    draws = x.expand(count, *x.shape).flatten(1).clone()
    means = draws.to(torch.float64, copy=True)
    if not bool(gaps.any()):
        return draws[:, gaps], means[:, gaps]
    completing = Completing((count, *[1] * structure.nesting), by_noise=NOISE in structure.latents)
    AnnealedPrograms(model, None, whole, structure, {}).run(model, *latents, completing)
    times = torch.zeros_like(gaps, dtype=torch.long)
    for name, position in cells(model, whole).items():
        flat, here = position.flatten(), position.flatten() >= 0
        draws[:, flat[here]] = completing.draws[name].reshape(count, -1)[:, here].to(draws)
        means[:, flat[here]] = completing.means[name].reshape(count, -1)[:, here].double()
        times.index_add_(0, flat[here], torch.ones_like(flat[here]))
    if bool((times[gaps] != 1).any()):
        first = int((gaps & (times != 1)).nonzero()[0])
        raise InputError(
            "model: a missing cell is drawn from the site that observes it, and cell "
            f"{first % x[0].numel()} of a row is observed {int(times[first])} times; observe it once, or "
            "leave it out of the data with gaps (model(x, c))"
        )
    return draws[:, gaps], means[:, gaps]


def _resampled(log_weight: Tensor, count: int) -> Tensor:
    """Return indices of ``count`` draws [count, N], chosen by systematic resampling with weights [S, N]."""
    weight = (log_weight - log_weight.amax(0)).exp()
    edges = (weight / weight.sum(0)).cumsum(0).T.contiguous()
    offsets = torch.rand(len(edges), 1, dtype=edges.dtype)
    grid = (torch.arange(count, dtype=edges.dtype) + offsets) / count
    found = torch.searchsorted(edges, grid).clamp(max=len(log_weight) - 1)
    # In random order, so that any subset of the draws has the whole distribution.
    order = torch.rand(found.shape).argsort(1)
    return found.gather(1, order).T.contiguous()
