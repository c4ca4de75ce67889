"""Data-parallel training on a CPU: two processes with one thread, against one process with one or two.

    python benchmarks/parallel.py
    python benchmarks/parallel.py --batch 1000
    python benchmarks/parallel.py --quick                  # seconds: shows that it runs

A wide network (784-1000-1000-z50-1000-1000-784), salt and pepper, on random images, by compiled steps of a
``Trainer``; the two processes share every batch and add up their gradients by gloo. Each way has one or two
processes, which sleep while another way runs. In every round each way trains an epoch. The table has the
median milliseconds of a step, the median speed-up over one thread, and the losses of the first epoch (nats
per row), which agree except for noise.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import NamedTuple

import click
import torch
from peers.processes import processor

import pyro_dvae as dv
from pyro_dvae.distributed import join
from pyro_dvae.networks import BernoulliDecoder, GaussianEncoder

PIXELS, LATENTS = 784, 50
ENDLESS = 10**6  # epochs


class Way(NamedTuple):
    """A number of processes and of threads each."""

    processes: int
    threads: int

    @property
    def label(self) -> str:
        processes = "1 process" if self.processes == 1 else f"{self.processes} processes"
        return f"{processes}, {self.threads} thread{'s' * (self.threads > 1)} each"


WAYS = (Way(1, 1), Way(1, 2), Way(2, 1))


def serve(width: int, batch: int, steps: int) -> None:
    """Train an epoch for every input line, and answer with its seconds and its loss."""
    group = join("cpu")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.manual_seed(0)
    encoder = GaussianEncoder(PIXELS, LATENTS, (width, width))
    decoder = BernoulliDecoder(PIXELS, LATENTS, (width, width))
    pair = dv.DVAE(encoder, decoder, dv.SaltAndPepper(0.05, salt="rate"))
    images = (torch.rand(steps * batch, PIXELS, generator=torch.Generator().manual_seed(1)) < 0.13).float()
    trainer = dv.Trainer(
        pair.model,
        pair.guide,
        images,
        loss=dv.TraceDenoising_ELBO(max_plate_nesting=1),
        epochs=ENDLESS,
        batch_size=batch,
        compile=True,
        progress=False,
    )
    for epoch, _ in zip(trainer, sys.stdin, strict=False):
        began = time.perf_counter()
        for rows in epoch:
            trainer.step(rows)
        seconds = time.perf_counter() - began
        print(seconds, -trainer.history.train_bound[-1] if trainer.history.train_bound else 0.0, flush=True)
    group.leave()


class Worker:
    """The processes of one way."""

    def __init__(self, way: Way, arguments: list[str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(way.processes)}
        self._processes = [
            subprocess.Popen(
                [sys.executable, __file__, "--serve", *arguments],
                env=os.environ
                | place
                | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": str(way.threads)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(way.processes)
        ]

    def epoch(self) -> tuple[float, float]:
        """Return the seconds of an epoch and the loss of the previous one."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        answers = [process.stdout.readline().split() for process in self._processes if process.stdout]
        if not all(answers):
            raise click.ClickException("a process failed; its error stands above")
        return max(float(seconds) for seconds, _ in answers), float(answers[0][1])

    def close(self) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._processes:
            process.wait()


@click.command()
@click.option("--width", type=click.IntRange(1), default=1000, show_default=True, help="Of each layer.")
@click.option("--batch", type=click.IntRange(2), default=2000, show_default=True, help="Rows of a step.")
@click.option("--steps", type=click.IntRange(1), default=10, show_default=True, help="Of an epoch.")
@click.option("--rounds", type=click.IntRange(1), default=9, show_default=True)
@click.option("--quick", is_flag=True, help="One round of a small network.")
@click.option("--serve", "serving", is_flag=True, hidden=True)
def main(width: int, batch: int, steps: int, rounds: int, quick: bool, serving: bool) -> None:
    if quick:
        width, batch, steps, rounds = 8, 20, 2, 1
    if serving:
        serve(width, batch, steps)
        return
    arguments = ["--width", str(width), "--batch", str(batch), "--steps", str(steps)]
    times: dict[Way, list[float]] = {way: [] for way in WAYS}
    losses: dict[Way, float] = {}
    with ExitStack() as stack:
        workers = {}
        for way in WAYS:
            workers[way] = Worker(way, arguments)
            stack.callback(workers[way].close)
            workers[way].epoch()  # compiles
            losses[way] = workers[way].epoch()[1]
        for turn in range(rounds):
            for way in WAYS[turn % len(WAYS) :] + WAYS[: turn % len(WAYS)]:
                times[way].append(workers[way].epoch()[0])
    click.echo(f"width {width}, batches of {batch}, {rounds} rounds of {steps} steps, {processor()}")
    click.echo(f"{'':<30}{'ms per step':>12}{'times one':>12}{'loss':>9}")
    for way in WAYS:
        gain = statistics.median(one / own for one, own in zip(times[WAYS[0]], times[way], strict=True))
        step = 1e3 * statistics.median(times[way]) / steps
        click.echo(f"{way.label:<30}{step:>12.1f}{gain:>12.2f}{losses[way]:>9.2f}")


if __name__ == "__main__":
    main()
