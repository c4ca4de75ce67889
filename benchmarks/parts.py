"""The parts of the time of a compiled step, compared with the same network by hand.

    python benchmarks/parts.py                      # one thread, the paper's network, batches of 100
    python benchmarks/parts.py --convolutional      # convolutions of 32 and 64 maps, 3 x 3, stride 2
    python benchmarks/parts.py --small              # 8 columns, two layers of 32 units, batches of 64
    python benchmarks/parts.py --quick              # shows that it runs

One process trains on random images by compiled steps of a ``Trainer`` under torch's profiler. The time of a
part is the sum of the median times of its calls; the rest of the median step is Python and launches of
kernels. By hand means the loss in plain torch with torch.compile, and one fused Adam; the second version has
weights with the channels last. The ways take turns, an epoch each.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import click
import torch
from peers.processes import processor
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.profiler import ProfilerActivity, profile

import pyro_dvae as dv
from pyro_dvae.engine import fast_products
from pyro_dvae.networks import BernoulliDecoder, ConvolutionalDecoder, ConvolutionalEncoder, GaussianEncoder

RATE = 0.05


class Sizes(NamedTuple):
    """Of the network and its batches."""

    pixels: int
    latents: int
    width: int
    batch: int


PAPER, SMALL = Sizes(784, 50, 200, 100), Sizes(8, 2, 32, 64)
# Texts in the names of kernels (the first match counts); the update is fused with kernels of its gradients.
PARTS = {
    "convolutions": ("conv",),
    "matrix products": ("mm",),
    "Adam, with the gradients of softplus and biases": ("sqrt_sub_unbind", "sqrt_sub_sum_unbind"),
    "hashed noise": ("rshift",),
    "softplus, ReLU and their gradients": ("softplus", "exp_gt", "relu", "threshold"),
    "selecting the rows": ("index_select",),
    "other kernels": ("aten::", "cpp_fused"),
}


def pair_of(convolutional: bool, sizes: Sizes) -> dv.DVAE:
    """Return a new model and guide."""
    torch.manual_seed(0)
    noise, ends, width = dv.SaltAndPepper(RATE, salt="rate"), sizes[:2], sizes.width
    if convolutional:
        encoder = ConvolutionalEncoder(*ends, (width,))
        return dv.DVAE(encoder, ConvolutionalDecoder(*ends, (width,)), noise)
    encoder = GaussianEncoder(*ends, (width, width))
    return dv.DVAE(encoder, BernoulliDecoder(*ends, (width, width)), noise)


def ours(pair: dv.DVAE, images: Tensor, batch: int) -> Callable[[], list[float]]:
    """Return a function that runs an epoch of compiled steps and returns the seconds of each."""
    bound = dv.TraceDenoising_ELBO(max_plate_nesting=1)
    options = {"epochs": 10**6, "batch_size": batch, "compile": True, "progress": False}
    trainer = dv.Trainer(pair.model, pair.guide, images, loss=bound, **options)
    epochs = iter(trainer)

    def epoch() -> list[float]:
        seconds, last = [], time.perf_counter()
        for rows in next(epochs):
            trainer.step(rows)
            now = time.perf_counter()
            seconds.append(now - last)
            last = now
        return seconds

    return epoch


def by_hand(
    pair: dv.DVAE, images: Tensor, batch: int, layout: torch.memory_format | None = None
) -> Callable[[], list[float]]:
    """Return the same for plain torch."""
    networks = nn.ModuleList([pair.guide.encoder, pair.model.decoder])
    if layout is not None:
        networks.to(memory_format=layout)
    optimizer = torch.optim.Adam(networks.parameters(), lr=1e-3, fused=True)

    @torch.compile
    def loss_of(x: Tensor) -> Tensor:
        uniform = torch.rand_like(x)
        corrupted = torch.where(uniform < RATE, (uniform < RATE * RATE).to(x.dtype), x)
        loc, scale = networks[0](corrupted)
        z = loc + scale * torch.randn_like(loc)
        divergence = 0.5 * (loc.square() + scale.square() - 1 - 2 * scale.log()).sum()
        logits = networks[1](z).base_dist.logits
        return divergence + binary_cross_entropy_with_logits(logits, x, reduction="sum")

    def epoch() -> list[float]:
        seconds, last = [], time.perf_counter()
        with fast_products():
            for rows in torch.randperm(len(images)).split(batch):
                optimizer.zero_grad()
                loss = loss_of(images[rows])
                loss.backward()
                optimizer.step()
                loss.item()
                now = time.perf_counter()
                seconds.append(now - last)
                last = now
        return seconds

    return epoch


def parts(epoch: Callable[[], list[float]], steps: int) -> dict[str, float]:
    """Return the milliseconds of a step in each part."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        epoch()
    kernels: dict[str, list[float]] = defaultdict(list)
    for event in sorted(seen.events(), key=lambda event: event.time_range.start):
        kernels[event.name].append(event.self_cpu_time_total / 1e3)
    found = dict.fromkeys(PARTS, 0.0)
    for name, times in kernels.items():
        part = next((part for part, words in PARTS.items() if any(word in name for word in words)), None)
        if part is not None:
            found[part] += _per_step(times, steps)
    return found


def _per_step(times: list[float], steps: int) -> float:
    """Return the time of a kernel in a step: the sum of the medians of its calls, which differ in size."""
    calls, rest = divmod(len(times), steps)
    if rest:  # not in every step
        return sum(times) / steps
    return sum(statistics.median(times[call::calls]) for call in range(calls))


@click.command()
@click.option("--convolutional", is_flag=True, help="A convolutional network.")
@click.option("--small", is_flag=True, help="A small network for a table.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--quick", is_flag=True, help="One round of a small network.")
def main(convolutional: bool, small: bool, threads: int, rounds: int, quick: bool) -> None:
    """Print the parts of a step, and compare it with those by hand."""
    from torch._inductor import config

    torch.set_num_threads(threads)
    sizes = SMALL if small else PAPER._replace(width=8) if quick else PAPER
    steps, batch = 2 if quick else 20 if convolutional else 100, sizes.batch
    shape, generator = (steps * batch, sizes.pixels), torch.Generator().manual_seed(0)
    images = (torch.rand(shape, generator=generator) < 0.13).float()
    with config.patch({"cpp.enable_kernel_profile": True}):
        ways = {"compiled step": ours(pair_of(convolutional, sizes), images, batch)}
        ways["compiled step"]()
    ways["torch.compile by hand"] = by_hand(pair_of(convolutional, sizes), images, batch)
    if convolutional:
        hand = by_hand(pair_of(convolutional, sizes), images, batch, torch.channels_last)
        ways["torch.compile by hand, channels last"] = hand
    times: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(1 if quick else rounds + 1):
        for way, epoch in ways.items():
            taken = epoch()
            times[way] += taken if turn or quick else []
    whole = 1e3 * statistics.median(times["compiled step"])
    found = parts(ways["compiled step"], steps)
    found["Python, and launching the kernels"] = max(0.0, whole - sum(found.values()))
    click.echo(f"{threads} thread(s), {processor()}, torch {torch.__version__}")
    for part, milliseconds in found.items():
        click.echo(f"{part:<50}{milliseconds:8.2f} ms{100 * milliseconds / whole:6.0f} %")
    for way, seconds in times.items():
        milliseconds = 1e3 * statistics.median(seconds)
        click.echo(f"{way:<50}{milliseconds:8.2f} ms{milliseconds / whole:8.2f}")


if __name__ == "__main__":
    main()
