"""A folder of image files as a data set: ``folder:PATH``, with a sub-folder for each class."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_dvae.datasets.base import Dataset, is_binary, needs, permuted_split
from pyro_dvae.datasets.registry import Request, register_prefix
from pyro_dvae.errors import DataError
from pyro_dvae.machine import machine_memory

ENDINGS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
PARTS = ("test", "train", "val", "valid", "validation")
# Divisors of the values in a file, by Pillow's mode.
_SCALES = {"1": 1, "L": 255, "I;16": 65535, "RGB": 255}


@register_prefix("folder")
def load_folder(path: Path, request: Request) -> Dataset:
    """Load images of one size, split 80 / 10 / 10 by a permutation; the sub-folder's name is the label.

    Labels number the names in alphabetical order from 0; images in ``path`` itself have none. The rows are
    colour [3 · H · W] if any file is, else grey [H · W], with values in [0, 1]. Hidden files, and files that
    are not images, are left out.
    """
    files, left_out = _files(path)
    classes = sorted({name for name, _ in files} - {None})
    if clash := [name for name in classes if name.lower() in PARTS]:
        raise DataError(
            f"{path}: expected a sub-folder for each class, got {', '.join(clash)}, which would be a part; "
            "give the folder of one part, as folder:PATH/train, which is then split"
        )
    images = _read([file for _, file in files], path)
    shape = images.shape[1:]
    rows = torch.from_numpy(images).flatten(1)
    labels = torch.tensor([classes.index(name) for name, _ in files]) if classes else None
    held_out = max(1, len(rows) // 10)
    sizes = (len(rows) - 2 * held_out, held_out, held_out)
    train, validation, test = permuted_split(len(rows), sizes, request.split_seed)
    return Dataset(
        name=path.resolve().name or "folder",
        train=rows[train],
        validation=rows[validation],
        test=rows[test],
        train_labels=None if labels is None else labels[train],
        validation_labels=None if labels is None else labels[validation],
        test_labels=None if labels is None else labels[test],
        image_shape=tuple(shape),
        binary=is_binary(rows),
        source=(
            f"images in the folder {path}, {'colour' if len(shape) == 3 else 'grey'}, values in [0, 1]; "
            f"{_counted(classes)}; {left_out} other files left out; {sizes[0]} train, {held_out} validation, "
            f"{held_out} test by a permutation with seed {request.split_seed}"
        ),
    )


def _files(path: Path) -> tuple[list[tuple[Any, Path]], int]:
    """Return the image files with their class or None, in order, and the number of other files."""
    if not path.is_dir():
        raise DataError(
            f"{path}: {'expected a folder of images, got a file' if path.exists() else 'no such folder'}"
        )
    try:
        found = sorted(each for each in path.rglob("*") if each.is_file())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    shown = [each for each in found if not any(p.startswith(".") for p in each.relative_to(path).parts)]
    images = [each for each in shown if each.suffix.lower() in ENDINGS]
    if len(images) < 3:
        raise DataError(
            f"{path}: expected at least 3 images ({', '.join(ENDINGS)}) to split into three parts, "
            f"got {len(images)}"
        )
    parts = [each.relative_to(path).parts for each in images]
    classes = [above[0] if above else None for *above, _ in parts]
    if None in classes and any(classes):
        raise DataError(
            f"{path}: expected all images in sub-folders, one for each class, or none, "
            f"got {classes.count(None)} of {len(images)} next to the sub-folders; move them"
        )
    return list(zip(classes, images, strict=True)), len(shown) - len(images)


def _read(files: list[Path], path: Path) -> np.ndarray:
    """Return the images as float32 [N, H, W], or [N, 3, H, W] if any file has colour."""
    pillow, operations = (needs(f"PIL.{name}", "pillow", "folder") for name in ("Image", "ImageOps"))
    pixels = [_pixels(pillow, operations, files[0])]
    if (needed := len(files) * pixels[0].nbytes) > (machine_memory() or math.inf):
        raise DataError(f"{path}: its images take {needed} bytes, more than this machine's memory")
    pixels += [_pixels(pillow, operations, file) for file in files[1:]]
    sizes = Counter(each.shape[:2] for each in pixels)
    if len(sizes) > 1:
        (common, count), *_ = sizes.most_common()
        other = next(index for index, each in enumerate(pixels) if each.shape[:2] != common)
        height, width = pixels[other].shape[:2]
        raise DataError(
            f"{path}: expected images of one size, got {count} of {common[0]} x {common[1]} and "
            f"{len(files) - count} others, {files[other].relative_to(path)} of {height} x {width}; "
            "resize or crop them first"
        )
    colour = any(each.ndim == 3 for each in pixels)
    if not colour:
        return np.stack(pixels)
    return np.stack([np.stack([each] * 3) if each.ndim == 2 else each.transpose(2, 0, 1) for each in pixels])


def _pixels(pillow: Any, operations: Any, file: Path) -> np.ndarray:
    """Return one image, turned upright, as float32 in [0, 1]: [H, W] if it is grey, else [H, W, 3]."""
    try:
        with pillow.open(file) as opened:
            if (frames := getattr(opened, "n_frames", 1)) > 1:
                raise ValueError(f"it holds {frames} pictures")
            image = operations.exif_transpose(opened)
            opaque = "transparency" not in image.info
            if image.mode in ("LA", "RGBA"):
                opaque = image.getchannel("A").getextrema() == (255, 255)
            if opaque and image.mode not in _SCALES and not image.mode.startswith(("I", "F")):
                image = image.convert("L" if image.mode == "LA" else "RGB")
            values = np.asarray(image, dtype=np.float32)
    except Exception as error:  # Pillow may raise anything for damaged bytes
        cause = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{file}: cannot be read as an image ({cause}); repair or remove it") from None
    if image.mode not in _SCALES or not opaque:
        raise DataError(
            f"{file}: expected grey or red, green and blue values of 8 or 16 bits, got Pillow's mode "
            f"{image.mode}{'' if opaque else ' with transparency'}; convert it first"
        )
    return values / np.float32(_SCALES[image.mode])


def _counted(classes: list[str]) -> str:
    if not classes:
        return "no sub-folders, so no labels"
    names = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
    return f"{len(classes)} classes by sub-folder: {names}"
