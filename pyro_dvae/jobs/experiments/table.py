"""The Markdown tables of an experiment: in the source's layout, and with all measured values."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from pyro_dvae.datasets.registry import DEFAULT, absolute_name
from pyro_dvae.jobs.experiments.catalogue import in_words, span
from pyro_dvae.jobs.experiments.declaration import Case, Experiment, Published, Table
from pyro_dvae.jobs.experiments.results import Row, count_of_rows, unpacked

MINUS, NONE = "\N{MINUS SIGN}", "\N{EN DASH}"
FEWER = " \N{DAGGER}"  # marks a cell


def substitutes(experiment: Experiment, rows: Iterable[Row]) -> dict[str, str]:
    """Return the columns of the table with another data set than is declared, and the name of that."""
    found: dict[str, set[str]] = {}
    for row in rows:
        declared = _declared_data(experiment, experiment.cells[row["row"], row["column"]])
        stands_in = row["data"].get("substituted_for") is not None
        if stands_in or _in_full(row["options"]["dataset"]) != declared:
            found.setdefault(row["column"], set()).add(str(row["data"]["name"]))
    return {column: " and ".join(sorted(names)) for column, names in found.items()}


def stand_in(experiment: Experiment, rows: Iterable[Row]) -> str | None:
    """Return the name of a substitute data set, if one was used."""
    return " and ".join(sorted({*substitutes(experiment, rows).values()})) or None


def _declared_data(experiment: Experiment, case: Case) -> str:
    return _in_full(case.options.get("dataset", experiment.options.get("dataset")))


def _in_full(dataset: str | None) -> str:
    """Return the data set's only name, also of the default one and of a path."""
    return absolute_name(dataset or DEFAULT)


def headings(experiment: Experiment, rows: Iterable[Row]) -> dict[str, str]:
    """Return the heading of each column; where columns are data sets, it names their substitutes."""
    several = len({_declared_data(experiment, case) for case in experiment.cases}) > 1
    instead = substitutes(experiment, rows) if several else {}
    return {name: f"{name} [{instead[name]}]" if name in instead else name for name in experiment.columns}


def of_case(case: Case | None, rows: Iterable[Row]) -> list[Row]:
    """Return the rows of a case, one for each seed; none if ``case`` is None."""
    if case is None:
        return []
    return [row for row in rows if (row["row"], row["column"]) == (case.row, case.column)]


def values(rows: Iterable[Row], name: str, sign: int = 1) -> list[float]:
    """Return the value called ``name`` of each run that has it."""
    found = (row["figures"].get(name) for row in rows)
    return [sign * each["mean"] for each in found if each is not None and each["mean"] is not None]


def main_table(experiment: Experiment, rows: Sequence[Row]) -> str:
    """Return a table of published values, ours and the differences, and the time of the runs."""
    table = experiment.table
    cells_of = experiment.cells
    comparable = stand_in(experiment, rows) is None
    lines = header([table.corner, "", *headings(experiment, rows).values()])
    for label in experiment.rows:
        of_row = [cells_of.get((label, column)) for column in experiment.columns]
        own = [of_case(case, rows) for case in of_row]
        ours = [values(each, table.figure, table.sign) for each in own]
        if not any(ours):
            continue
        published = [c.published if c is not None and comparable else None for c in of_row]
        cells = [
            _ours(found, each, table) + (FEWER if fewer(experiment, case, each) else "")
            for found, each, case in zip(ours, own, of_row, strict=True)
        ]
        if not any(published):
            lines.append(line([label, "ours", *cells]))
            continue
        lines.append(line([label, "published", *(_published(each, table.digits) for each in published)]))
        lines.append(line(["", "ours", *cells]))
        differences = [
            _difference(each, source, table.digits) for each, source in zip(ours, published, strict=True)
        ]
        lines.append(line(["", "difference", *differences]))
    spread = any("\N{PLUS-MINUS SIGN}" in each for each in lines if "| ours |" in each)
    against = "; difference: ours minus published" if any("| difference |" in each for each in lines) else ""
    caption = f"{table.quantity}; {_of_seeds(rows, spread)}{against}."
    marked = [f"{FEWER.strip()} Fewer epochs than declared."] if any(FEWER in each for each in lines) else []
    return "\n".join([caption, "", *lines, "", " ".join([*marked, _spent(rows)])])


