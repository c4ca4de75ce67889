"""A substitute for MNIST in torchvision's layout."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from peers.problem import stand_in

SIDE = 28


def write_stand_in(folder: Path, train: int, test: int) -> None:
    """Write the four files of MNIST, uncompressed, with generated images."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, rows, seed in (("train", train, 0), ("t10k", test, 1)):
        images = 255 * stand_in(rows, SIDE * SIDE, seed)
        header = struct.pack(">4i", 0x803, rows, SIDE, SIDE)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(header + images.astype(np.uint8).tobytes())
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, rows) + bytes(rows))
