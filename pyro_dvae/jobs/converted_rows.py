"""The rows of a file, converted for the model of a run, and their cells back in the file's own types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.datasets import read_file
from pyro_dvae.datasets.array_scale import Units, by_number
from pyro_dvae.datasets.columns import Columns, level_of
from pyro_dvae.datasets.from_arrays import channels_first, flat_parts, picture_shape
from pyro_dvae.datasets.treatment import Treatment
from pyro_dvae.errors import DataError
from pyro_dvae.files import user_path
from pyro_dvae.jobs.folder import data_units, options_of
from pyro_dvae.jobs.options import Options

Table = dict[str, np.ndarray]
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
