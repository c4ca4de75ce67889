"""The IDX files of the MNIST family, checked before they are parsed."""

from __future__ import annotations

import gzip
import math
import os
import shutil
import struct
import zlib
from pathlib import Path

from pyro_dvae.errors import DataError

IMAGES_MAGIC = 2051  # unsigned bytes, three dimensions
LABELS_MAGIC = 2049  # unsigned bytes, one dimension


def check_idx(path: Path, magic: int, shown: Path | None = None) -> tuple[int, ...]:
    """Return the dimensions in the header, or refuse a file that does not hold what its header says.

    ``shown`` is the file to name in the error, where ``path`` is only an unpacked copy of it.
    """
    shown = shown or path
    sizes = magic % 256
    length = 4 * (1 + sizes)
    try:
        found = os.path.getsize(path)
        with open(path, "rb") as file:
            header = file.read(length)
    except OSError as error:
        raise DataError(f"{shown}: cannot be read ({error.strerror})") from None
    if len(header) < length:
        raise DataError(
            f"{shown}: damaged IDX file, expected at least {length} bytes, found {found}; {_remedy}"
        )
    number, *dimensions = struct.unpack(f">{1 + sizes}I", header)
    if number != magic:
        raise DataError(f"{shown}: not the IDX file expected here, magic number {number} instead of {magic}")
    expected = length + math.prod(dimensions)
    if found != expected:
        raise DataError(f"{shown}: damaged IDX file, expected {expected} bytes, found {found}; {_remedy}")
    if expected == length:
        raise DataError(f"{shown}: empty IDX file, its header says {dimensions}")
    return tuple(dimensions)


def unpack(packed: Path, target: Path) -> None:
    """Write the contents of a .gz file to ``target``."""
    try:
        with gzip.open(packed, "rb") as source, open(target, "wb") as file:
            shutil.copyfileobj(source, file)
    except (EOFError, OSError, zlib.error) as error:
        found = os.path.getsize(packed)
        raise DataError(f"{packed}: damaged .gz file of {found} bytes ({error}); {_remedy}") from None


_remedy = "delete it to download it again"
