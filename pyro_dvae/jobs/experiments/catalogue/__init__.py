"""The experiments by name. Each file here declares experiments in a tuple ``EXPERIMENTS``."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable

from pyro_dvae.jobs.experiments.declaration import Experiment
from pyro_dvae.text import labelled


def in_words(seconds: float) -> str:
    """Format a length of time for a table: ``39 minutes``, ``1.7 hours``."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} hours"
    minutes = max(round(seconds / 60), 1)
    return "1 minute" if minutes == 1 else f"{minutes} minutes"


def span(counts: Iterable[int]) -> str:
    """Format the range of numbers of epochs: ``100 to 1,000``, or a single number."""
    found = set(counts)
    return " to ".join(f"{count:,}" for count in sorted({min(found), max(found)}))


def experiments() -> dict[str, Experiment]:
    """Return all experiments by name, in the order of the catalogue's files."""
    found: dict[str, Experiment] = {}
    for entry in pkgutil.iter_modules(__path__, f"{__name__}."):
        declared: tuple[Experiment, ...] = importlib.import_module(entry.name).EXPERIMENTS
        found |= {each.name: each for each in declared}
    return found


def experiment(name: str) -> Experiment:
    """Return the experiment called ``name``."""
    from pyro_dvae import checks  # imports torch, which listing does without

    known = experiments()
    return known[checks.known("name", name, known)]


def listed() -> str:
    """Return two lines for each experiment (title; size and time), and a line about the times."""
    rows = []
    for each in experiments().values():
        runs = len(each.cases) * each.seeds
        took = f"about {in_words(3600 * each.core_hours)} of one core" if each.core_hours else "not timed"
        rows.append((each.name, f"{each.title} ({each.source})"))
        epochs = span(case.options.get("epochs", each.epochs) for case in each.cases)
        rows.append(("", f"{len(each.cases)} cases, {runs} runs of {epochs} epochs, {took}"))
    times = "Times refer to runs with --bfloat16 (docs/reproduction.md); each core does one run at a time."
    return f"{labelled(rows)}\n{times}"
