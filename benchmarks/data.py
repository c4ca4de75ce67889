"""Time and memory of training from each source of rows, compared with rows in a tensor.

    python benchmarks/data.py

Each source has its own process, which sleeps while the others run. In each round every process takes some
training steps; the order changes from round to round. Times are processor times, because other programs may
run: medians, with quartiles for ratios over the rounds. Memory is the largest resident set. Rows come from
temporary files of floats: ``--gigabytes`` for the memory-mapped array and its tensor, ``--rows`` for the
other sources.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

import click
import numpy as np
from peers.contenders import Contender
from peers.problem import Problem, stand_in
from peers.processes import Worker, limit_threads
from peers.rounds import quartiles

# By name: label, whether to use the large file, base of the ratio.
SOURCES = {
    "few": ("1,000 rows in a tensor", True, "few"),
    "large-tensor": ("tensor, all rows in memory", True, "large-tensor"),
    "mapped": ("memory-mapped .npy", True, "large-tensor"),
    "tensor": ("tensor", False, "tensor"),
    "dataset": ("TensorDataset", False, "tensor"),
    "frame": ("DataFrame", False, "tensor"),
    "sparse": ("scipy.sparse", False, "tensor"),
    "loader": ("DataLoader, shuffled", False, "tensor"),
}


def write(file: Path, rows: int, pixels: int) -> None:
    """Write rows of floats, some megabytes at a time."""
    block = stand_in(10_000, pixels).astype(np.float32)
    array = np.lib.format.open_memmap(file, "w+", np.float32, (rows, pixels))
    for start in range(0, rows, len(block)):
        part = array[start : start + len(block)]
        part[:] = block[: len(part)]
        array.flush()


@click.command()
@click.option("--gigabytes", default=4.0, show_default=True, help="Size of the large file.")
@click.option("--rows", default=60_000, show_default=True, help="Rows of the small file.")
@click.option("--pixels", default=784, show_default=True, help="Values in a row.")
@click.option("--steps", default=300, show_default=True, help="Steps of a source in a round.")
@click.option("--rounds", default=9, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option(
    "--only", multiple=True, type=click.Choice(list(SOURCES)), help="These sources; all by default."
)
@click.option("--folder", default=None, help="Where to put the files; they are deleted at the end.")
@click.option("--quick", is_flag=True, help="Tiny, uncompiled: for tests.")
def main(
    gigabytes: float,
    rows: int,
    pixels: int,
    steps: int,
    rounds: int,
    threads: int,
    only: tuple[str, ...],
    folder: str | None,
    quick: bool,
) -> None:
    if quick:
        gigabytes, rows, steps, rounds = 0.004, 1_000, 5, 2
    environment = limit_threads(threads)
    names = [name for name in SOURCES if not only or name in only]
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder)))
        files = {True: place / "large.npy", False: place / "small.npy"}
        for large in {SOURCES[name][1] for name in names}:
            write(files[large], int(gigabytes * 1e9 / (4 * pixels)) if large else rows, pixels)
        workers: dict[str, Worker] = {}
        for name in names:
            label, large, _ = SOURCES[name]
            kind = name.removeprefix("large-")
            options = {"kind": kind, "steps": steps, "compiled": not quick}
            contender = Contender(label, "row_sources", options=options)
            worker = workers[name] = Worker(contender, Problem(str(files[large])), environment)
            stack.callback(worker.close)
            if not worker.prepare():
                raise click.ClickException(f"{label}: {worker.prepared}")
            worker.epochs(1)  # fills the caches; the peak does not include compilation
        seconds: dict[str, list[float]] = {name: [] for name in names}
        peak = dict.fromkeys(names, 0)
        for index in range(rounds):
            for name in names[index % len(names) :] + names[: index % len(names)]:
                answer = workers[name].epochs(1)
                seconds[name].append(answer["cpu_seconds"] / steps)
                peak[name] = max(peak[name], answer["peak"]["peak"])
    print(f"{'source':<28}{'CPU ms':>10}{'ratio':>8}{'quartiles':>14}{'peak, GB':>10}")
    for name in names:
        label, _, base = SOURCES[name]
        ratio = ["", ""]
        if base in seconds and base != name:
            found = [a / b for a, b in zip(seconds[name], seconds[base], strict=True)]
            lower, middle, upper = quartiles(found)
            ratio = [f"{middle:.2f}", f"{lower:.2f}-{upper:.2f}"]
        median = 1e3 * quartiles(seconds[name])[1]
        print(f"{label:<28}{median:>10.3f}{ratio[0]:>8}{ratio[1]:>14}{peak[name] / 1e9:>10.2f}")


if __name__ == "__main__":
    main()
