"""Samples of a run: from the prior, or of the missing cells of given rows, as a picture or a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pyro_dvae import checks, plots
from pyro_dvae.errors import DataError, InputError
from pyro_dvae.files import user_path
from pyro_dvae.jobs.applying import factor_of, rows_of
from pyro_dvae.jobs.folder import columns_of, read_config, shape_of
from pyro_dvae.jobs.loading import load
from pyro_dvae.jobs.tables import by_column, require_table, write_table

_DRAWS = 1000  # of the latents of a given row


def save_samples(
    folder: str | Path,
    output: str | Path | None,
    count: int,
    seed: int,
    pixels: bool = False,
    given: str | Path | None = None,
) -> tuple[Path, int]:
    """Draw from the best epoch's model; return what was written, and how many rows.

    Values of a table are in its original columns and units.

    :param folder: the run folder.
    :param output: a ``.png`` (of images), ``.csv``, ``.parquet`` or ``.npy`` file; None for ``samples.png``
        of images and ``samples.csv`` of a table, in the run folder.
    :param count: number of rows; of each given row, if there are any.
    :param seed: seed of the draws.
    :param pixels: draw values from the likelihood; otherwise take their means.
    :param given: a file of rows with missing cells, which are drawn given the others.
    """
    checks.count("count", count, 1, 100_000)
    checks.count("seed", seed, minimum=0)
    folder = user_path("run", folder)
    config = read_config(folder)
    shape, columns = shape_of(config), columns_of(config)
    picture = shape is not None and given is None
    path = (
        folder / ("samples.png" if picture else "samples.csv")
        if output is None
        else user_path("output", output)
    )
    require_table(path, (".png",))
    if path.suffix == ".png" and not picture:
        raise InputError(
            f"output: rows of a table are no images; name a .csv, .parquet or .npy file, got {path}"
        )
    rows = None if given is None else rows_of(config, given, gaps=True)
    if rows is not None and not bool(rows.rows.isnan().any()):
        raise DataError(f"{given}: no cell is missing, so there is nothing to draw")
    fitted, factor = load(folder), factor_of(config)
    if rows is not None:
        drawn = fitted.sample_given(rows.rows, num_draws=count, num_samples=max(_DRAWS, count), seed=seed)
        names = {"draw": np.arange(count).repeat(len(rows.rows))}
        names |= {name: np.tile(values, count) for name, values in rows.names.items()}
        drawn = drawn.flatten(0, 1)
    else:
        texts = columns is not None and columns.has_texts  # categories have no means
        drawn, names = fitted.sample(count, values=pixels or texts, seed=seed), {}
    if path.suffix == ".png":
        assert shape is not None
        kind = "Draws" if pixels else "Pixel means of latents drawn"
        title = f"{kind} from the prior, {config['data']['name']}"
        return plots.write_figure(path, plots.image_grid(drawn, shape, title=title)), count
    return write_table(path, names, by_column(columns, drawn * factor)), len(drawn)