def fewer(experiment: Experiment, case: Case | None, rows: Iterable[Row]) -> bool:
    """Return whether a run of the case was planned with fewer epochs than its experiment declares."""
    if case is None:
        return False
    declared = case.options.get("epochs", experiment.epochs)
    return any(row["options"]["epochs"] < declared for row in rows)


def all_figures(experiment: Experiment, rows: Sequence[Row]) -> str:
    """Return a line for each case with every measured value."""
    columns = [("best epoch", _best_epochs), *_columns(rows)]
    lines = ["All values, means over the seeds (bounds and log p(x) in nats, higher is better):", ""]
    lines += header(["", "", *(heading for heading, _ in columns)])
    for case in experiment.cases:
        if own := of_case(case, rows):
            lines.append(line([case.row, case.column, *(cell(own) for _, cell in columns)]))
    return "\n".join(lines)


def _columns(rows: Sequence[Row]) -> Iterator[tuple[str, Callable[[Sequence[Row]], str]]]:
    """Yield the heading of each column, and the function from the rows of a case to its cell."""
    shown = set()
    for name in dict.fromkeys(name for row in rows for name in row["figures"]):
        words, having = name.replace("_", " "), [row for row in rows if name in row["figures"]]
        count, whole = (count_of_rows(having[0]["figures"][each]) for each in (name, "bound"))
        some = count is not None and whole is not None and count < whole
        yield f"{words} (first {count:,} rows)" if some else words, partial(_mean_of, name=name)
        if some and count not in shown and not name.startswith("training"):
            shown.add(count)
            yield f"bound of the first {count:,} test rows", partial(_bound_of_first, count=count or 0)
        if any("share_unreliable" in row["figures"][name] for row in having):
            yield f"{words}: k too large", partial(_share_of, name=name)
    if any("cpu_of_epoch" in row["seconds"] for row in rows):
        yield "CPU s an epoch (least)", _time_of_epoch


def _best_epochs(own: Sequence[Row]) -> str:
    return ", ".join(str(row["best_epoch"]) for row in own if row["best_epoch"] is not None) or NONE


def _mean_of(own: Sequence[Row], name: str) -> str:
    found = values(own, name)
    if not found:
        return NONE
    mean = statistics.fmean(found)
    exact = all("standard_error" not in row["figures"].get(name, {}) for row in own)
    if exact and all(value.is_integer() for value in found):  # a count
        return number(mean, 0 if mean.is_integer() else 1)
    return number(mean, 4 if abs(mean) < 1 else 2)


def _bound_of_first(own: Sequence[Row], count: int) -> str:
    """Return the mean bound of the first rows of the data."""
    kept = [row["figures"]["bound"]["of_rows"] for row in own if "of_rows" in row["figures"]["bound"]]
    means = [float(unpacked(each)[:count].mean()) for each in kept]
    return number(statistics.fmean(means), 2) if means else NONE


def _share_of(own: Sequence[Row], name: str) -> str:
    found = shares_unreliable(own, name)
    return f"{100 * statistics.fmean(found):.0f} %" if found else NONE


def shares_unreliable(own: Iterable[Row], name: str) -> list[float]:
    """Return the share of rows whose estimate cannot be trusted (Pareto k), of each run that has it."""
    found = (row["figures"].get(name, {}).get("share_unreliable") for row in own)
    return [share for share in found if share is not None]


def _time_of_epoch(own: Sequence[Row]) -> str:
    took = [row["seconds"]["cpu_of_epoch"] for row in own if "cpu_of_epoch" in row["seconds"]]
    return number(min(took), 2) if took else NONE


