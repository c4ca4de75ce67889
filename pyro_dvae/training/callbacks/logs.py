"""Logs of a run: the epochs as a table, and curves, pictures and histograms for TensorBoard."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.datasets.array_scale import limits_of
from pyro_dvae.errors import InputError
from pyro_dvae.files import append_text, user_path, write_atomically
from pyro_dvae.plots.grids import checked_images, shades
from pyro_dvae.training.callbacks.base import Callback, Running

COLUMNS = ("epoch", "train_bound", "validation_bound", "learning_rate", "seconds")


class CSVLog(Callback):
    """A file of comma-separated values with a line for each epoch; a resumed run rewrites it.

    :param file: path in an existing folder; with several models ``NAME-0.csv``, ``NAME-1.csv``, ...
    """

    def __init__(self, file: str | os.PathLike[str]) -> None:
        self.file = user_path("file", file)

    def start(self, run: Running) -> None:
        history = run.history
        columns = (history.epochs, *(getattr(history, name) for name in COLUMNS[1:]))
        lines = [_line(COLUMNS), *map(_line, zip(*columns, strict=True))]
        write_atomically(self._of(run), "".join(lines), make_folder=False)

    def epoch(self, run: Running) -> None:
        history = run.history
        append_text(
            self._of(run), _line((history.epochs[-1], *(getattr(history, name)[-1] for name in COLUMNS[1:])))
        )

    def _of(self, run: Running) -> Path:
        if run.number is None:
            return self.file
        return self.file.with_name(f"{self.file.stem}-{run.number}{self.file.suffix}")


def _line(values: Any) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(["" if each is None else each for each in values])
    return text.getvalue()


_CURVES = ("train_bound", "validation_bound", "learning_rate")


class TensorBoard(Callback):
    """A log for TensorBoard, written by torch's own writer (needs the package ``tensorboard``).

    Bounds and rates are written after every epoch; a resumed run continues with the same curves.

    :param folder: the log folder; with several models, a subfolder for each.
    :param images: rows [N, ...] whose reconstructions are drawn below them; none by default. Black and white
        are 0 and 1, or their least and largest value if one is outside.
    :param image_shape: (height, width) or (channels, height, width) of a row, if rows are flat.
    :param histograms: whether to write histograms of the parameters.
    :param every: number of epochs between pictures and between histograms.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        images: Tensor | None = None,
        image_shape: Sequence[int] | None = None,
        histograms: bool = True,
        every: int = 1,
    ) -> None:
        self.folder = user_path("folder", folder)
        self.images = None if images is None else checks.data("images", images)
        self.image_shape: tuple[int, ...] = ()
        if self.images is not None:
            checked_images(
                "images", self.images, self.images.shape[1:] if image_shape is None else image_shape
            )
            self.image_shape = tuple(self.images.shape[1:] if image_shape is None else image_shape)
        self.histograms = checks.flag("histograms", histograms)
        self.every = checks.count("every", every)
        self._writer: Any = None

    def start(self, run: Running) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise InputError(
                "callbacks: TensorBoard needs the package tensorboard; pip install tensorboard"
            ) from None
        folder = self.folder if run.number is None else self.folder / str(run.number)
        # Removes what a killed run has written after its last checkpoint.
        self._writer = SummaryWriter(str(folder), purge_step=run.epoch + 1)

    def epoch(self, run: Running) -> None:
        writer, history = self._writer, run.history
        for name in _CURVES:
            value = getattr(history, name)[-1]
            if value is not None:
                writer.add_scalar(name, value, run.epoch)
        if run.epoch % self.every and run.epoch < run.epochs:
            return
        if self.histograms:
            for name, leaf in run.parameters.items():
                finite = leaf.detach()[leaf.detach().isfinite()]
                if finite.numel():  # a diverged model among several has none
                    writer.add_histogram(name.replace("$$$", "/"), finite.cpu(), run.epoch)
        if self.images is not None:
            grid = self._grid(run, self.images)
            layout = "HW" if grid.ndim == 2 else "HWC"
            writer.add_image("reconstructions", grid, run.epoch, dataformats=layout)

    def _grid(self, run: Running, images: Tensor) -> np.ndarray:
        """Return the rows above their reconstructions, [H, W] or [H, W, 3], with values in [0, 1]."""
        both = (images, run.fitted().reconstruct(images))
        tiles = [checked_images("images", each, self.image_shape) for each in both]
        rows = np.concatenate([np.concatenate(list(row), axis=1) for row in tiles])
        return shades(rows, limits_of(images))[0]

    def end(self, run: Running) -> None:
        if self._writer is not None:
            self._writer.close()

    def __getstate__(self) -> dict[str, Any]:
        """Return the settings without an open writer."""
        return vars(self) | {"_writer": None}
