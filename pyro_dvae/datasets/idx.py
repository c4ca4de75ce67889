"""The IDX files of the MNIST family, checked before they are parsed."""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from pathlib import Path
from typing import IO

from pyro_dvae.errors import DataError
from pyro_dvae.memory import machine_memory

IMAGES_MAGIC = 2051  # unsigned bytes, three dimensions
LABELS_MAGIC = 2049  # unsigned bytes, one dimension


def check_idx(path: Path, magic: int, shown: Path | None = None) -> tuple[int, ...]:
    """Return the dimensions in the header, or refuse a file that does not hold what its header says.

    ``shown`` is the file to name in the error, where ``path`` is only an unpacked copy of it.
    """
    shown = shown or path
    try:
        found = os.path.getsize(path)
        with open(path, "rb") as file:
            dimensions = _dimensions(file, magic, shown, found)
    except OSError as error:
        raise DataError(f"{shown}: cannot be read ({error.strerror})") from None
    expected = _size(dimensions)
    if found != expected:
        raise DataError(f"{shown}: damaged IDX file, expected {expected} bytes, found {found}; {_remedy}")
    return dimensions


def unpack(packed: Path, target: Path, magic: int) -> None:
    """Write the contents of a .gz file to ``target``: as many bytes as its own header says, and one more.

    A file that would unpack to more, or to more than this machine's memory, is not unpacked.
    """
    try:
        found = os.path.getsize(packed)
        with gzip.open(packed, "rb") as source, open(target, "wb") as file:
            expected = _size(_dimensions(source, magic, packed, found))
            if expected > (machine_memory() or math.inf):
                raise DataError(f"{packed}: holds {expected} bytes, more than this machine's memory")
            source.seek(0)
            left = expected + 1
            while left and (chunk := source.read(min(left, _CHUNK))):
                file.write(chunk)
                left -= len(chunk)
        if not left:
            raise DataError(f"{packed}: damaged IDX file, expected {expected} bytes, holds more; {_remedy}")
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{packed}: damaged .gz file of {found} bytes ({error}); {_remedy}") from None


def _dimensions(file: IO[bytes] | gzip.GzipFile, magic: int, shown: Path, found: int) -> tuple[int, ...]:
    sizes = magic % 256
    length = 4 * (1 + sizes)
    header = file.read(length)
    if len(header) < length:
        raise DataError(
            f"{shown}: damaged IDX file, expected at least {length} bytes, found {found}; {_remedy}"
        )
    number, *dimensions = struct.unpack(f">{1 + sizes}I", header)
    if number != magic:
        raise DataError(f"{shown}: not the IDX file expected here, magic number {number} instead of {magic}")
    if not math.prod(dimensions):
        raise DataError(f"{shown}: empty IDX file, its header says {dimensions}")
    return tuple(dimensions)


def _size(dimensions: tuple[int, ...]) -> int:
    """Return the bytes of a whole file."""
    return 4 * (1 + len(dimensions)) + math.prod(dimensions)


_CHUNK = 2**20
_remedy = "delete it to download it again"
