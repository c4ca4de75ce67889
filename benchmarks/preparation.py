"""The work of a training command before its first compiled step, at the first and at later runs.

    python benchmarks/preparation.py --data-folder data
    python benchmarks/preparation.py --quick             # on images that are not MNIST: shows that it runs

Runs ``examples/mnist_dvae.py --noise 0.1 --compile`` until its first step, first with an empty folder for the
compiler's files and then again, and prints the processor seconds of each part (medians of the rounds), which
on an idle core are the waiting time. The processes of the C++ compiler at the first run are not included.
"""

from __future__ import annotations

import json
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
from end_to_end import EXAMPLE
from peers.idx import write_stand_in
from peers.processes import processor

PARTS = (
    "import torch",
    "import Pyro and pyro_dvae",
    "import torch's compiler",
    "read the data, find the parameters",
    "record loss and update",
    "compile, or find what was compiled",
)


def trained(arguments: list[str]) -> None:
    """Run the example in this process, and print the seconds of the parts up to the first step."""
    marks = [time.process_time()]

    def mark() -> None:
        marks.append(time.process_time())

    import torch

    mark()
    import pyro_dvae.jobs.train  # noqa: F401
    from pyro_dvae.engine import step
    from pyro_dvae.training import compiled_steps

    mark()
    import torch._inductor.compile_fx  # noqa: F401

    mark()

    def before(module: Any, name: str, first: Callable[[], None]) -> None:
        function = getattr(module, name)

        def called(*given: Any, **named: Any) -> Any:
            first()
            return function(*given, **named)

        setattr(module, name, called)

    class Done(BaseException):
        pass

    def first_step(*given: Any) -> None:
        mark()
        print(json.dumps([b - a for a, b in pairwise(marks)]), flush=True)
        raise Done

    before(compiled_steps, "record_for", mark)
    before(step, "build", mark)
    compiled_steps.CompiledSteps._take = first_step
    sys.argv = [EXAMPLE, *arguments]
    try:
        runpy.run_path(EXAMPLE, run_name="__main__")
    except Done:
        os._exit(0)


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="After the first.")
@click.option("--data-folder", default="data", show_default=True, help="Where MNIST is.")
@click.option("--quick", is_flag=True, help="Some hundred images that are not MNIST.")
@click.option("--serve", "arguments", multiple=True, hidden=True)
def main(rounds: int, data_folder: str, quick: bool, arguments: tuple[str, ...]) -> None:
    """Print the table."""
    if arguments:
        trained(list(arguments))
        return
    found: list[list[float]] = []
    with tempfile.TemporaryDirectory() as name:
        data = Path(data_folder).absolute()
        if quick:
            rounds, data = 1, Path(name) / "data"
            write_stand_in(data, 300, 100)
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(Path(name) / "compiled")}
        for turn in range(rounds + 1):
            words = ["--noise", "0.1", "--compile", "--epochs", "1", "--quiet", "--data-folder", str(data)]
            words += ["--output", str(Path(name) / f"run{turn}")]
            command = [sys.executable, __file__, *(f"--serve={word}" for word in words)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                raise click.ClickException(done.stderr[-2000:])
            found.append(json.loads(done.stdout.splitlines()[-1]))
    click.echo(f"processor seconds before the first compiled step, {processor()}")
    click.echo(f"{'':<38}{'first':>8}{'again':>8}")
    again = [statistics.median(each) for each in zip(*found[1:], strict=True)]
    for part, first, later in zip(PARTS, found[0], again, strict=True):
        click.echo(f"{part:<38}{first:>8.2f}{later:>8.2f}")
    click.echo(f"{'together':<38}{sum(found[0]):>8.2f}{sum(again):>8.2f}")


if __name__ == "__main__":
    main()
