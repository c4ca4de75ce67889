"""From what a user gives to a source of rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_dvae.errors import InputError, shown
from pyro_dvae.rows.arrays import Sparse, array_source, frame_source
from pyro_dvae.rows.source import InMemory, Source
from pyro_dvae.rows.torch_data import Stream, dataset_source, is_map_style

EXPECTED = (
    "a tensor [N, ...], a numpy array (also memory-mapped), a scipy.sparse matrix, a pandas DataFrame, a "
    "torch Dataset or DataLoader"
)


def opened(argument: str, value: Any, floats: torch.dtype) -> Source | Stream:
    """Return the rows of anything that has rows, or its batches where it has its own order.

    Tensors and torch's data sets keep their number types; real numbers of all others become ``floats``.

    :raises InputError: it has no rows that are known here; says how to give them.
    """
    package = type(value).__module__.partition(".")[0]
    if isinstance(value, Tensor):
        return InMemory.checked(argument, value)
    if isinstance(value, np.ndarray):
        return array_source(argument, value, floats)
    if package == "scipy" and hasattr(value, "tocsr"):
        return Sparse(argument, value, floats)
    if package == "pandas" and hasattr(value, "to_numpy"):
        return frame_source(argument, value, floats)
    if is_map_style(value):
        return dataset_source(argument, value, floats)
    if isinstance(value, Mapping):
        keys = ", ".join(f"{argument}[{key!r}]" for key in value)
        what = f"give its parts one after the other: {keys}" if keys else "it is empty"
        raise InputError(f"{argument}: got a dict; {what}")
    if isinstance(value, list | tuple):
        raise InputError(
            f"{argument}: expected {EXPECTED}, got {type(value).__name__}; give rows as one tensor "
            "(torch.tensor, torch.stack), several data arguments one after the other (model, guide, x, y)"
        )
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | type):
        return Stream(argument, value, floats)
    raise InputError(f"{argument}: expected {EXPECTED}, got {shown(value)}")


def source_of(argument: str, value: Any, floats: torch.dtype) -> Source:
    """Return the rows of anything; those of a loader are read into memory."""
    found = opened(argument, value, floats)
    return found.gathered() if isinstance(found, Stream) else found
