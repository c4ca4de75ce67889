"""The results file of an experiment: one JSON line for each finished run."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyro_dvae.errors import DataError, warn
from pyro_dvae.evaluation.estimates import finite
from pyro_dvae.files import append_text, write_atomically
from pyro_dvae.jobs.experiments.declaration import Planned

Row = dict[str, Any]
Keep = Callable[[Row], None]
RESULTS = "results.jsonl"
_SINGLE = "single:"  # no beginning of base64
_NEEDED = {
    *("key", "row", "column", "seed", "options", "data", "measures", "figures", "curve"),
    *("epochs", "best_epoch", "seconds", "threads", "device", "versions"),
}


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
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
            if number == len(lines):
                break
        if not isinstance(row, dict) or not row.keys() >= _NEEDED:
            raise DataError(f"output: line {number} of {path} is not the result of a run")
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
    append_text(path, line)


def finished(rows: Iterable[Row], planned: Sequence[Planned]) -> dict[str, Row]:
    """Return the rows of the planned runs by their keys."""
    wanted = {each.key: set(each.measures) for each in planned}
    return {
        row["key"]: row for row in rows if row["key"] in wanted and wanted[row["key"]] <= set(row["measures"])
    }


def labelled(row: Row, planned: Planned) -> Row:
    """Return the row of a planned run with the labels that its case has now."""
    case = planned.case
    return row | {"experiment": planned.experiment, "row": case.row, "column": case.column}


def of_table(rows: Iterable[Row], planned: Sequence[Planned]) -> list[Row]:
    """Return the rows that belong in a table: one for each case and seed.

    :param planned: the runs of the table in order of preference. If several of one case and seed are
        finished, such as one in bfloat16 and one in float32, the first is taken.
    """
    done = finished(rows, planned)
    found: dict[tuple[str, int], Row | None] = {}
    for each in planned:
        place = (each.case.name, each.options.seed)
        if found.setdefault(place, None) is None and each.key in done:
            found[place] = labelled(done[each.key], each)
    return [row for row in found.values() if row is not None]


def of_others(folder: Path, planned: Sequence[Planned]) -> list[Row]:
    """Return rows for the planned runs from other experiments beside ``folder`` with the same runs.

    Runs with pictures are not reused. A file that is no results file is left out, with a warning.
    """
    taken = {}
    for other in sorted(path.parent for path in folder.parent.glob(f"*/{RESULTS}") if path.parent != folder):
        try:
            had = finished(read(other), planned)
        except DataError as error:
            warn(f"{error}; its runs are not reused")
            continue
        for each in planned:
            if each.key in had and not any((other / "pictures").glob(f"{each.key}-*")):
                row = had[each.key]
                taken[each.key] = labelled(row, each) | {"run_by": row.get("run_by", row["experiment"])}
    return list(taken.values())


def packed(values: Any) -> str:
    """Return the values of the test rows [N] as text, in half precision: two bytes each.

    If one is too large for it, all are in single precision, which the beginning of the text says.
    """
    exact = np.asarray(values, dtype="<f8")
    with np.errstate(over="ignore"):
        half = exact.astype("<f2")
    if np.isfinite(exact[np.isinf(half)]).any():
        return _SINGLE + base64.b64encode(exact.astype("<f4").tobytes()).decode()
    return base64.b64encode(half.tobytes()).decode()


def unpacked(text: str) -> np.ndarray:
    """Return the values [N] from the result of :func:`packed`, in double precision."""
    kind = "<f4" if text.startswith(_SINGLE) else "<f2"
    return np.frombuffer(base64.b64decode(text.removeprefix(_SINGLE)), dtype=kind).astype(np.float64)


def count_of_rows(figure: dict[str, Any]) -> int | None:
    """Return the number of data rows that a value is the mean of, if their values were kept."""
    return len(unpacked(figure["of_rows"])) if "of_rows" in figure else None


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
