"""Trains several small models: one after another on all cores, a process on each core, or one batched step.

    python benchmarks/side_by_side.py                # the paper's network, as many models as there are cores
    python benchmarks/side_by_side.py --models 8
    python benchmarks/side_by_side.py --quick        # seconds: shows that it runs

Seconds for an epoch of every model, without compilation, on 20,000 images of random bits: 200 steps of 100.
The ways take turns; the table has the medians over the rounds and the median ratio to the first way. With
more models than cores the processes take them in turn, like ``pyro-dvae reproduce``.
"""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys

import click
import pyro
import torch

import pyro_dvae as dv
from pyro_dvae.machine import available_cores
from pyro_dvae.networks import BernoulliDecoder, GaussianEncoder

EPOCHS = 4  # the first, which compiles, is left out
WAYS = ("one after another", "a process on each core", "one batched step")


def data(rows: int, size: int) -> torch.Tensor:
    return torch.rand(rows, size, generator=torch.Generator().manual_seed(0)).round()


def model_of(seed: int, size: int, width: int) -> dv.DVAE:
    torch.manual_seed(seed)
    encoder = GaussianEncoder(size, 50, (width,))
    return dv.DVAE(encoder, BernoulliDecoder(size, 50, (width, width)), dv.SaltAndPepper(0.05, salt="rate"))


def seconds_alone(rows: int, size: int, width: int) -> float:
    """Return the seconds of an epoch of one model in this process."""
    pyro.clear_param_store()
    made = model_of(0, size, width)
    bound = dv.TraceDenoising_ELBO(max_plate_nesting=1)
    options = {"epochs": EPOCHS, "compile": True, "progress": False}
    history = dv.fit(made.model, made.guide, data(rows, size), loss=bound, **options).history
    return statistics.median(history.seconds[1:])


def seconds_batched(models: int, rows: int, size: int, width: int) -> float:
    """Return the seconds of an epoch of all models as one computation."""
    made = [model_of(seed, size, width) for seed in range(models)]
    pairs = [(each.model, each.guide) for each in made]
    bound = dv.TraceDenoising_ELBO(max_plate_nesting=1)
    found = dv.fit_many(pairs, data(rows, size), loss=bound, epochs=EPOCHS, progress=False)
    return models * statistics.median(found[0].history.seconds[1:])


def measured(way: str, models: int, cores: int, sizes: tuple[int, int, int]) -> float:
    """Return the seconds of an epoch of all models."""
    together = min(cores, models) if way == WAYS[1] else 1
    command = [sys.executable, __file__, "--worker", way, "--models", str(models)]
    command += ["--sizes", ",".join(map(str, sizes))]
    threads = 1 if way == WAYS[1] else cores
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    workers = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(together)
    ]
    seconds = [float(worker.communicate()[0]) for worker in workers]
    if any(worker.returncode for worker in workers):
        raise RuntimeError(f"{way}: a worker failed")
    turns = 1 if way == WAYS[2] else math.ceil(models / together)
    return turns * max(seconds)


@click.command()
@click.option("--models", type=click.IntRange(1), default=available_cores, help="[default: the cores]")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--quick", is_flag=True, help="One round of small networks on few data.")
@click.option("--worker", type=click.Choice(WAYS), hidden=True)
@click.option("--sizes", default="20000,784,200", hidden=True)
def main(models: int, rounds: int, quick: bool, worker: str | None, sizes: str) -> None:
    """Time the three ways."""
    rows, size, width = (int(each) for each in sizes.split(","))
    if worker is not None:
        batched = worker == WAYS[2]
        found = seconds_batched(models, rows, size, width) if batched else seconds_alone(rows, size, width)
        click.echo(found)
        return
    if quick:
        rounds, rows, size, width = 1, 500, 16, 8
    cores = available_cores()
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            times[way].append(measured(way, models, cores, (rows, size, width)))
    click.echo(f"{models} models, {cores} cores, seconds for an epoch of all; {rounds} rounds")
    for way in WAYS:
        ratio = statistics.median(a / b for a, b in zip(times[way], times[WAYS[0]], strict=True))
        click.echo(f"{way:<24}{statistics.median(times[way]):8.2f} s{ratio:8.2f}")


if __name__ == "__main__":
    main()
