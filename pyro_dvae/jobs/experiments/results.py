"""The results file of an experiment: one JSON line for each finished run."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyro_dvae.errors import DataError
from pyro_dvae.evaluation.estimates import finite
from pyro_dvae.files import unwritable, write_atomically
from pyro_dvae.jobs.experiments.declaration import Planned

Row = dict[str, Any]
Keep = Callable[[Row], None]
RESULTS = "results.jsonl"


def read(folder: Path) -> list[Row]:
    """Return the rows of the results file in ``folder``; none if there is no file.

    A last line that was not written to its end is left out.

    :raises DataError: the file is no results file.
    """
    path = folder / RESULTS
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"output: {path} cannot be read: {error}") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            row["key"], row["figures"]
        except (json.JSONDecodeError, TypeError, KeyError):
            if number == len(lines):
                break
            raise DataError(f"output: line {number} of {path} is not the result of a run") from None
        rows.append(row)
    return rows


def append(folder: Path, row: Row) -> None:
    """Append a row to the results file, without any incomplete last line."""
    path = folder / RESULTS
    line = json.dumps(_strict(row), ensure_ascii=False, allow_nan=False) + "\n"
    kept = [json.dumps(each, ensure_ascii=False) + "\n" for each in read(folder)]
    if not path.exists() or path.read_bytes() != "".join(kept).encode():
        write_atomically(path, "".join([*kept, line]))
        return
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line)
    except OSError as error:
        raise unwritable(path, error) from None


def finished(rows: Iterable[Row], planned: Sequence[Planned]) -> dict[str, Row]:
    """Return the rows of the planned runs by their keys."""
    wanted = {each.key: set(each.measures) for each in planned}
    return {
        row["key"]: row for row in rows if row["key"] in wanted and wanted[row["key"]] <= set(row["measures"])
    }


def of_others(folder: Path, planned: Sequence[Planned]) -> list[Row]:
    """Return rows for the planned runs from other experiments beside ``folder`` with the same runs.

    Runs with pictures are not reused.
    """
    taken = {}
    for other in sorted(path.parent for path in folder.parent.glob(f"*/{RESULTS}") if path.parent != folder):
        had = finished(read(other), planned)
        for each in planned:
            if each.key in had and not any((other / "pictures").glob(f"{each.key}-*")):
                row = had[each.key]
                place = {"experiment": each.experiment, "row": each.case.row, "column": each.case.column}
                taken[each.key] = row | place | {"run_by": row.get("run_by", row["experiment"])}
    return list(taken.values())


def packed(values: Any) -> str:
    """Return the values of the test rows [N] as text, in half precision: two bytes each."""
    return base64.b64encode(np.asarray(values, dtype="<f2").tobytes()).decode()


def unpacked(text: str) -> np.ndarray:
    """Return the values [N] from the result of :func:`packed`, in double precision."""
    return np.frombuffer(base64.b64decode(text), dtype="<f2").astype(np.float64)


def summary(row: Row) -> str:
    """Return a finished run in a few words."""
    bound = row["figures"]["bound"]
    seconds = row["seconds"]["training"] + row["seconds"]["measuring"]
    best = "" if row["best_epoch"] is None else f" at epoch {row['best_epoch']}"
    return f"{bound['mean']:.2f} ± {bound['standard_error']:.2f} nats{best}, {seconds:.0f} s"


def _strict(value: Any) -> Any:
    """Return ``value`` with None for every number that is not finite."""
    if isinstance(value, dict):
        return {key: _strict(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(each) for each in value]
    return finite(value) if isinstance(value, float) else value
