"""The wall time of whole training commands: ours, Pyro's example, a plain torch loop, pythae's trainer.

    python benchmarks/end_to_end.py --data-folder data      # an hour; pythae: pip install -e ".[bench]"
    python benchmarks/end_to_end.py --quick                 # shows that it runs and no more

Each is a command, timed from its start to its end: imports, compilation and evaluation are counted. All train
the paper's network (784-200-200-z50-200-200-784, softplus) without noise on the first 50,000 grey images of
MNIST for as many epochs, batch 100, Adam at 1e-3, and print the bound on the 10,000 test images; the other
10,000 are for validation. The commands take turns, in an order that changes from round to round, on the same
cores (--threads); times are medians, ratios medians of the rounds' ratios to the first row.

Ours is examples/mnist_dvae.py, which also writes a checkpoint after every epoch and draws pictures; where it
compiles, once with an empty folder for the compiler's files, then with what that run left, then without
compilation. The Pyro script follows Pyro's published example (images decoded one by one, in one loader
process; a look at held-out data every fifth epoch); the torch script has the images in memory and validates
after every epoch, as does pythae, with all else as its trainer does it. They are benchmarks/peers/.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
from peers.idx import write_stand_in
from peers.processes import limit_threads
from peers.rounds import quartiles

ROOT = Path(__file__).absolute().parents[1]
EXAMPLE = str(ROOT / "examples" / "mnist_dvae.py")
NETWORK = (
    "--noise",
    "0",
    "--hidden-layers",
    "2",
    "--decoder-layers",
    "2",
    "--width",
    "200",
    "--latent-size",
    "50",
)
SETTING = ("--binarisation", "none", "--rate-schedule", "constant", "--batch-size", "100")
QUIET = ("--importance-samples", "0", "--quiet", "--dataset", "mnist")
PEERS = {
    "Pyro's example": ("peers.pyro_example", "pyro"),
    "torch loop, DataLoader": ("peers.torch_loop", "torch"),
    "pythae's trainer": ("peers.pythae_trainer", "pythae"),
}
Timed = tuple[float, float]  # seconds, test bound


class CommandError(RuntimeError):
    """A command ended with an error."""


def run(command: list[str], environment: dict[str, str], folder: Path) -> tuple[float, str]:
    """Return the seconds that a command takes, and what it prints.

    :raises CommandError: it ends with an error.
    """
    started = time.perf_counter()
    done = subprocess.run(
        command,
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        raise CommandError((done.stderr or done.stdout).strip()[-2000:])
    return seconds, done.stdout


def ours(
    arguments: list[str], environment: dict[str, str], folder: Path, caches: list[str], new: bool
) -> Timed:
    """Run the example with the compiler's files of the last of ``caches``, or with a ``new``, empty one."""
    if new or not caches:
        caches.append(tempfile.mkdtemp(dir=folder))
    output = Path(tempfile.mkdtemp(dir=folder)) / "run"
    command = [sys.executable, EXAMPLE, *arguments, "--output", str(output)]
    seconds, _ = run(command, environment | {"TORCHINDUCTOR_CACHE_DIR": caches[-1]}, folder)
    return seconds, json.loads((output / "results.json").read_text())["test_bound"]["mean"]


def peer(module: str, arguments: list[str], environment: dict[str, str], folder: Path) -> Timed:
    """Run a script of :mod:`peers`."""
    seconds, printed = run([sys.executable, "-m", module, *arguments], environment, folder)
    return seconds, json.loads(printed.strip().splitlines()[-1])["test_bound"]


