"""Applies a trained run to the rows of a file: codes, reconstructions, denoised rows or scores as a file."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.checkpoint import load_parameters
from pyro_dvae.datasets import read_file
from pyro_dvae.datasets.columns import Columns
from pyro_dvae.datasets.from_arrays import check_array
from pyro_dvae.datasets.treatment import Treatment, where
from pyro_dvae.errors import DataError, InputError
from pyro_dvae.evaluation.importance.tally import fingerprint
from pyro_dvae.files import replacing, user_path
from pyro_dvae.jobs.by_rows import PartOfRows, Workers, parts_of
from pyro_dvae.jobs.data import of_file
from pyro_dvae.jobs.executors.run_progress import ProgressRelay
from pyro_dvae.jobs.folder import CHECKPOINT, columns_of, options_of, read_config
from pyro_dvae.jobs.loading import load
from pyro_dvae.jobs.tables import by_column, require_table, write_table
from pyro_dvae.training import Fitted

Table = dict[str, np.ndarray]
ROWS_OF_A_PART = 500  # the rows that are conditioned at once
_BYTES = 255.0


@dataclass(frozen=True)
class ConvertedRows:
    """The rows of a file, converted for the model of a run.

    :param rows: [N, D].
    :param columns: columns of the run's data; None for images.
    :param factor: divisor of the values of images.
    :param names: names of the rows, [N], from the run's id column, or None.
    :param cells: cells of the file by column, [N] each.
    """

    rows: Tensor
    columns: Columns | None
    factor: float
    names: Table
    cells: Table

    def with_observed(self, table: Table, count: int = 1) -> Table:
        """Return completed rows with the exact values of the file in observed cells.

        :param table: columns in original units; all rows, ``count`` times.
        """
        completed = {}
        for missing, (name, values) in zip(self.rows.isnan().T.numpy(), table.items(), strict=True):
            gaps, cells = np.tile(missing, count), np.tile(self.cells[name], count)
            if gaps.any():
                filling = _in_type_of(cells[~gaps], values[gaps])
                cells = cells.astype(
                    np.result_type(cells, filling) if filling.dtype.kind in "biuf" else object
                )
                cells[gaps] = filling
            completed[name] = cells
        return completed


def _in_type_of(cells: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return values in the type of their column's cells: bools, or numbers that name categories."""
    if len(cells) and all(isinstance(cell, bool | np.bool_) for cell in cells):
        return values >= 0.5
    if values.dtype.kind == "U" and cells.dtype.kind in "iuf":
        try:
            return values.astype(cells.dtype)
        except ValueError:  # the category is a text
            return values.astype(object)
    return values


def factor_of(config: Mapping[str, Any]) -> float:
    """Return the divisor of the values of a run's images."""
    return _BYTES if config["options"]["scale"] == "bytes" and not config["data"].get("columns") else 1.0


def rows_of(config: Mapping[str, Any], path: str | Path, gaps: bool = False) -> ConvertedRows:
    """Read a file with the columns of a run's data, in the run's order and scales.

    :param gaps: whether cells may be missing (NaN).
    :raises DataError: columns or cells are missing, or the rows have another size.
    """
    config = dict(config)
    options, columns = options_of(config), columns_of(config)
    treatment = Treatment(**of_file(options)).checked()
    content = read_file(user_path("file", path), treatment)
    table = content.table
    factor = factor_of(config)
    for part, array in content.parts.items():
        check_array(where(content.path, part), array, gaps)
    arrays = [array.reshape(len(array), -1) for array in content.parts.values()]
    if columns is not None:
        table = table or {
            str(n): np.concatenate([a[:, n] for a in arrays]) for n in range(arrays[0].shape[1])
        }
        try:
            rows = columns.forward(table)
        except (DataError, ValueError) as error:
            raise DataError(f"{content.path}: {error}") from None
    else:
        texts = [name for name, values in (table or {}).items() if values.dtype.kind not in "biuf"]
        if texts:
            raise DataError(f"{content.path}: column {texts[0]!r} holds texts, the run's data are numbers")
        flat = np.stack(list(table.values()), 1) if table is not None else np.concatenate(arrays)
        table = {str(n): flat[:, n] for n in range(flat.shape[1])}
        rows = torch.from_numpy(np.asarray(flat, dtype=np.float32))
        values = rows[~rows.isnan()]
        if factor != 1.0 and bool(((values >= 0) & (values <= 1)).all() & (values != values.round()).any()):
            raise DataError(
                f"{content.path}: expected bytes from 0 to {factor:g}, as in the run's data, got fractions "
                "in [0, 1]; multiply them"
            )
        rows = rows / factor
    size = config["data"]["dimension"]
    if rows.shape[1] != size:
        raise DataError(
            f"{content.path}: expected {size} values per row, as in the run's data, got {rows.shape[1]}"
        )
    if gaps and bool(rows.isinf().any()):
        raise DataError(f"{content.path}: expected finite cells or gaps, got infinity")
    if not gaps:
        checks.finite(str(content.path), rows)
    name = options.id_column
    names = {name: table[name]} if name is not None and table is not None and name in table else {}
    return ConvertedRows(rows, columns, factor, names, table)


