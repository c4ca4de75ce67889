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
from pyro_dvae.conditioning.result import warn_of_cells
from pyro_dvae.datasets import read_file
from pyro_dvae.datasets.array_scale import Units, by_number
from pyro_dvae.datasets.columns import Columns, level_of
from pyro_dvae.datasets.from_arrays import channels_first, flat_parts, picture_shape
from pyro_dvae.datasets.treatment import Treatment
from pyro_dvae.errors import DataError, InputError, warn
from pyro_dvae.evaluation.importance.tally import fingerprint
from pyro_dvae.files import replacing, user_path
from pyro_dvae.jobs.by_rows import PartOfRows, Workers, parts_of
from pyro_dvae.jobs.data import log_p_of
from pyro_dvae.jobs.executors.run_progress import ProgressRelay
from pyro_dvae.jobs.folder import CHECKPOINT, data_units, options_of, read_config
from pyro_dvae.jobs.loading import load
from pyro_dvae.jobs.options import Options
from pyro_dvae.jobs.tables import require_numbers, require_table, write_table
from pyro_dvae.training import Fitted

Table = dict[str, np.ndarray]
ROWS_OF_A_PART = 500  # the rows that are conditioned at once
_BYTES = 255


@dataclass(frozen=True)
class ConvertedRows:
    """The rows of a file, converted for the model of a run.

    :param rows: [N, D].
    :param units: what converts them back to the units of the run's data.
    :param names: names of the rows, [N], from the run's id column, or none.
    :param cells: cells of the file by column, [N] each.
    :param shape: shape of a row in the file; None for a table.
    """

    rows: Tensor
    units: Units
    names: Table
    cells: Table
    shape: tuple[int, ...] | None = None

    def with_observed(self, table: Table, count: int = 1) -> Table:
        """Return completed rows with the exact values of the file in observed cells.

        :param table: columns in original units; all rows, ``count`` times.
        """
        completed = {}
        for missing, (name, values) in zip(self.rows.isnan().T.numpy(), table.items(), strict=True):
            gaps, cells = np.tile(missing, count), np.tile(self.cells[name], count)
            if gaps.any():
                filling = _in_type_of(cells[~gaps], values[gaps])
                if filling.dtype.kind == "U":
                    cells = np.array([level_of(cell) for cell in cells], dtype=object)
                else:
                    cells = cells.astype(bool if filling.dtype == bool else np.result_type(cells, filling))
                cells[gaps] = filling
            completed[name] = cells
        return completed


def _in_type_of(cells: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return values in the type of their column's cells: bools, or numbers or dates that name categories."""
    if len(cells) and all(isinstance(cell, bool | np.bool_) for cell in cells):
        return values == "True" if values.dtype.kind == "U" else values >= 0.5
    if len(cells) and values.dtype.kind == "U" and not isinstance(cells[0], str):
        kind = type(cells[0])
        try:
            found = [getattr(kind, "fromisoformat", kind)(text) for text in values.tolist()]
        except ValueError:  # the category is a text
            return values
        return np.array(found, dtype=cells.dtype)
    return values


def rows_of(config: Mapping[str, Any], path: str | Path, gaps: bool = False) -> ConvertedRows:
    """Read a file with the columns of a run's data, in the run's order and scales.

    :param gaps: whether cells may be missing (NaN).
    :raises DataError: columns or cells are missing, or the rows have another size or shape.
    """
    config = dict(config)
    options, units = options_of(config), data_units(config)
    content = read_file(user_path("file", path), _treatment(options, units, path).checked())
    shape, table = None, content.table
    if table is None:
        flat, shape = flat_parts(content, gaps)
        _require_shape(content.path, shape, config["data"])
        table = by_number(np.concatenate(list(flat.values())))
    try:
        rows = units.forward(table)
    except (DataError, ValueError) as error:
        raise DataError(f"{content.path}: {error}") from None
    size = config["data"]["dimension"]
    if rows.shape[1] != size:
        raise DataError(
            f"{content.path}: expected {size} values per row, as in the run's data, got {rows.shape[1]}"
        )
    if not isinstance(units, Columns):
        table = dict(zip(by_number(rows.numpy()), table.values(), strict=True))
    if options.scale == "bytes" and _are_fractions(rows * _BYTES):
        raise DataError(
            f"{content.path}: expected bytes from 0 to {_BYTES}, as in the run's data, got fractions in "
            "[0, 1]; multiply them"
        )
    if gaps and bool(rows.isinf().any()):
        raise DataError(f"{content.path}: expected finite cells or gaps, got infinity")
    if not gaps:
        checks.finite(str(content.path), rows)
    name = options.id_column
    names = {name: _names(table[name])} if name is not None and name in table else {}
    return ConvertedRows(rows, units, names, table, shape)


def _treatment(options: Options, units: Units, path: str | Path) -> Treatment:
    """Return how to read a file: the run's categories as texts, its array only from an archive."""
    categories = [each.name for each in units.columns if each.levels] if isinstance(units, Columns) else []
    archive = Path(path).suffix.lower() in (".npz", ".mat")
    return Treatment(
        id_column=options.id_column,
        array=options.array if archive else None,
        kinds=dict.fromkeys(categories, "categorical"),
    )


def _names(values: np.ndarray) -> np.ndarray:
    """Return names of rows; whole numbers, which a missing one has made floating, as texts."""
    missing = np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), dtype=bool)
    if not missing.any() or (values[~missing] != np.round(values[~missing])).any():
        return values
    return np.array(["" if gap else str(int(each)) for each, gap in zip(values, missing, strict=True)])


