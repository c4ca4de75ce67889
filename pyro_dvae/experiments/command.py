"""``pyro-dvae reproduce NAME``: what its options mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyro_dvae.errors import DivergenceError
from pyro_dvae.experiments.declaration import Experiment, plan
from pyro_dvae.experiments.running import TABLE, Outcome, reproduce


def run(
    experiment: Experiment,
    output: Path,
    *,
    seeds: int | None,
    epochs: int | None,
    only: tuple[str, ...],
    data_folder: str,
    dataset: str | None,
    bfloat16: bool,
    **settings: Any,
) -> str:
    """Perform what is asked for and not finished; return the table and where everything is."""
    overrides: dict[str, Any] = {"data_folder": data_folder, "bfloat16": bfloat16}
    if dataset is not None:
        overrides["dataset"] = dataset
    planned = plan(experiment, seeds=seeds, epochs=epochs, only=only, overrides=overrides)
    folder = output / experiment.name
    outcome = reproduce(experiment, planned, folder, **settings)
    if outcome.diverged:
        raise DivergenceError(f"{len(outcome.diverged)} of the runs diverged: {'; '.join(outcome.diverged)}")
    return _closing(outcome, folder)


def _closing(outcome: Outcome, folder: Path) -> str:
    if not outcome.rows:
        return f"nothing is finished in {folder}"
    parts = [(folder / TABLE).read_text(encoding="utf-8")]
    if outcome.missing:
        parts.append(f"{len(outcome.missing)} runs are not finished\n")
    parts.append("\n".join(str(path) for path in outcome.files))
    return "\n".join(parts)
