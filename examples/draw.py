"""DRAW (Gregor et al. 2015) with the denoising criterion of Im et al. (2017), and pictures of its canvases.

    python examples/draw.py --noise 0.05 --steps 10 --attention
    python examples/draw.py --noise 0.05 --steps 10 --no-attention

A recurrent variational autoencoder that draws an image in steps. Its recognition network compares a corrupted
image with the canvas so far; the likelihood is that of the clean image. Model and guide are two callables,
``draw.model`` and ``draw.guide``, like any others. The picture shows canvases through time: images that the
model makes up, and held-out ones that it redraws from a corrupted copy.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import pyro
import torch
from torch import Tensor

import pyro_dvae as dv
from pyro_dvae import plots
from pyro_dvae.datasets import binarisation, binarise_dataset
from pyro_dvae.jobs.command import Command

ROWS = 5  # images of each kind in the picture
COLUMNS = 10  # maximum number of steps shown
TILE, LEFT, TOP = 0.62, 1.05, 0.75  # inches


@click.command(cls=Command)
@click.option("--noise", default=0.05, show_default=True, help="Rate of salt-and-pepper noise, salt = rate.")
@click.option("--steps", default=10, show_default=True, help="Steps of drawing (T).")
@click.option("--attention/--no-attention", default=True, show_default=True, help="Read and write patches.")
@click.option("--read-size", default=5, show_default=True, help="Side of the patch read.")
@click.option("--write-size", default=5, show_default=True, help="Side of the patch written.")
@click.option("--hidden-size", default=128, show_default=True, help="Units of each recurrent network.")
@click.option("--latent-size", default=10, show_default=True, help="Size of the latent of a step.")
@click.option("--cell", default="lstm", show_default=True, help="lstm or gru.")
@click.option("--epochs", default=10, show_default=True, help="Passes over the training data.")
@click.option("--batch-size", default=100, show_default=True, help="Data per step of training.")
@click.option("--learning-rate", default=1e-3, show_default=True, help="Step size of Adam.")
@click.option("--dataset", default=None, help="mnist (where none is named), digits, or a file.")
@click.option("--data-folder", default="data", show_default=True, help="Folder of the data.")
@click.option("--seed", default=0, show_default=True, help="Seed.")
@click.option("--output", default="draw.png", show_default=True, help="The picture.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def main(
    noise: float,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    dataset: str | None,
    data_folder: str,
    seed: int,
    output: str,
    quiet: bool,
    **network: Any,
) -> None:
    """Train DRAW, evaluate it, and draw its canvases through time."""
    pyro.set_rng_seed(seed)
    data = dv.load_dataset(dataset, data_folder)
    train, validation, test = binarise_dataset(data, "static", seed)
    visit = binarisation("static").visit
    shape = data.picture_shape
    draw = dv.DRAW(image_shape=shape, corruption=dv.SaltAndPepper(noise, salt=noise), **network)
    bound = dv.TraceMeanFieldDenoising_ELBO(max_plate_nesting=1)
    dv.fit(
        draw.model,
        draw.guide,
        train,
        loss=bound,
        validation=validation,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        schedule="step",
        clip_norm=5.0,
        transform=visit,
        seed=seed,
        progress=False if quiet else None,
    )
    found = dv.evaluate_bound(draw.model, draw.guide, visit(test), loss=bound, seed=seed)
    print(f"test bound on clean input: {found.mean:.2f} ± {found.standard_error:.2f} nats ({data.name})")
    clean = visit(test[:ROWS])
    corrupted = draw.guide.corruption(clean).sample()
    picture(Path(output), shape, draw.sample(ROWS), clean, corrupted, draw.reconstruct(corrupted))
    print(f"picture: {output}")


def picture(
    path: Path,
    image_shape: Sequence[int],
    samples: Tensor,
    clean: Tensor,
    corrupted: Tensor,
    redrawn: Tensor,
) -> None:
    """Draw canvases [T, rows, D] through time: below each other the made-up and the redrawn images."""
    total, rows, _ = samples.shape
    shown = torch.linspace(1, total, min(total, COLUMNS)).round().int().tolist()
    columns = ["clean x", "x̃", *(f"t = {step}" for step in shown)]
    blocks: dict[str, list[Tensor | None]] = {
        "drawn from\nthe prior": [None, None, *(samples[step - 1] for step in shown)],
        "redrawn\nfrom x̃": [clean, corrupted, *(redrawn[step - 1] for step in shown)],
    }
    width, height = LEFT + TILE * len(columns) + 0.15, TOP + TILE * (rows * len(blocks) + 0.5) + 0.5
    figure = plots.new_figure(width, height)
    for block, (name, images) in enumerate(blocks.items()):
        top = height - TOP - block * TILE * (rows + 0.5)
        first = LEFT + (2 * TILE if block == 0 else 0.0)
        middle = (top - TILE * rows / 2) / height
        figure.text((first - 0.1) / width, middle, name, ha="right", va="center", fontsize=11)
        for column, tiles in enumerate(images):
            if tiles is None:
                continue
            left = LEFT + TILE * column + (0.12 if column > 1 else 0.0)
            middle = (left + TILE / 2) / width
            if block == 0 or column < 2:
                figure.text(middle, (top + 0.06) / height, columns[column], ha="center", fontsize=9)
            for row, tile in enumerate(tiles.reshape(-1, *image_shape).cpu().numpy()):
                place = (left / width, (top - TILE * (row + 0.96)) / height)
                axes = figure.add_axes((*place, 0.96 * TILE / width, 0.92 * TILE / height))
                axes.imshow(tile, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
                axes.set_axis_off()
    figure.text(0.5, 1 - 0.2 / height, "Canvases of DRAW, step by step", ha="center", va="top", fontsize=12)
    note = "pixel intensity 0 (black) to 1 (white): sigmoid of the canvas after step t"
    note = textwrap.fill(f"{note}; redrawn by posterior means", int(width * 15))
    figure.text(0.5, 0.08 / height, note, ha="center", va="bottom", fontsize=8, color="0.35")
    plots.write_figure(path, figure)


if __name__ == "__main__":
    main()