def _require_shape(path: Path, shape: tuple[int, ...], data: Mapping[str, Any]) -> None:
    """Refuse images of another shape than those of the run; flat rows have the run's order of pixels."""
    found, expected = picture_shape(channels_first(shape)), data["image_shape"]
    if len(shape) > 1 and list(found) != expected:
        wanted = f"rows of {data['dimension']} values" if expected is None else f"images of {expected}"
        raise DataError(f"{path}: expected {wanted}, as in the run's data, got images of {list(found)}")


def _are_fractions(values: Tensor) -> bool:
    seen = values[~values.isnan()]
    within = bool(((seen >= 0) & (seen <= 1.001)).all())
    return within and bool(((seen - seen.round()).abs() > 1e-3).any())


Settings = Mapping[str, Any]
Applied = tuple[Table, Tensor]  # columns [N], and which rows are reliable [N]
Apply = Callable[[Fitted, ConvertedRows, Settings], Applied]


def _encode(fitted: Fitted, given: ConvertedRows, settings: Settings) -> Applied:
    codes = fitted.encode(given.rows, seed=settings["seed"])
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
    config = read_config(run)
    given = rows_of(config, file, gaps=verb == "impute")
    if verb == "score" and log_p_of(options_of(config), True, given.rows) == "none":
        warn(
            f"{file}: log_likelihood is a cross-entropy, not log p(x), because the run has a Bernoulli "
            "decoder and these values are not all 0 and 1; give binary rows to get log p(x)"
        )
    if verb == "impute" and not bool(given.rows.isnan().any()):
        raise DataError("file: no cell is missing, so there is nothing to impute")
    if verb == "impute":
        require_numbers(path, given.units, given.cells)
    settings = {"num_samples": checks.count("samples", samples), "seed": checks.count("seed", seed, 0)}
    if workers is None:
        table, reliable = VERBS[verb](load(run, device=device), given, settings)
    else:
        places = (user_path("run", run).absolute(), user_path("file", file).absolute())
        table, reliable = _by_parts(_RowsTask(verb, *places, settings, device), given, workers, path)
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


def _by_parts(task: _RowsTask, given: ConvertedRows, workers: Workers, output: Path) -> Applied:
    parts = parts_of(len(given.rows), ROWS_OF_A_PART)
    shared = output.absolute().with_name(f"{output.name}.parts")
    weights = fingerprint(load_parameters(task.run / CHECKPOINT).values())
    what = (task.verb, task.settings, weights, fingerprint([given.rows]))
    name = hashlib.sha256(repr(what).encode()).hexdigest()[:12]  # only parts of the same work are reused
    function = partial(_table_of_part, task=task, stem=shared / name)
    workers.perform(
        function, [part for part in parts if not _file(shared / name, part).exists()], shared, False
    )
    found = [np.load(_file(shared / name, part), allow_pickle=False) for part in parts]
    names = enumerate(found[0]["names"].tolist())
    table = {column: np.concatenate([each[f"arr_{n}"] for each in found]) for n, column in names}
    reliable = torch.from_numpy(np.concatenate([each["reliable"] for each in found]))
    shutil.rmtree(shared, ignore_errors=True)
    return table, reliable


def _file(stem: Path, part: PartOfRows) -> Path:
    return stem.with_name(f"{stem.name}-{part.key}.npz")


def _table_of_part(part: PartOfRows, progress: ProgressRelay, *, task: _RowsTask, stem: Path) -> None:
    given = rows_of(read_config(task.run), task.file, gaps=task.verb == "impute")
    fitted = load(task.run, device=task.device)
    table, reliable = VERBS[task.verb](fitted, given, task.settings | {"part": part.pair})
    with replacing(_file(stem, part)) as target, open(target, "wb") as stream:
        np.savez(stream, *table.values(), names=np.array(list(table)), reliable=reliable.numpy())
