"""The end of a command: one line and an exit code, and no traceback for a user's mistake."""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from pyro_dvae.errors import DivergenceError, InputError, ProcessLostError, in_one_line
from pyro_dvae.interrupts import like_ctrl_c
from pyro_dvae.machine import keep_freed_memory, ran_out
from pyro_dvae.text import show

USAGE_ERROR = 2
FAILURE = 1
INTERRUPTED = 130
_LONGEST = 800


class _Work:
    """The current command: how to continue it, and what to do at its end."""

    def __init__(self, arguments: Sequence[str] = ()) -> None:
        self.arguments = arguments
        self.checkpoint: Path | None = None
        self.repeatable = False
        self.at_end: list[Callable[[], object]] = []

    def how_to_go_on(self) -> str | None:
        """Return a shell command that continues the work."""
        if self.repeatable:
            return f"{shlex.join(['pyro-dvae', *self.arguments])}"
        if self.checkpoint is not None:
            return f"{_program()} --resume {shlex.quote(str(self.checkpoint.parent))}"
        return None

    def last_checkpoint(self) -> str:
        """Return the addition to the message about a lost process."""
        there = self.checkpoint is not None and self.checkpoint.exists()
        return f"; last good checkpoint: {self.checkpoint}" if there else ""


_work = _Work()


def go_on_with(checkpoint: Path) -> None:
    """If the command is stopped from now on, say that it continues from the folder of ``checkpoint``."""
    _work.checkpoint = checkpoint


def go_on_by_repeating() -> None:
    """If the command is stopped from now on, say that the same command continues."""
    _work.repeatable = True


def at_end(call: Callable[[], object]) -> None:
    """Register a function to call when the command ends."""
    _work.at_end.append(call)


class _OneLineErrors:
    """One line and exit code 2 on bad input, 1 if diverged or a process is lost, 130 on Ctrl-C."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the command; with ``standalone_mode=False`` exceptions pass through."""
        run: Any = super().main  # type: ignore[misc]
        if not extra.pop("standalone_mode", True):
            return run(*args, standalone_mode=False, **extra)
        return _run(run, *args, **extra)


class Command(_OneLineErrors, click.Command):
    """A click command with one-line errors."""


class CommandGroup(_OneLineErrors, click.Group):
    """A group of commands with one-line errors."""


def _run(main: Any, *args: Any, **extra: Any) -> None:
    global _work
    _work = _Work(sys.argv[1:] if not args or args[0] is None else args[0])
    keep_freed_memory()
    if _of_several():
        signal.signal(signal.SIGTERM, _terminated)
    try:
        with like_ctrl_c():
            code = _outcome(main, *args, **extra)
    finally:
        for call in _work.at_end:
            call()
    if _of_several():
        # All is written; threads of torch's process groups may abort while the interpreter ends.
        from pyro_dvae.internals import end_process

        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        end_process(code)
    sys.exit(code)


def _outcome(main: Any, *args: Any, **extra: Any) -> int:
    """Run the command, report a failure, and return the exit code."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code = main(*args, standalone_mode=False, **extra)
    except click.ClickException as error:
        return _failed(error.format_message() + _for_data(error), error.exit_code)
    except InputError as error:
        return _failed(str(error), USAGE_ERROR)
    except (DivergenceError, ProcessLostError) as error:
        return _failed(str(error), FAILURE)
    except (KeyboardInterrupt, click.Abort):
        return _stopped()
    except BrokenPipeError:
        # The reader is gone, so drop the buffered output.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except (MemoryError, OSError, RuntimeError) as error:
        if ran_out(error):
            cause = (str(error).strip().splitlines() or ["the system gave no more"])[0]
            return _failed(f"out of memory: {cause}; choose smaller sizes{_going_on()}", FAILURE)
        if isinstance(error, OSError) and error.errno is not None:
            code = USAGE_ERROR if isinstance(error, PermissionError) else FAILURE
            return _failed(f"{error.strerror}: {error.filename or 'output'}{_going_on()}", code)
        raise
    return code if isinstance(code, int) else 0


def _for_data(error: click.ClickException) -> str:
    """Return a remedy if a command without arguments was given one: its data have an option."""
    extra = re.search(r"unexpected extra argument \((.+)\)", error.format_message())
    context = error.ctx if isinstance(error, click.UsageError) else None
    if extra is None or context is None:
        return ""
    params = context.command.params
    takes_data = any("--dataset" in each.opts for each in params)
    if not takes_data or any(isinstance(each, click.Argument) for each in params):
        return ""
    return f"; for data, use --dataset {shlex.quote(extra[1])}"


def _going_on() -> str:
    how = _work.how_to_go_on()
    return f"; continue with {how}" if how else ""


def _failed(message: str, code: int) -> int:
    if _of_several():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # so that the line is written
    line = in_one_line(message)
    if len(line) > _LONGEST:  # it shows long input
        line = f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"
    show(f"error: {line}", sys.stderr)
    return code


def _stopped() -> int:
    before = signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # so that a second Ctrl-C does not truncate the line
    if os.environ.get("RANK", "0") == "0":  # only one of several processes prints
        how = _work.how_to_go_on()
        show("stopped" if how is None else f"stopped; continue with: {how}", sys.stderr)
    signal.signal(signal.SIGINT, before)
    return INTERRUPTED


def _of_several() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _terminated(number: int, frame: Any) -> None:
    # The first error says what happened.
    if not isinstance(sys.exc_info()[1], Exception | KeyboardInterrupt):
        raise ProcessLostError(
            "ended by SIGTERM, which torchrun sends when another of the processes has ended"
            + _work.last_checkpoint()
        )


def _program() -> str:
    script = sys.argv[0]
    if not script.endswith(".py"):
        return "pyro-dvae train"
    is_command = Path(script).parts[-2:] == ("pyro_dvae", "__main__.py")  # python -m pyro_dvae
    program = "-m pyro_dvae train" if is_command else shlex.quote(script)
    if _of_several():
        return f"torchrun --nproc-per-node={os.environ.get('LOCAL_WORLD_SIZE', 'N')} {program}"
    return f"python {program}"


def _show_warning(message: Warning | str, *args: Any, **extra: Any) -> None:
    show(f"warning: {in_one_line(str(message))}", sys.stderr)
