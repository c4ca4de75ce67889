"""MATLAB's .mat files, as some data sets are published in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pyro_dvae.datasets.base import needs
from pyro_dvae.errors import DataError

#: The kind of an array's values, a dtype or "real" for any real numbers, and its shape.
Form = tuple[str, tuple[int, ...]]


def read_mat(
    dataset: str,
    path: Path,
    expected: Mapping[str, Form],
    optional: Mapping[str, Form] | None = None,
    size: int | None = None,
) -> dict[str, np.ndarray]:
    """Return the ``expected`` arrays of a .mat file; one that is missing, or of another form, is refused.

    :param dataset: the name of the data set, for the error if SciPy is not installed.
    :param optional: arrays that are returned too where the file has them in that form.
    :param size: the bytes of the published file, for the error that the file is damaged.
    """
    scipy_io = needs("scipy.io", "scipy", dataset)
    optional = optional or {}
    try:
        content = scipy_io.loadmat(str(path), variable_names=[*expected, *optional])
    except Exception as error:  # scipy raises whatever the damaged bytes lead it to
        promised = "" if size is None else f"expected {size} bytes, "
        cause = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{path}: damaged .mat file, {promised}found {os.path.getsize(path)} ({cause}); "
            "delete it to download it again"
        ) from None
    for name, form in expected.items():
        found = content.get(name)
        if not _has(found, form):
            there = f"no {name!r}" if found is None else f"{name!r} of {found.dtype} {list(found.shape)}"
            kind = "real numbers" if form[0] == "real" else form[0]
            raise DataError(f"{path}: expected an array {name!r} of {kind} {list(form[1])}, found {there}")
    kept = [*expected, *(name for name, form in optional.items() if _has(content.get(name), form))]
    return {name: content[name] for name in kept}


def _has(array: np.ndarray | None, form: Form) -> bool:
    kind, shape = form
    if array is None or array.shape != shape:
        return False
    return array.dtype.kind in "biuf" if kind == "real" else array.dtype == kind
