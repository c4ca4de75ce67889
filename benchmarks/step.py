"""The time of one training step: NumPyro, Pyro, torch by hand, pythae, and ours.

    python benchmarks/step.py                         # some minutes; pip install -e ".[bench]" for the peers
    python benchmarks/step.py --memory --output step.json
    python benchmarks/step.py --growth docs/images/step_growth.png
    python benchmarks/step.py --quick                 # a run of seconds, which shows that it runs and no more

The problem is the paper's network (784-200-200-z50-200-200-784, softplus), batch 100, 5 % salt-and-pepper
noise before the encoder, one latent draw, Adam at 1e-3, on binary data in memory. Data are MNIST with
--data-folder, otherwise 20 images with 3 % of their pixels flipped. All start from the same weights.

Every contender is a process that sleeps while another works, on the same cores (--threads). "ms" is the
median over rounds; the ratios are medians of the rounds' ratios with quartiles, because times of different
rounds are not comparable. In each round a contender runs an untimed epoch, then a timed one, in a random
order of batches, and reads losses back in its own way. "loss" is that of the last warm-up epoch (nats per
row); a contender that differs by more than 2 % in one of the first two epochs is marked, because it does
other work. "prepared" is the time from the start of the process to the end of the first epoch: imports,
recording, compilation. "Products" are only the matrix products of a step, forward and backward. --memory adds
the peak of the resident set while preparing and warming up, and while training, and threads.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import click
from peers import growth
from peers.contenders import CONTENDERS
from peers.problem import Problem, binarised, save, stand_in
from peers.processes import limit_threads, processor
from peers.rounds import Found, disagreement, measure, quartiles, ratios

PIXELS = 784
ALLOWED = 0.02  # relative difference of losses between contenders that do the same work
ALLOWED_QUICKLY = 0.1
PACKAGES = ("pyro-dvae", "pyro-ppl", "torch", "numpyro", "jax", "jaxlib", "pythae", "numpy")
GROWTH = ("stock", "compiled")


def machine() -> dict[str, str | None]:
    """Return the processor, the system and the versions."""
    found: dict[str, str | None] = {
        "cpu": processor(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def data_files(folder: Path, data_folder: str | None, sizes: Sequence[int], pixels: int) -> dict[int, str]:
    """Write data of each number of rows; return the files."""
    if data_folder is None:
        rows = stand_in(max(sizes), pixels)
    else:
        import numpy as np

        import pyro_dvae as dv

        grey = dv.load_dataset("mnist", root=data_folder, download=False).train.numpy()
        rows = binarised(np.resize(grey, (max(sizes), grey.shape[1])))  # repeats rows if more are needed
    return {size: save(rows[:size], folder, str(size)) for size in sizes}


def threads_said(cores: int) -> str:
    """Return the number of cores in words."""
    return "1 core" if cores == 1 else f"{cores} cores"


def spread(values: Sequence[float]) -> str:
    """Return median and quartiles as text."""
    if not values:
        return f"{'-':>19}"
    lower, middle, upper = quartiles(values)
    return f"{middle:>7.2f} ({lower:.2f}-{upper:.2f})".rjust(19)


def table(found: Found, memory: bool, allowed: float) -> str:
    """Return the table of the steps, and the missing contenders with reasons."""
    off = disagreement(found)
    head = f"{'':<34}{'ms':>8}{'of NumPyro':>19}{'of stock SVI':>19}{'loss':>9}{'prepared s':>12}"
    lines = [head + (f"{'peak MB: prep.':>16}{'train':>8}{'threads':>9}" if memory else "")]
    for name, each in found.items():
        if not each.get("seconds"):
            continue
        line = f"{CONTENDERS[name].label:<34}{1e3 * statistics.median(each['seconds']):>8.3f}"
        line += "".join(spread(ratios(found, name, base)) for base in ("numpyro", "stock"))
        line += f"{each['losses'][-1]:>9.2f}" if name in off else f"{'-':>9}"
        line += f"{each['prepared_seconds']:>12.1f}"
        if memory:
            line += f"{each['peak_bytes_preparing'] / 1e6:>16,.0f}{each['peak_bytes'] / 1e6:>8,.0f}"
            line += f"{each['threads']:>9}"
        lines.append(line + ("  OTHER WORK" if off.get(name, 0.0) > allowed else ""))
    if off:
        lines.append(
            f"losses of the first two epochs agree within {100 * max(off.values()):.2f} % of their median"
        )
    for word in ("skipped", "failed"):
        lines += [f"{word}: {CONTENDERS[n].label}: {e[word]}" for n, e in found.items() if word in e]
    return "\n".join(lines)


def wrong(found: Found, allowed: float) -> bool:
    """Whether a contender failed or does other work than the others."""
    return any("failed" in each for each in found.values()) or any(
        share > allowed for share in disagreement(found).values()
    )


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=15, show_default=True)
@click.option(
    "--warm-up", type=click.IntRange(1), default=3, show_default=True, help="Epochs before, compared."
)
@click.option("--rows", type=click.IntRange(1), default=10_000, show_default=True, help="Training data.")
@click.option("--batch", type=click.IntRange(1), default=100, show_default=True, help="Data per step.")
@click.option(
    "--models", type=click.IntRange(1), default=8, show_default=True, help="Side by side, fit_many."
)
@click.option("--threads", type=click.IntRange(1), help="Cores for each.  [default: all]")
@click.option("--only", multiple=True, type=click.Choice(list(CONTENDERS)), help="These contenders.")
@click.option("--data-folder", type=click.Path(), help="Where MNIST is.")
@click.option("--memory", is_flag=True, help="Show peak memory and threads too.")
@click.option(
    "--growth", "picture", type=click.Path(path_type=Path), help="Vary the sizes; draw this picture."
)
@click.option("--output", type=click.Path(path_type=Path), help="JSON file of all figures.")
@click.option("--quick", is_flag=True, help="A tiny problem, one round.")
def main(
    rounds: int,
    warm_up: int,
    rows: int,
    batch: int,
    models: int,
    threads: int | None,
    only: tuple[str, ...],
    data_folder: str | None,
    memory: bool,
    picture: Path | None,
    output: Path | None,
    quick: bool,
) -> None:
    """Print the table, or measure the growth with the sizes."""
    environment = limit_threads(threads or os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as name:
        pixels, allowed = PIXELS, ALLOWED
        problem = Problem("", batch=batch, models=models)
        if quick:
            rounds, warm_up, rows, pixels, allowed = 1, 1, 200, 64, ALLOWED_QUICKLY
            problem = replace(problem, hidden=(16, 16), latents=4, batch=20)
        options: dict[str, Any] = {"rounds": rounds, "environment": environment}
        cores, here = threads_said(int(environment["OMP_NUM_THREADS"])), machine()
        about: dict[str, Any] = {"machine": here, "cores": int(environment["OMP_NUM_THREADS"])}
        if picture is None:
            (file,) = data_files(Path(name), data_folder, [rows], pixels).values()
            problem = replace(problem, data_file=file)
            steps = rows // problem.batch
            found = measure(list(only or CONTENDERS), problem, steps, warm_up=warm_up, **options)
            print(f"{rounds} rounds of {steps} steps, {cores}, {here['cpu']}")
            print(table(found, memory, allowed))
            failed = wrong(found, allowed)
            content = {"problem": asdict(problem), "steps": steps, "contenders": found}
        else:
            axis = growth.AXES["rows"]
            files = data_files(Path(name), data_folder, axis.quick if quick else axis.values, pixels)
            problem = replace(problem, data_file=files[min(files)])
            names = list(only or GROWTH)
            grown = growth.measure_growth(names, problem, files, quick, **options)
            print(growth.table(grown, names))
            title = f"Cost of a training step on {cores}, {here['cpu']}"
            growth.draw(grown, names, title, picture)
            output = output or picture.with_suffix(".json")
            failed = any(wrong(records, allowed) for values in grown.values() for records in values.values())
            content = {"problem": asdict(problem), "axes": grown}
        if output is not None:
            growth.write(output, about | content)
    if failed:
        sys.exit("a contender failed or does other work than the others")


if __name__ == "__main__":
    main()
