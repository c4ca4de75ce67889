"""The time of a training step on a GPU: Pyro's SVI, CompiledSVI, fit, and fit_many with 1 to 240 models.

    python benchmarks/gpu.py --data-folder data      # about four minutes on an H100
    python benchmarks/gpu.py --device cpu --widths 1 --steps 5 --epochs 1 --rows 1000    # shows that it runs

The problem is the network of the paper (784-200-200-z50-200-200-784), batch 100, 5 % salt-and-pepper noise,
Adam at 1e-3, on binary MNIST (or on stand-in images without --data-folder). fit_many's times are per model.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import click
import pyro
import torch
from peers.problem import binarised, stand_in
from pyro.infer import SVI
from pyro.optim import Adam
from torch import Tensor

import pyro_dvae as dv
from pyro_dvae.networks import BernoulliDecoder, GaussianEncoder

BATCH = 100


def pair(device: torch.device, seed: int = 0) -> dv.DVAE:
    torch.manual_seed(seed)
    encoder, decoder = GaussianEncoder(784, 50, (200, 200)), BernoulliDecoder(784, 50, (200, 200))
    return dv.DVAE(encoder, decoder, dv.SaltAndPepper(0.05)).to(device)


def bound() -> dv.TraceDenoising_ELBO:
    return dv.TraceDenoising_ELBO(max_plate_nesting=1)


def wait(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def loop(kind: Callable[..., SVI], x: Tensor, steps: int, **options: str) -> float:
    """Return milliseconds a step of a loop, each of which reads its loss back."""
    pyro.clear_param_store()
    made = pair(x.device)
    svi = kind(made.model, made.guide, Adam({"lr": 1e-3}), bound(), **options)
    batches = x.split(BATCH)
    for batch in batches[:20]:
        svi.step(batch)
    began = wait(x.device)
    for step in range(steps):
        svi.step(batches[step % len(batches)])
    return (wait(x.device) - began) / steps * 1e3


def trained(x: Tensor, width: int | None, epochs: int) -> float:
    """Return milliseconds a step and model of the last epoch: of ``fit``, or of ``fit_many`` of a width."""
    pyro.clear_param_store()
    options = {"epochs": epochs, "batch_size": BATCH, "progress": False}
    if width is None:
        made = pair(x.device)
        history = dv.fit(made.model, made.guide, x, loss=bound(), compile=True, **options).history
    else:
        pairs = [pair(x.device, seed) for seed in range(width)]
        found = dv.fit_many([(each.model, each.guide) for each in pairs], x, loss=bound(), **options)
        history = found[0].history
    return history.seconds[-1] / -(-len(x) // BATCH) * 1e3


@click.command(help=__doc__)
@click.option("--device", default="cuda", show_default=True)
@click.option("--data-folder", default=None, help="Folder of MNIST.  [default: stand-in images]")
@click.option("--rows", default=50_000, show_default=True)
@click.option("--steps", default=1500, show_default=True)
@click.option("--epochs", default=4, show_default=True)
@click.option("--widths", default="1,8,40,240", show_default=True)
def main(device: str, data_folder: str | None, rows: int, steps: int, epochs: int, widths: str) -> None:
    where = torch.device(device)
    if data_folder is None:
        images = torch.as_tensor(stand_in(rows, 784))
    else:
        grey = dv.load_dataset("mnist", root=data_folder, download=False).train.numpy()
        images = torch.as_tensor(binarised(grey[:rows]))
    x = images.float().to(where)
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu"
    click.echo(f"{name}, torch {torch.__version__}; milliseconds a step and model")
    click.echo(f"SVI                    {loop(SVI, x, min(steps, 200)):8.3f}")
    for noise in ("torch", "hashed"):
        click.echo(f"CompiledSVI, {noise:<10}{loop(dv.CompiledSVI, x, steps, generator=noise):8.3f}")
    click.echo(f"fit                    {trained(x, None, epochs):8.3f}")
    for width in map(int, widths.split(",")):
        click.echo(f"fit_many, {width:>4} models  {trained(x, width, epochs):8.3f}")


if __name__ == "__main__":
    main()
