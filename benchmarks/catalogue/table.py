"""Results as lines of text, and as the table of the docs."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from catalogue.system import BOUNDS, System

HEAD = "| system | source | class | bounds that apply | test result | run |\n|---|---|---|---|---|---|"


def figure_text(found: Mapping[str, float]) -> str:
    """Return mean ± standard error."""
    return f"{found['mean']:.2f} ± {found['standard_error']:.2f}"


def figures(row: Mapping[str, Any], more: bool = True) -> str:
    """Return the values of a row, with other measures besides the bound if ``more``."""
    parts = []
    if row["bound"] is not None:
        parts.append(figure_text(row["bound"]))
    if row["trained_bound"] is not None:
        parts.append(f"own bound {figure_text(row['trained_bound'])}")
    for name, value in row["more"].items() if more else ():
        if name == "bits":
            parts.append(f"code of {value:.1f} bits")
        elif name == "active latents":
            parts.append(f"{value:.0f} active latents")
        elif name.startswith(("cross-entropy", "divergence", "bits per")):
            parts.append(f"{name} {value:.2f}")
    return "; ".join(parts)


def line(row: Mapping[str, Any]) -> str:
    """Return a row as a line of text."""
    run = f"{row['dataset']}, {row['epochs']} epochs, {row['cpu_seconds']:.0f} CPU s, by {row['trained_by']}"
    return f"{row['name']:<30}{figures(row)}   ({run})"


def markdown(systems: Mapping[str, System], rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the table, with a line before each group; systems without a row have no values."""
    lines = [HEAD]
    for group, members in groupby(systems.values(), key=lambda system: system.group):
        lines.append(f"| **{group}** |" + " |" * 5)
        lines += [_entry(system, rows.get(system.same_as or system.name)) for system in members]
    return "\n".join(lines)


def _entry(system: System, row: Mapping[str, Any] | None) -> str:
    applies = "all four" if len(system.applies) == len(BOUNDS) else ", ".join(system.applies) or "none"
    run = "not run" if row is None else _run(row)
    if system.same_as is not None:
        run = f"same run as `{system.same_as}`"
    cells = (
        f"`{system.name}`: {system.title}",
        system.source,
        system.members,
        applies,
        "" if row is None else figures(row, more=bool(system.measures)),
        run,
    )
    return "| " + " | ".join(cells) + " |"


def _run(row: Mapping[str, Any]) -> str:
    data = row["dataset"] + (", dynamic" if row["binarisation"] == "dynamic" else "")
    return f"{data}, {row['epochs']} epochs by {row['trained_by']}; {row['cpu_seconds']:.0f} CPU s"
