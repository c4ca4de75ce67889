"""Evaluation of a trained run: log p(x) of its test data, and the reliability of the estimate."""

from __future__ import annotations

import functools
import json
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro

from pyro_dvae import files, plots
from pyro_dvae.datasets import absolute_name
from pyro_dvae.evaluation import LogLikelihood, write_netcdf
from pyro_dvae.evaluation.importance.arviz_export import import_arviz
from pyro_dvae.interrupts import Stopped
from pyro_dvae.jobs.by_rows import PartOfRows, Workers, parts_of
from pyro_dvae.jobs.data import versions
from pyro_dvae.jobs.evaluated import EvaluatedRun, check_options, load_evaluated_run
from pyro_dvae.jobs.executors.run_progress import ProgressRelay
from pyro_dvae.jobs.findings import Findings, bits_per_dimension, draw, likelihood, measure, same_data
from pyro_dvae.jobs.options import EvaluationOptions
from pyro_dvae.ownership import own

FOLDER = "evaluation"
JSON = "evaluation.json"
NETCDF = "log_likelihood.nc"
PARTIAL = "log_likelihood.safetensors"
PARTS = "parts"
ROWS_OF_A_PART = 200


class EvaluationStopped(Stopped):
    """An evaluation was stopped by Ctrl-C or SIGTERM; the same call continues from ``checkpoint``."""


def evaluate_run(
    folder: str | Path,
    options: EvaluationOptions | None = None,
    *,
    output: str | Path | None = None,
    data_folder: str | None = None,
    dataset: str | None = None,
    device: str = "auto",
    quiet: bool = False,
    workers: Workers | None = None,
) -> dict[str, Any]:
    """Evaluate a run on its test data with all measures, and write the results to a folder.

    The data are those of the run's ``results.json``: the same set, binarised with the same seed. The function
    writes ``evaluation.json`` (all results, the likelihood for each observation), ``log_likelihood.nc`` (the
    likelihood, for ArviZ) and pictures, and replaces an earlier evaluation. A stopped evaluation keeps its
    progress in ``log_likelihood.safetensors``, and the same call continues from there.

    :param folder: the run folder; the training may have been stopped.
    :param options: the options of the evaluation.
    :param output: folder of the results; by default ``evaluation`` in the run folder.
    :param data_folder: current folder of the data, if it differs from the run's.
    :param dataset: current path of the run's own data file.
    :param device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
    :param quiet: do not show progress.
    :param workers: where log p(x) is estimated, in parts of the rows; by default in this process. Their
        progress is kept in the folder ``parts``.
    :returns: the content of ``evaluation.json``; all in nats per observation unless said otherwise.
    :raises InputError: if an option is out of range, the folder is not a run folder, or the output cannot be
        written.
    :raises DataError: if the run's data are not available, or have changed.
    :raises CheckpointError: if the checkpoint is damaged, or a stopped evaluation there had other options.
    :raises EvaluationStopped: Ctrl-C.
    """
    began = time.perf_counter()
    folder = files.user_path("run", folder)
    options = EvaluationOptions() if options is None else options
    check_options(options)
    target = folder / FOLDER if output is None else files.user_path("output", output)
    run = load_evaluated_run(folder, options, device, data_folder, dataset)
    files.require_writable(target / JSON)
    # Detect missing packages before the work.
    plots.new_figure(1, 1)
    import_arviz()
    lock = own("output", target)
    files.remove_left_over(target, JSON, NETCDF, PARTIAL)
    partial = target / PARTIAL
    try:
        if workers is None:
            of_run = functools.partial(likelihood, run, options, partial, False if quiet else None)
        else:
            if data_folder is not None:  # a worker may have another working directory
                data_folder = str(files.user_path("data_folder", data_folder).absolute())
            dataset = None if dataset is None else absolute_name(dataset)
            task = _EvaluationTask(options, device, folder.absolute(), data_folder, dataset)
            shared = target.absolute() / PARTS
            of_run = functools.partial(_by_parts, task, shared, len(run.x), workers, quiet)
        findings = measure(run, options, of_run, quiet)
        start = time.perf_counter()
        pictures = draw(target, run, findings)
        write_netcdf(findings.likelihood.to_arviz(), target / NETCDF)
        findings.seconds["pictures_and_files"] = round(time.perf_counter() - start, 1)
        findings.seconds["total"] = round(time.perf_counter() - began, 1)
        content = _content(folder, run, options, findings)
        content["files"] = [str(path) for path in (target / JSON, target / NETCDF, *pictures)]
        files.write_atomically(target / JSON, strict_json(content))
        partial.unlink(missing_ok=True)
        shutil.rmtree(target / PARTS, ignore_errors=True)
    except KeyboardInterrupt as stop:
        kept = (each for each in (partial, target / PARTS) if each.exists())
        raise EvaluationStopped(next(kept, None)) from stop
    finally:
        lock.release()
    return content


@dataclass(frozen=True)
class _EvaluationTask:
    """The data that a worker needs to evaluate a part of a run's test data."""

    options: EvaluationOptions
    device: str
    folder: Path
    data_folder: str | None
    dataset: str | None


def _by_parts(task: _EvaluationTask, shared: Path, rows: int, workers: Workers, quiet: bool) -> LogLikelihood:
    function = functools.partial(_likelihood_of_part, task=task, shared=shared)
    return LogLikelihood.joined(workers.perform(function, parts_of(rows, ROWS_OF_A_PART), shared, quiet))


def _likelihood_of_part(
    part: PartOfRows, progress: ProgressRelay, *, task: _EvaluationTask, shared: Path
) -> LogLikelihood:
    run = load_evaluated_run(task.folder, task.options, task.device, task.data_folder, task.dataset)
    with pyro.settings.context(module_local_params=True):
        return likelihood(run, task.options, shared / f"{part.key}.safetensors", progress, part.pair)


def _content(
    folder: Path, run: EvaluatedRun, options: EvaluationOptions, findings: Findings
) -> dict[str, Any]:
    annealed, simulated, found = findings.annealed, findings.simulated, findings.likelihood
    content: dict[str, Any] = {
        "run": str(folder),
        "epoch": run.epoch,
        "data": run.config["data"]
        | {
            "part": "test",
            "count": len(run.x),
            "binarisation": run.options.binarisation,
            "seed": run.options.seed,
        },
        "settings": options.as_dict(),
        "units": "nats per observation",
        "log_p_is_of": run.observation,
        "log_likelihood": found.to_dict(per_datum=True),
        "annealed": None,
        "bidirectional": None if simulated is None else simulated.to_dict(per_datum=True),
        "bound_parts": findings.parts.to_dict(),
        "active_units": None if findings.active is None else findings.active.to_dict(),
        "bits_per_dimension": bits_per_dimension(run, found),
        "reconstruction_error": None
        if findings.reconstruction is None
        else findings.reconstruction.to_dict(),
        "linear_probe": None if findings.probe is None else findings.probe.to_dict(),
        "sample_quality": None if findings.samples is None else findings.samples.to_dict(),
        "seconds": findings.seconds,
        "device": str(run.x.device),
        "versions": versions() | {"arviz": import_arviz().__version__},
    }
    if annealed is not None:
        content["annealed"] = annealed.to_dict(per_datum=True) | {"same_data": same_data(found, annealed)}
    return content


def strict_json(content: dict[str, Any]) -> str:
    """Return indented JSON without NaN, each list of numbers on one line."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    # Text values contain no literal line breaks, so line breaks come from indented lists.
    return re.sub(r"\[\n[^][{}\"]*\]", lambda found: re.sub(r"\s+", " ", found[0]), text) + "\n"
