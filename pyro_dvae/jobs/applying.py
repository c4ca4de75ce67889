"""Applies a trained run to the rows of a file: codes, reconstructions, denoised rows or scores as a file."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.checkpoint import load_parameters
from pyro_dvae.conditioning.result import warn_of_cells
from pyro_dvae.errors import DataError, InputError, warn
from pyro_dvae.evaluation.importance.tally import fingerprint
from pyro_dvae.files import replacing, require_writable, user_path
from pyro_dvae.jobs.by_rows import PartOfRows, Workers, parts_of
from pyro_dvae.jobs.converted_rows import ConvertedRows, Table, rows_of
from pyro_dvae.jobs.data import log_p_of
from pyro_dvae.jobs.executors.run_progress import ProgressRelay
from pyro_dvae.jobs.folder import CHECKPOINT, options_of, read_config
from pyro_dvae.jobs.loading import load
from pyro_dvae.jobs.tables import require_numbers, require_table, write_table
from pyro_dvae.ownership import own
from pyro_dvae.training import Fitted

ROWS_OF_A_PART = 500  # the rows that are conditioned at once

Settings = Mapping[str, Any]
Applied = tuple[Table, Tensor]  # columns [N], and which rows are reliable [N]
Apply = Callable[[Fitted, ConvertedRows, Settings], Applied]


def _encode(fitted: Fitted, given: ConvertedRows, settings: Settings) -> Applied:
    codes = fitted.encode(given.rows)  # the means of Gaussians: nothing is drawn
    flat = {name: mean.reshape(len(mean), -1).numpy() for name, mean in codes.mean.items()}
    table = {f"{name}{n}": values[:, n] for name, values in flat.items() for n in range(values.shape[1])}
    return table, _all(given)


def _values(verb: str) -> Apply:
    def values(fitted: Fitted, given: ConvertedRows, settings: Settings) -> Applied:
        if given.units.has_texts:
            raise InputError(f"{verb}: categories have no mean; encode and score take them")
        return given.units.back(getattr(fitted, verb)(given.rows, **settings)), _all(given)

    return values


def _score(fitted: Fitted, given: ConvertedRows, settings: Settings) -> Applied:
    found = fitted.log_likelihood(given.rows, **settings)
    model: Any = fitted.model
    log_factor = 0.0 if model.decoder.discrete else given.units.log_factor
    table = {
        "log_likelihood": found.log_likelihood.numpy() - log_factor,
        "standard_error": found.standard_error.numpy(),
        "pareto_k": found.pareto_k.numpy(),
    }
    return table, _all(given)


def _impute(fitted: Fitted, given: ConvertedRows, settings: Settings) -> Applied:
    found = fitted.condition(given.rows, **settings)
    return given.units.back(found.filled("mean")), found.reliable.cpu()


def _all(given: ConvertedRows) -> Tensor:
    return torch.ones(len(given.rows), dtype=torch.bool)


VERBS: dict[str, Apply] = {
    "encode": _encode,
    "reconstruct": _values("reconstruct"),
    "denoise": _values("denoise"),
    "score": _score,
    "impute": _impute,
}


def apply(
    verb: str,
    run: str | Path,
    file: str | Path,
    output: str | Path | None,
    *,
    samples: int = 1,
    seed: int = 0,
    device: str = "cpu",
    workers: Workers | None = None,
) -> tuple[Path, int]:
    """Apply a verb to the rows of a file; return the file written and the number of rows.

    :param verb: one of :data:`VERBS`.
    :param output: a ``.csv`` or ``.parquet`` file (with names of rows and columns) or a ``.npy`` file (only
        numbers); None for ``VERB.csv`` in the working directory.
    :param samples: draws of the latents of each row; ``encode`` draws nothing.
    :param seed: seed of the draws.
    :param workers: where to score or impute rows in parts; by default in this process. Finished parts are
        stored beside the output until all are finished.
    """
    checks.known("verb", verb, VERBS)
    path = Path(f"{verb}.csv") if output is None else user_path("output", output)
    require_table(path, file)
    config = read_config(run)
    given = rows_of(config, file, gaps=verb == "impute")
    if verb == "score" and log_p_of(options_of(config), True, given.rows) == "none":
        warn(
            f"{file}: log_likelihood is a cross-entropy, not log p(x), because the run has a Bernoulli "
            "decoder and these values are not all 0 and 1; give binary rows to get log p(x)"
        )
    if verb == "impute":
        if not bool(given.rows.isnan().any()):
            raise DataError("file: no cell is missing, so there is nothing to impute")
        require_numbers(path, given.units, given.cells)
    settings = {"num_samples": checks.count("samples", samples), "seed": checks.count("seed", seed, 0)}
    with ExitStack() as until_written:
        if workers is None:
            table, reliable = VERBS[verb](load(run, device=device), given, settings)
        else:
            places = (user_path("run", run).absolute(), user_path("file", file).absolute())
            task = _RowsTask(verb, *places, settings, device)
            table, reliable = until_written.enter_context(_by_parts(task, given, workers, path))
        if verb == "impute":
            warn_of_cells(given.rows.isnan().any(1), reliable)
            table = given.with_observed(table)
        shape = None if verb in ("encode", "score") else given.shape
        return write_table(path, given.names, table, shape), len(given.rows)


@dataclass(frozen=True)
class _RowsTask:
    """The data that a worker needs to apply a verb to a part of a file's rows."""

    verb: str
    run: Path
    file: Path
    settings: dict[str, int]
    device: str


@contextmanager
def _by_parts(task: _RowsTask, given: ConvertedRows, workers: Workers, output: Path) -> Iterator[Applied]:
    """Yield the result of all parts, whose files are removed after the body."""
    parts = parts_of(len(given.rows), ROWS_OF_A_PART)
    shared = output.absolute().with_name(f"{output.name}.parts")
    weights = fingerprint(load_parameters(task.run / CHECKPOINT).values())
    what = (task.verb, task.settings, weights, fingerprint([given.rows]))
    name = hashlib.sha256(repr(what).encode()).hexdigest()[:12]  # only parts of the same work are reused
    function = partial(_table_of_part, task=task, stem=shared / name)
    require_writable(shared / name)
    lock = own("output", shared)
    try:
        missing = [part for part in parts if not _is_whole(_file(shared / name, part))]
        workers.perform(function, missing, shared, False)
        found = [np.load(_file(shared / name, part), allow_pickle=False) for part in parts]
        names = enumerate(found[0]["names"].tolist())
        table = {column: np.concatenate([each[f"arr_{n}"] for each in found]) for n, column in names}
        yield table, torch.from_numpy(np.concatenate([each["reliable"] for each in found]))
        shutil.rmtree(shared, ignore_errors=True)
    finally:
        lock.release()


def _file(stem: Path, part: PartOfRows) -> Path:
    return stem.with_name(f"{stem.name}-{part.key}.npz")


def _is_whole(path: Path) -> bool:
    """Return whether there is a file of a part that is not damaged."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def _table_of_part(part: PartOfRows, progress: ProgressRelay, *, task: _RowsTask, stem: Path) -> None:
    given = rows_of(read_config(task.run), task.file, gaps=task.verb == "impute")
    fitted = load(task.run, device=task.device)
    table, reliable = VERBS[task.verb](fitted, given, task.settings | {"part": part.pair})
    with replacing(_file(stem, part)) as target, open(target, "wb") as stream:
        np.savez(stream, *table.values(), names=np.array(list(table)), reliable=reliable.numpy())
