"""Images and rows from a model: reconstructions, samples from the prior, and draws of missing cells."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from pyro_dvae import checks, plots
from pyro_dvae.datasets.array_scale import ArrayScale
from pyro_dvae.errors import DataError, InputError
from pyro_dvae.files import user_path
from pyro_dvae.jobs.converted_rows import rows_of
from pyro_dvae.jobs.folder import data_units, read_config, shape_of
from pyro_dvae.jobs.loading import load
from pyro_dvae.jobs.tables import require_numbers, require_table, write_table
from pyro_dvae.plots import manifold_codes

_DRAWS = 1000  # of the latents of each given row


def save_samples(
    folder: str | Path,
    output: str | Path | None,
    count: int,
    seed: int,
    pixels: bool = False,
    given: str | Path | None = None,
) -> tuple[Path, int]:
    """Draw from the best epoch's model; return the file written and the number of rows.

    Values are in the columns and units of the data. An array holds images as [N, H, W] or [N, C, H, W], and
    rows of ``given`` in their own shape.

    :param folder: the run folder.
    :param output: a ``.png`` (for images), ``.csv``, ``.parquet`` or ``.npy`` file; None for ``samples.png``
        or, for a table, ``samples.csv`` in the run folder.
    :param count: number of rows, or of draws of each given row.
    :param seed: seed of the draws.
    :param pixels: draw the pixels of images from the likelihood instead of taking their means; rows of a
        table are always drawn.
    :param given: a file of rows with missing cells, which are drawn given the observed cells.
    """
    count = checks.count("count", count, 1, 100_000)
    seed = checks.count("seed", seed, minimum=0)
    folder = user_path("run", folder)
    config = read_config(folder)
    shape, units = shape_of(config), data_units(config)
    picture = shape is not None and given is None
    path = (
        folder / ("samples.png" if picture else "samples.csv")
        if output is None
        else user_path("output", output)
    )
    require_table(path, given, (".png",))
    if path.suffix == ".png" and not picture:
        raise InputError(
            f"output: rows of a table are not images; choose a .csv, .parquet or .npy file, got {path}"
        )
    rows = None if given is None else rows_of(config, given, gaps=True)
    if rows is not None and not bool(rows.rows.isnan().any()):
        raise DataError(f"{given}: no cell is missing, so there is nothing to draw")
    require_numbers(path, units, None if rows is None else rows.cells)
    fitted = load(folder)
    if rows is not None:
        found = fitted.condition(rows.rows, num_draws=count, num_samples=max(_DRAWS, count), seed=seed)
        found.warn_of_unreliable()
        drawn = found.draws
        names = {"draw": np.arange(count).repeat(len(rows.rows))}
        names |= {name: np.tile(values, count) for name, values in rows.names.items()}
        drawn = drawn.flatten(0, 1)
    else:
        drawn, names = fitted.sample(count, values=pixels or shape is None, seed=seed), {}
    if path.suffix == ".png":
        assert shape is not None
        assert isinstance(units, ArrayScale)
        kind = "Draws" if pixels else "Pixel means of latents drawn"
        title = f"{kind} from the prior, {config['data']['name']}"
        limits = config["data"]["limits"]
        grid = plots.image_grid(units.original(drawn), shape, limits=limits, title=title)
        return plots.write_figure(path, grid), count
    table = units.back(drawn)
    if rows is not None:
        table, shape = rows.with_observed(table, count), rows.shape
    return write_table(path, names, table, shape), len(drawn)


Program = Callable[..., Any]


def _means(model: Program, x: Tensor) -> Tensor:
    """Run the model and return the mean of its data site ``x``, in the shape of ``x``."""
    trace = poutine.trace(model).get_trace(x)
    mean: Tensor = trace.nodes["x"]["fn"].mean
    return mean


@torch.no_grad()
def prior_means(model: Program, like: Tensor, count: int) -> Tensor:
    """Return the data means [count, D] of latents drawn from the prior."""
    return _means(poutine.uncondition(model), like.new_zeros(count, like.shape[-1]))


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