def jobs(
    data: str, epochs: int, environment: dict[str, str], folder: Path, only: tuple[str, ...]
) -> tuple[dict[str, Callable[[], Timed]], list[str]]:
    """Return what to run, by name, and who is missing."""
    common = ["--data-folder", data, "--epochs", str(epochs)]
    example = [*NETWORK, *SETTING, *QUIET, *common]
    work: dict[str, Callable[[], Timed]] = {}
    missing = []
    caches: list[str] = []
    start = partial(ours, environment=environment, folder=folder, caches=caches)
    work["ours"] = partial(start, example, new=False)
    if "--no-compile" in run([sys.executable, EXAMPLE, "--help"], environment, folder)[1]:
        work["ours, compiler's files new"] = partial(start, example, new=True)
        work["ours, --no-compile"] = partial(start, [*example, "--no-compile"], new=False)
    at = str(ROOT / "benchmarks")
    path = os.pathsep.join([at, *filter(None, [environment.get("PYTHONPATH")])])
    for name, (module, library) in PEERS.items():
        if importlib.util.find_spec(library) is None:
            missing.append(f"skipped: {name}: {library} is not installed: pip install 'pyro-dvae[bench]'")
            continue
        work[name] = partial(peer, module, common, environment | {"PYTHONPATH": path}, folder)
    if only:
        work = {name: job for name, job in work.items() if any(word in name for word in only)}
    return work, missing


def measure(work: dict[str, Callable[[], Timed]], rounds: int) -> dict[str, list[Timed]]:
    """Return seconds and bound of each round, by name."""
    found: dict[str, list[Timed]] = {name: [] for name in work}
    # The compiler's files that "ours" finds come from the run with new ones, which is the first of all.
    order = sorted(work, key=lambda name: "files new" not in name)
    for index in range(rounds):
        for name in order[index % len(order) :] + order[: index % len(order)]:
            seconds, bound = work[name]()
            print(f"  round {index + 1}: {name}: {seconds:.1f} s, {bound:.2f}", file=sys.stderr, flush=True)
            found[name].append((seconds, bound))
    return found


def table(found: dict[str, list[Timed]]) -> str:
    base = next(iter(found))
    lines = [f"{'':<28}{'seconds':>9}{f'of {base}':>22}{'test bound, nats':>19}"]
    for name, each in found.items():
        relative = [mine / other for (mine, _), (other, _) in zip(each, found[base], strict=True)]
        lower, middle, upper = quartiles(relative)
        seconds = statistics.median(each for each, _ in each)
        bound = statistics.median(bound for _, bound in each)
        lines.append(
            f"{name:<28}{seconds:>9.1f}{f'{middle:.2f} ({lower:.2f}-{upper:.2f})':>22}{bound:>19.2f}"
        )
    return "\n".join(lines)


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--epochs", type=click.IntRange(1), default=20, show_default=True)
@click.option("--threads", type=click.IntRange(1), help="Cores for each.  [default: all]")
@click.option("--data-folder", default="data", show_default=True, help="Where MNIST is.")
@click.option("--only", multiple=True, help="The rows whose names contain this.")
@click.option("--output", type=click.Path(path_type=Path), help="JSON file of all figures.")
@click.option(
    "--quick", is_flag=True, help="One round of one epoch on some hundred images that are not MNIST."
)
def main(
    rounds: int,
    epochs: int,
    threads: int | None,
    data_folder: str,
    only: tuple[str, ...],
    output: Path | None,
    quick: bool,
) -> None:
    environment = limit_threads(threads or os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = Path(data_folder).absolute()
        if quick:
            rounds, epochs, data = 1, 1, folder / "data"
            write_stand_in(data, 300, 100)
        elif not (data / "MNIST" / "raw").is_dir():
            raise click.ClickException(f"data-folder: expected MNIST/raw of torchvision in it, got {data}")
        work, missing = jobs(str(data), epochs, environment, folder, only)
        found = measure(work, rounds)
    cores = environment["OMP_NUM_THREADS"]
    print(f"{epochs} epochs, {rounds} rounds, {cores} cores, imports and compilation counted")
    print("\n".join([table(found), *missing]))
    if output is not None:
        content: dict[str, Any] = {"epochs": epochs, "cores": int(cores), "seconds and test bound": found}
        output.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