Settings = Mapping[str, Any]
Apply = Callable[[Fitted, ConvertedRows, Settings], Table]


def _encode(fitted: Fitted, given: ConvertedRows, settings: Settings) -> Table:
    codes = fitted.encode(given.rows, seed=settings["seed"])
    flat = {name: mean.reshape(len(mean), -1).numpy() for name, mean in codes.mean.items()}
    return {f"{name}{n}": values[:, n] for name, values in flat.items() for n in range(values.shape[1])}


def _values(verb: str) -> Apply:
    def values(fitted: Fitted, given: ConvertedRows, settings: Settings) -> Table:
        if given.columns is not None and given.columns.has_texts:
            raise InputError(f"{verb}: categories have no mean; encode and score take them")
        found = getattr(fitted, verb)(given.rows, **settings)
        return by_column(given.columns, found * given.factor)

    return values


def _score(fitted: Fitted, given: ConvertedRows, settings: Settings) -> Table:
    found = fitted.log_likelihood(given.rows, **settings)
    log_factor = 0.0 if given.columns is None else given.columns.log_factor
    return {
        "log_likelihood": found.log_likelihood.numpy() - log_factor,
        "standard_error": found.standard_error.numpy(),
        "pareto_k": found.pareto_k.numpy(),
    }


def _impute(fitted: Fitted, given: ConvertedRows, settings: Settings) -> Table:
    found = fitted.condition(given.rows, **settings)
    found.warn_of_unreliable()
    return by_column(given.columns, found.filled("mean") * given.factor)


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
    samples: int,
    seed: int,
    device: str = "cpu",
    workers: Workers | None = None,
) -> tuple[Path, int]:
    """Apply a verb to the rows of a file; return the file written and the number of rows.

    :param verb: one of :data:`VERBS`.
    :param output: a ``.csv`` or ``.parquet`` file (with names of rows and columns) or a ``.npy`` file (only
        numbers); None for ``VERB.csv`` in the working directory.
    :param samples: draws of the latents of each row.
    :param workers: where to score or impute rows in parts; by default in this process. Finished parts are
        stored beside the output until all are finished.
    """
    checks.known("verb", verb, VERBS)
    path = Path(f"{verb}.csv") if output is None else user_path("output", output)
    require_table(path, file)
    given = rows_of(read_config(run), file, gaps=verb == "impute")
    if verb == "impute" and not bool(given.rows.isnan().any()):
        raise DataError("file: no cell is missing, so there is nothing to impute")
    settings = {"num_samples": checks.count("samples", samples), "seed": checks.count("seed", seed, 0)}
    if workers is None:
        table = VERBS[verb](load(run, device=device), given, settings)
    else:
        places = (user_path("run", run).absolute(), user_path("file", file).absolute())
        table = _by_parts(_RowsTask(verb, *places, settings, device), given, workers, path)
    if verb == "impute":
        table = given.with_observed(table)
    return write_table(path, given.names, table), len(given.rows)


@dataclass(frozen=True)
class _RowsTask:
    """The data that a worker needs to apply a verb to a part of a file's rows."""

    verb: str
    run: Path
    file: Path
    settings: dict[str, int]
    device: str


def _by_parts(task: _RowsTask, given: ConvertedRows, workers: Workers, output: Path) -> Table:
    parts = parts_of(len(given.rows), ROWS_OF_A_PART)
    shared = output.absolute().with_name(f"{output.name}.parts")
    weights = fingerprint(load_parameters(task.run / CHECKPOINT).values())
    what = (task.verb, task.settings, weights, fingerprint([given.rows]))
    name = hashlib.sha256(repr(what).encode()).hexdigest()[:12]  # only parts of the same work are reused
    function = partial(_table_of_part, task=task, stem=shared / name)
    workers.perform(
        function, [part for part in parts if not _file(shared / name, part).exists()], shared, False
    )
    tables = [np.load(_file(shared / name, part), allow_pickle=False) for part in parts]
    joined = {column: np.concatenate([table[column] for table in tables]) for column in tables[0].files}
    shutil.rmtree(shared, ignore_errors=True)
    return joined


def _file(stem: Path, part: PartOfRows) -> Path:
    return stem.with_name(f"{stem.name}-{part.key}.npz")


def _table_of_part(part: PartOfRows, progress: ProgressRelay, *, task: _RowsTask, stem: Path) -> None:
    given = rows_of(read_config(task.run), task.file, gaps=task.verb == "impute")
    fitted = load(task.run, device=task.device)
    table: dict[str, Any] = VERBS[task.verb](fitted, given, task.settings | {"part": part.pair})
    with replacing(_file(stem, part)) as target, open(target, "wb") as stream:
        np.savez(stream, **table)
