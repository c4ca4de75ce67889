"""The epochs of a run as a table."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Any

from pyro_dvae.files import user_path, write_atomically
from pyro_dvae.training.callbacks.base import Callback, Running

COLUMNS = ("epoch", "train_bound", "validation_bound", "learning_rate", "seconds")


class CSVLog(Callback):
    """A file of comma-separated values with a line for each epoch; a resumed run rewrites it.

    :param file: its path, in a folder that is there; of several models, ``NAME-0.csv``, ``NAME-1.csv``, ...
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
        with open(self._of(run), "a", encoding="utf-8", newline="") as log:
            log.write(_line((history.epochs[-1], *(getattr(history, name)[-1] for name in COLUMNS[1:]))))

    def _of(self, run: Running) -> Path:
        if run.number is None:
            return self.file
        return self.file.with_name(f"{self.file.stem}-{run.number}{self.file.suffix}")


def _line(values: Any) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(["" if each is None else each for each in values])
    return text.getvalue()
