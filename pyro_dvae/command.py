"""How a command of this package ends: one line and an exit code, never a traceback for a user's mistake."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import click

from pyro_dvae.errors import DivergenceError, InputError, ProcessLostError

USAGE_ERROR = 2
FAILURE = 1
INTERRUPTED = 130


class _OneLineErrors:
    """One line and exit code 2 on bad input, 1 if diverged or a process is lost, 130 on Ctrl-C."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the command; with ``standalone_mode=False`` exceptions pass through."""
        run: Any = super().main  # type: ignore[misc]
        if not extra.pop("standalone_mode", True):
            return run(*args, standalone_mode=False, **extra)
        return _run(run, *args, **extra)


class Command(_OneLineErrors, click.Command):
    """A click command that ends as this module says."""


class Group(_OneLineErrors, click.Group):
    """A group of commands that end as this module says."""


def _run(main: Any, *args: Any, **extra: Any) -> None:
    if _of_several():
        signal.signal(signal.SIGTERM, _terminated)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code = main(*args, standalone_mode=False, **extra)
    except click.ClickException as error:
        _end(error.format_message(), error.exit_code)
    except InputError as error:
        _end(str(error), USAGE_ERROR)
    except (DivergenceError, ProcessLostError) as error:
        if _of_several():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # so that the line is written
        _end(str(error), FAILURE)
    except (KeyboardInterrupt, click.Abort) as stop:
        if os.environ.get("RANK", "0") != "0":  # of several processes one says it
            sys.exit(INTERRUPTED)
        _end(_how_to_resume(stop, sys.argv[1:] if not args or args[0] is None else args[0]), INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(FAILURE)
    sys.exit(code if isinstance(code, int) else 0)


def _how_to_resume(stop: BaseException, arguments: Sequence[str]) -> str:
    # click turns a KeyboardInterrupt into an Abort that has it as its cause.
    cause = stop.__cause__ if isinstance(stop, click.Abort) else stop
    checkpoint = getattr(cause, "checkpoint", None)
    if checkpoint is None:
        return "stopped"
    if getattr(cause, "by_repeating", False):
        return f"stopped; go on with the same command: {shlex.join(['pyro-dvae', *arguments])}"
    return f"stopped; go on with: {_program()} --resume {checkpoint.parent}"


def _of_several() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _terminated(number: int, frame: Any) -> None:
    raise ProcessLostError("ended by SIGTERM, which torchrun sends when another of the processes has ended")


def _program() -> str:
    if _of_several() and sys.argv[0].endswith(".py"):
        return f"torchrun --nproc-per-node={os.environ.get('LOCAL_WORLD_SIZE', 'N')} {sys.argv[0]}"
    return f"python {sys.argv[0]}" if sys.argv[0].endswith(".py") else "pyro-dvae train"


def _end(message: str, code: int) -> None:
    click.echo(f"error: {' '.join(message.split())}" if code != INTERRUPTED else message, err=True)
    sys.exit(code)


def _show_warning(message: Warning | str, *args: Any, **extra: Any) -> None:
    click.echo(f"warning: {message}", err=True)
