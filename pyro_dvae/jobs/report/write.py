"""``pyro-dvae report RUN...``: read the runs, diagnose those that were not evaluated, write the page."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from pyro_dvae.errors import InputError
from pyro_dvae.files import require_writable, user_path, write_atomically
from pyro_dvae.jobs.report.content import diagnosed, read
from pyro_dvae.jobs.report.page import page
from pyro_dvae.text import to_stderr

FILE = "report.html"


def write_report(
    folders: Sequence[str | Path],
    output: str | Path | None = None,
    *,
    diagnose: bool | None = None,
    data_folder: str | None = None,
    device: str = "auto",
    quiet: bool = False,
) -> Path:
    """Write one self-contained HTML page about some runs; return its path.

    :param folders: run folders, or folders of ``fitted.save``.
    :param output: the page; by default ``report.html`` in the folder of a single run, else in the working
        directory.
    :param diagnose: whether to add a diagnosis of each fit on its test data; None does so for runs that were
        not evaluated.
    :param data_folder: current folder of the data, if it differs from the runs'.
    :param device: where the diagnosis runs.
    :param quiet: do not show progress.
    :raises InputError: a folder holds no run, or the page cannot be written.
    """
    if not folders:
        raise InputError("run: expected at least one run folder")
    runs = [read(folder) for folder in folders]
    path = user_path("output", output) if output is not None else Path()
    if output is None:
        path = runs[0].folder / FILE if len(runs) == 1 else Path(FILE)
    require_writable(path)
    for number, run in enumerate(runs):
        if diagnose or (diagnose is None and run.evaluation is None and run.history and run.options):
            if not quiet:
                to_stderr(f"diagnosing {run.folder}")
            found = diagnosed(run, data_folder=data_folder, device=device, quiet=quiet)
            runs[number] = dataclasses.replace(run, diagnosis=found)
    write_atomically(path, page(runs))
    return path
