"""The options in ``options`` as click decorators.

Importing this module does not import torch, so ``--help`` is quick.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import click

from pyro_dvae.errors import InputError
from pyro_dvae.jobs.command import go_on_by_repeating
from pyro_dvae.jobs.effects import require_effect
from pyro_dvae.jobs.options import EXECUTORS, EvaluationOptions, Options, TrainRequest, flag_of

_NOT_GIVEN = (click.core.ParameterSource.DEFAULT, click.core.ParameterSource.DEFAULT_MAP)


def training_options(command: Callable[[TrainRequest], None]) -> Callable[..., None]:
    """Add all training options to a click command; the function gets one :class:`TrainRequest`."""
    folders = [
        click.option("--output", type=str, default=None, help="Run folder.  [default: a new one in runs/]"),
        click.option(
            "--resume", type=str, default=None, help="Run folder to continue; --epochs may be larger."
        ),
    ]

    @functools.wraps(command)
    def checked(request: TrainRequest) -> None:
        if request.resume is None:
            require_effect(request.options, typed())
        command(request)

    return _requesting(checked, folders)


def typed() -> frozenset[str]:
    """Return the parameters that were typed on the line of the current command, not read from a file."""
    context, line = click.get_current_context(), click.core.ParameterSource.COMMANDLINE
    return frozenset(name for name in context.params if context.get_parameter_source(name) is line)


def sweep_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add all training options and the folder of a sweep to a click command."""
    folder = click.option("--output", type=str, required=True, help="Folder of the sweep.")
    return _requesting(command, [folder])


def _requesting(command: Callable[..., None], folders: Sequence[Callable[..., Any]]) -> Callable[..., None]:
    names = [each.name for each in dataclasses.fields(Options)]

    @functools.wraps(command)
    def run(
        output: str | None, quiet: bool, config: str | None, resume: str | None = None, **values: Any
    ) -> None:
        context = click.get_current_context()
        given = {name for name in names if context.get_parameter_source(name) not in _NOT_GIVEN}
        chosen = {name: values.pop(name) for name in names}
        if config is not None:
            from pyro_dvae.jobs import config_file

            of_file = {name: value for name, value in config_file.read(config).items() if name not in given}
            chosen |= of_file
            given |= of_file.keys()
        command(TrainRequest(Options(**chosen), frozenset(given), output, resume, quiet), **values)

    file = click.option(
        "--config", type=str, help="TOML or JSON file of options; overridden by the command line."
    )
    silence = click.option("--quiet", is_flag=True, help="Do not show progress.")
    return _decorated(run, [*_click_options(Options), file, *folders, silence])


def evaluation_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add all options of an evaluation to a click command; the function gets them as ``options``."""
    names = [each.name for each in dataclasses.fields(EvaluationOptions)]

    @functools.wraps(command)
    def run(**values: Any) -> None:
        options = EvaluationOptions(**{name: values.pop(name) for name in names})
        require_effect(options, typed())
        command(options=options, **values)

    return _decorated(run, _click_options(EvaluationOptions))


def executor_choice(command: Callable[..., None], default: str | None = "local") -> Callable[..., None]:
    """Add the choice of an executor to a click command, as ``executor`` and ``executor_options``."""

    @functools.wraps(command)
    def run(executor_option: tuple[str, ...], **values: Any) -> None:
        if executor_option:
            from pyro_dvae.jobs.executors.choosing import parsed

            values["executor_options"] = parsed(executor_option)
        command(**values)

    choice = click.option(
        "--executor",
        type=click.Choice(EXECUTORS),
        default=default,
        show_default=default or "this process",
        help="Processes of this machine, jobs of a Slurm cluster (submitit), or Dask workers.",
    )
    of_it = click.option(
        "--executor-option",
        multiple=True,
        metavar="NAME=VALUE",
        help="Parameter of submitit or Dask, such as slurm_partition=long or address=tcp://HOST:8786; "
        "repeatable.",
    )
    return _decorated(run, [choice, of_it])


def rows_elsewhere(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the choice of an executor for parts of the rows to a click command, as ``workers`` (or None)."""

    @functools.wraps(command)
    def run(
        executor: str | None, jobs: int | None, executor_options: dict[str, Any] | None = None, **values: Any
    ) -> Any:
        if executor is None:
            if executor_options or jobs:
                raise InputError("jobs, executor_option: these options need --executor")
            return command(workers=None, **values)
        from pyro_dvae.jobs.by_rows import Workers

        go_on_by_repeating()  # finished parts are kept
        return command(workers=Workers(executor, executor_options or {}, jobs), **values)

    jobs = click.option(
        "--jobs",
        type=click.IntRange(1, 10_000),
        help="Parts at a time.  [default: one per core; all of an executor]",
    )
    return executor_choice(jobs(run), default=None)


def _decorated(command: Callable[..., Any], decorators: Sequence[Callable[..., Any]]) -> Callable[..., Any]:
    for decorator in reversed(decorators):
        command = decorator(command)
    return command


def _click_options(record: type[Options] | type[EvaluationOptions]) -> list[Callable[..., Any]]:
    """Return a click option for each field of a record."""
    made = []
    for entry in dataclasses.fields(record):
        name = flag_of(entry)
        arguments = dict(entry.metadata["click"])
        if not arguments.keys() & {"type", "is_flag"} and "/" not in name:
            arguments["type"] = type(entry.default)
        shown = entry.default is not None and entry.default is not False
        help_text = entry.metadata["help"]
        made.append(
            click.option(
                name, entry.name, default=entry.default, help=help_text, show_default=shown, **arguments
            )
        )
    return made
