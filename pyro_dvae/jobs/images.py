"""Images that a model and a guide make: reconstructions, samples, and those of a finished run."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_dvae import checks, plots
from pyro_dvae.datasets.columns import Columns
from pyro_dvae.errors import InputError
from pyro_dvae.files import replacing, user_path
from pyro_dvae.jobs.folder import columns_of, load_run, shape_of
from pyro_dvae.plots import manifold_codes
from pyro_dvae.random_state import forked

Program = Callable[..., Any]


def _means(model: Program, x: Tensor) -> Tensor:
    """Run the model and return the mean of its data site ``x``, shape like ``x``."""
    trace = poutine.trace(model).get_trace(x)
    mean: Tensor = trace.nodes["x"]["fn"].mean
    return mean


@torch.no_grad()
def prior_means(model: Program, like: Tensor, count: int) -> Tensor:
    """Return the data means [count, D] of latents drawn from the prior."""
    return _means(poutine.uncondition(model), like.new_zeros(count, like.shape[-1]))


@torch.no_grad()
def prior_draws(model: Program, like: Tensor, count: int) -> Tensor:
    """Return data [count, D] drawn from the model."""
    trace = poutine.trace(poutine.uncondition(model)).get_trace(like.new_zeros(count, like.shape[-1]))
    value: Tensor = trace.nodes["x"]["value"]
    return value


@torch.no_grad()
def reconstructions(model: Program, guide: Program, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the corrupted inputs and the data means of one latent drawn for each, both [N, D]."""
    guide_trace = poutine.trace(guide).get_trace(x)
    x_tilde: Tensor = guide_trace.nodes["x_tilde"]["value"]
    return x_tilde, _means(poutine.replay(model, trace=guide_trace), x)


@torch.no_grad()
def manifold_means(model: Program, like: Tensor, rows: int, columns: int) -> Tensor:
    """Return the data means [rows·columns, D] over the 2-D latent space, by the inverse Gaussian CDF."""
    return decoded(model, like, manifold_codes(rows, columns).to(like))


@torch.no_grad()
def decoded(model: Program, like: Tensor, codes: Tensor) -> Tensor:
    """Return the data means [N, D] of the latents ``codes`` [N, d]."""
    conditioned = poutine.condition(poutine.uncondition(model), data={"z": codes})
    return _means(conditioned, like.new_zeros(len(codes), like.shape[-1]))


def save_samples(
    folder: str | Path, output: str | Path | None, count: int, seed: int, pixels: bool = False
) -> Path:
    """Draw ``count`` rows from the best epoch's model into a picture, an array [count, D] or a table.

    Values of a table are in its original columns and units.

    :param folder: the run folder.
    :param output: a ``.png`` (of images), ``.npy`` or ``.csv`` file; None for ``samples.png`` of images and
        ``samples.csv`` of a table, in the run folder.
    :param count: number of rows.
    :param seed: seed of the draws.
    :param pixels: draw pixels from the likelihood; otherwise take their means.
    """
    checks.count("count", count, 1, 100_000)
    folder = user_path("run", folder)
    chosen = None if output is None else user_path("output", output)
    if chosen is not None and chosen.suffix not in (".png", ".npy", ".csv"):
        raise InputError(f"output: expected a file ending in .png, .npy or .csv, got {chosen}")
    dvae, config = load_run(folder)
    shape, columns = shape_of(config), columns_of(config)
    output = chosen or folder / ("samples.csv" if shape is None else "samples.png")
    if output.suffix == ".png" and shape is None:
        raise InputError(f"output: rows of a table are no images; name a .csv or .npy file, got {output}")
    like = torch.zeros(1, config["data"]["dimension"])
    with forked(checks.count("seed", seed, minimum=0)), pyro.settings.context(module_local_params=True):
        drawn = pixels or (columns is not None and columns.has_texts)  # categories have no means
        images = (prior_draws if drawn else prior_means)(dvae.model, like, count)
    if output.suffix == ".png":
        kind = "Draws" if pixels else "Pixel means of latents drawn"
        title = f"{kind} from the prior, {config['data']['name']}"
        assert shape is not None
        return plots.write_figure(output, plots.image_grid(images, shape, title=title))
    found = by_column(columns, images)
    if output.suffix == ".csv":
        return write_table(output, found)
    texts = columns is not None and columns.has_texts
    array = images.numpy() if texts else np.stack(list(found.values()), 1).astype(np.float32)
    with replacing(output) as partial, open(partial, "wb") as file:
        np.save(file, array, allow_pickle=False)
    return output


def by_column(columns: Columns | None, rows: Tensor) -> dict[str, np.ndarray]:
    """Return rows [N, D] as columns [N] by name, in original units."""
    if columns is None:
        return {str(number): values for number, values in enumerate(rows.cpu().T.numpy())}
    return columns.back(rows)


def write_table(path: Path, columns: Mapping[str, np.ndarray]) -> Path:
    """Write columns [N] by name as comma-separated rows after a line of names."""
    with replacing(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*(values.tolist() for values in columns.values()), strict=True))
    return path
