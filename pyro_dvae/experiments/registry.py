"""The experiments by name: every module of ``catalogue`` declares one, as ``EXPERIMENT``."""

from __future__ import annotations

import importlib
import pkgutil

from pyro_dvae.experiments import catalogue
from pyro_dvae.experiments.declaration import Experiment
from pyro_dvae.experiments.times import in_words, span


def experiments() -> dict[str, Experiment]:
    """Return all experiments by name, in the order of the catalogue's files."""
    found = {}
    for entry in pkgutil.iter_modules(catalogue.__path__, f"{catalogue.__name__}."):
        declared: Experiment = importlib.import_module(entry.name).EXPERIMENT
        found[declared.name] = declared
    return found


def experiment(name: str) -> Experiment:
    """Return the experiment called ``name``."""
    from pyro_dvae import checks  # imports torch, which listing does without

    known = experiments()
    return known[checks.known("name", name, known)]


def listed() -> str:
    """Return two lines for each experiment (what it is; its size, what it took), and one on the times."""
    lines = []
    for each in experiments().values():
        runs = len(each.cases) * each.seeds
        took = f"about {in_words(3600 * each.core_hours)} of one core" if each.core_hours else "not timed"
        lines.append(f"{each.name:<20}{each.title} ({each.source})")
        epochs = span(case.options.get("epochs", each.epochs) for case in each.cases)
        lines.append(f"{'':<20}{len(each.cases)} cases, {runs} runs of {epochs} epochs, {took}")
    lines.append(
        "Times are of the runs in docs/reproduction.md, with --bfloat16; each core takes a run at a time."
    )
    return "\n".join(lines)
