"""A user's own file of arrays (.npy, .npz, .mat)."""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np

from pyro_dvae.datasets.registry import register_file
from pyro_dvae.datasets.treatment import Arrays, Content, Treatment
from pyro_dvae.errors import DataError
from pyro_dvae.files import irregular
from pyro_dvae.machine import machine_memory


@register_file(".npy")
def npy_content(path: Path, treatment: Treatment) -> Content:
    """Read one array [N, D], [N, H, W] or [N, C, H, W]."""
    return Content(path, {"all": read_npy(path)})


@register_file(".npz")
def npz_content(path: Path, treatment: Treatment) -> Content:
    """Read parts ``train``, ``validation``, ``test`` (and ``*_labels``), or one array, dense or sparse."""
    return replace(_of_archive(path, read_npz(path), treatment.array), named=True)


@register_file(".mat")
def mat_content(path: Path, treatment: Treatment) -> Content:
    """Read the array of a MATLAB file of version 4 to 7.2, named or the only one with rows."""
    return replace(_of_archive(path, read_mat(path), treatment.array), named=True)


_NO_NUMBERS = "not an array of numbers: damaged, of another kind, or holding Python objects"
_SPELLINGS = {"train": ("train",), "validation": ("validation", "valid", "val"), "test": ("test",)}


def read_npy(path: Path) -> np.ndarray:
    """Read one array; never unpickles."""
    with reading(path), open(path, "rb") as file:
        if file.read(2) == b"PK":
            raise ValueError("it holds an archive of arrays; name it .npz")
        file.seek(0)
        return _array(file, os.fstat(file.fileno()).st_size)


def read_npz(path: Path) -> Arrays:
    """Read the arrays of an archive by name; never unpickles."""
    with reading(path), open(path, "rb") as file:
        if file.read(6) == np.lib.format.MAGIC_PREFIX:
            raise ValueError("it holds one bare array; name it .npy")
        with zipfile.ZipFile(file) as archive:
            content = {}
            for entry in archive.infolist():
                with archive.open(entry) as packed:
                    content[entry.filename.removesuffix(".npy")] = _array(packed, entry.file_size)
    return content


def read_mat(path: Path) -> Arrays:
    """Read the arrays of a MATLAB file by name."""
    from scipy.io import loadmat

    with reading(path):
        try:
            found = loadmat(path)
        except NotImplementedError:
            raise ValueError("it is of version 7.3; save it with -v7") from None
    arrays = {name: value for name, value in found.items() if not name.startswith("__")}
    return {name: value.toarray() if hasattr(value, "toarray") else value for name, value in arrays.items()}


_LABELS = ("labels", "label", "y", "target", "targets")
_SPARSE = {"data", "indices", "indptr", "shape"}


def _of_archive(path: Path, content: Arrays, chosen: str | None) -> Content:
    """Choose the array with the rows: by name, by parts, or the only one of two dimensions or more."""
    if set(content) >= _SPARSE and chosen is None:
        return Content(path, {"all": _dense(path, content)}, notes=("a sparse matrix",))
    shown = ", ".join(f"{name} {list(array.shape)}" for name, array in content.items()) or "none"
    if chosen is not None:
        if chosen not in content:
            raise DataError(f"{path}: there is no array {chosen!r}; it has {shown}")
        rows = [chosen]
    elif "train" in content:
        return Content(path, *_by_part(path, content))
    else:
        rows = [name for name, array in content.items() if name not in _LABELS and array.ndim > 1]
        if len(rows) != 1 and len(content) == 1:
            rows = list(content)
    if len(rows) != 1:
        raise DataError(
            f"{path}: expected the arrays train, validation and test, or a single one [N, ...] (with labels "
            f"or without), got {shown}; choose one by its name (--array)"
        )
    size = len(content[rows[0]]) if content[rows[0]].ndim else 0
    labels = {name: content[name].reshape(-1) for name in _LABELS if name in content}
    named = {  # wrong lengths are refused, unless the array is a separate one
        name: array for name, array in labels.items() if len(array) == size or content[name].ndim == 1
    }
    used = [rows[0], *named]
    notes = [f"array {rows[0]!r}", *(f"labels {name!r}" for name in named)]
    unused = [name for name in content if name not in used]
    notes += [f"not used: {', '.join(unused)}"] if unused else []
    classes = {"all": next(iter(named.values()))} if named else {}
    return Content(path, {"all": content[rows[0]]}, classes, notes=tuple(notes))


def _dense(path: Path, content: Arrays) -> np.ndarray:
    import scipy.sparse

    with reading(path):
        shape = tuple(int(size) for size in content["shape"])
        if len(shape) != 2 or 8 * math.prod(shape) > (machine_memory() or math.inf):
            raise ValueError(f"as a dense array of shape {shape} it takes more than this machine's memory")
        kind = content.get("format", np.array("csr")).item()
        kind = kind.decode() if isinstance(kind, bytes) else str(kind)
        if kind not in ("csr", "csc"):
            raise ValueError(f"expected a sparse matrix in the format csr or csc, got {kind}")
        build = scipy.sparse.csr_matrix if kind == "csr" else scipy.sparse.csc_matrix
        matrix = build((content["data"], content["indices"], content["indptr"]), shape=shape)
        matrix.check_format()
        return np.asarray(matrix.toarray())


def _array(file: IO[bytes], size: int) -> np.ndarray:
    """Read an array after comparing its header with the ``size`` of the file, in bytes.

    If the header is wrong, or the array exceeds this machine's memory, nothing is unpacked or allocated.
    """
    try:
        version = np.lib.format.read_magic(file)
    except ValueError:
        raise ValueError(_NO_NUMBERS) from None
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    promised = math.prod(shape) * dtype.itemsize
    if dtype.hasobject:
        raise ValueError(_NO_NUMBERS)
    if promised != size - file.tell() or min(shape, default=0) < 0:
        raise ValueError(f"its header promises {promised} bytes, it holds {size - file.tell()}")
    if promised > (machine_memory() or math.inf):
        raise ValueError(f"it takes {promised} bytes, more than this machine's memory")
    file.seek(0)
    return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn any exception about a damaged file into a one-line error that names the file."""
    if not os.path.exists(path):
        raise DataError(f"{path}: no such file")
    if kind := irregular(path):
        raise DataError(f"{path}: expected a file, got {kind}")
    try:
        yield
    except DataError:
        raise
    except (zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: damaged file ({_cause(error)})") from None
    except Exception as error:  # NumPy may raise anything for damaged bytes
        raise DataError(f"{path}: cannot be read as {path.suffix.lower()} ({_cause(error)})") from None


def _cause(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split()) or type(error).__name__


def _by_part(
    path: Path, content: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    arrays, labels = {}, {}
    for part, spellings in _SPELLINGS.items():
        found = [key for key in spellings if key in content]
        if len(found) != 1:
            raise DataError(
                f"{path}: expected one array named {' or '.join(spellings)} next to train, "
                f"got {', '.join(content)}"
            )
        arrays[part] = content[found[0]]
        if f"{found[0]}_labels" in content:
            labels[part] = content[f"{found[0]}_labels"]
    return arrays, labels