def _of_seeds(rows: Sequence[Row], spread: bool) -> str:
    counts = sorted({len(group) for group in _by_case(rows).values()})
    if counts == [1]:
        return f"ours: one run{' ± the standard error over the test data' if spread else ''}"
    how_many = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    of_one = "; single runs ± the standard error over the test data" if counts[0] == 1 else ""
    return f"ours: mean of {how_many} runs ± their standard deviation{of_one}"


def _by_case(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["row"], row["column"]), []).append(row)
    return found


def _ours(found: Sequence[float], own: Sequence[Row], table: Table) -> str:
    if not found:
        return NONE
    if len(found) == 1:
        error = own[0]["figures"][table.figure].get("standard_error")
        return plus_minus(found[0], error, table.digits)
    return plus_minus(statistics.fmean(found), statistics.stdev(found), table.digits)


def _published(figure: Published | None, digits: int) -> str:
    return NONE if figure is None else plus_minus(figure.mean, figure.deviation, digits)


def _difference(found: Sequence[float], published: Published | None, digits: int) -> str:
    if not found or published is None:
        return NONE
    difference = statistics.fmean(found) - published.mean
    return ("+" if difference > 0 else "") + number(difference, digits)


def plus_minus(mean: float, error: float | None, digits: int) -> str:
    """Return ``mean ± error``, or the mean alone."""
    return number(mean, digits) if error is None else f"{number(mean, digits)} ± {number(error, digits)}"


def number(value: float, digits: int) -> str:
    """Return a number with a true minus sign."""
    return f"{value:.{digits}f}".replace("-", MINUS)


def _spent(rows: Sequence[Row]) -> str:
    """Return a sentence on the number, data, machine and time of the runs."""
    rows = list({row["key"]: row for row in rows}.values())  # cells with the same options share a run
    seconds = sum(spent(row) for row in rows)
    elsewhere = sum("run_by" in row for row in rows)
    which = "belongs to another experiment" if elsewhere == 1 else "belong to other experiments"
    shared = f" {elsewhere} of them {which}." if elsewhere else ""
    data = " and ".join(_data(rows))
    where = " and ".join(sorted({row["device"] for row in rows}))
    threads = "one thread" if {row["threads"] for row in rows} == {1} else "several threads"
    # Rows of earlier versions have only the option.
    count = sum(row.get("bfloat16", row["options"]["bfloat16"]) for row in rows)
    which_of = "" if count == len(rows) else f" in {count} of them"
    rounded = f", matrix products in bfloat16{which_of}" if count else ""
    torch = " and ".join(sorted({row["versions"]["torch"] for row in rows}))
    runs = "1 run" if len(rows) == 1 else f"{len(rows)} runs"
    epochs = span(row["epochs"] for row in rows)
    return (
        f"{runs} of {epochs} epochs on {data}, with {threads} each on {where}{rounded}: "
        f"{in_words(seconds)} in all (torch {torch}).{shared}"
    )


def spent(row: Row) -> float:
    """Return the seconds of a run: processor time with one core, wall-clock time otherwise or if resumed."""
    seconds = row["seconds"]
    by_clock = max(seconds["training"], seconds["steps"]) + seconds["measuring"]
    resumed = seconds["training"] < seconds["steps"]  # the other times are only of the last part
    found: float = by_clock if resumed else seconds.get("cpu", by_clock)
    return found


def _data(rows: Sequence[Row]) -> list[str]:
    """Return the name of each data set with the sizes of its training sets."""
    sizes: dict[str, set[int]] = {}
    for row in rows:
        sizes.setdefault(str(row["data"]["name"]), set()).add(row["data"]["trained_on"])
    return [
        f"{name} ({' and '.join(f'{size:,}' for size in sorted(found))} for training)"
        for name, found in sorted(sizes.items())
    ]


def header(cells: Sequence[str]) -> list[str]:
    """Return the first two lines of a Markdown table."""
    return [line(cells), "|" + "---|" * len(cells)]


def line(cells: Iterable[str]) -> str:
    """Return a line of a Markdown table."""
    return "| " + " | ".join(cells) + " |"
