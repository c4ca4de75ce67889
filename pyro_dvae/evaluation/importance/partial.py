"""The file of an evaluation that is under way: what is done, and what it was of."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_dvae.errors import CheckpointError
from pyro_dvae.training.checkpoint import load_checkpoint, save_checkpoint

_KIND = "log_likelihood"
_SECONDS_BETWEEN = 10.0


class Partial:
    """Finished chunks of an evaluation, kept in a file every ten seconds and at the end.

    :param path: the file; None keeps nothing on disk. One that is there is gone on with.
    :param settings: what the evaluation is: a file of other settings is refused.
    :raises CheckpointError: the file is damaged, or of another evaluation.
    """

    def __init__(self, path: Path | None, settings: dict[str, Any]) -> None:
        self.path, self.settings = path, settings
        self.chunks: list[dict[str, Tensor]] = []
        self._saved = time.monotonic()
        if path is None:
            return
        if path.exists():
            self.chunks = self._read(path)

    def add(self, results: dict[str, Tensor]) -> None:
        """Take up the results of the next chunk."""
        self.chunks.append(results)
        if time.monotonic() - self._saved >= _SECONDS_BETWEEN:
            self.save()

    def save(self) -> None:
        """Write what is done."""
        self._saved = time.monotonic()
        if self.path is not None and self.chunks:
            state = {"kind": _KIND, "settings": self.settings, "sizes": [_length(c) for c in self.chunks]}
            save_checkpoint(self.path, self.joined(), state)

    def joined(self) -> dict[str, Tensor]:
        """Return the results of all finished data, by name, each [N, ...]."""
        return {name: torch.cat([chunk[name] for chunk in self.chunks]) for name in self.chunks[0]}

    def _read(self, path: Path) -> list[dict[str, Tensor]]:
        tensors, state = load_checkpoint(path)
        if state.get("kind") != _KIND:
            raise CheckpointError(f"checkpoint {path}: not of an evaluation of the likelihood")
        for name, value in self.settings.items():
            found = state["settings"].get(name)
            if found != value:
                raise CheckpointError(
                    f"checkpoint {path}: of another evaluation, {name} is {found!r} there and {value!r} here"
                )
        parts = {name: values.split(state["sizes"]) for name, values in tensors.items()}
        return [
            {name: values[index] for name, values in parts.items()} for index in range(len(state["sizes"]))
        ]


def _length(chunk: dict[str, Tensor]) -> int:
    return len(next(iter(chunk.values())))


def stored_seed(path: Path | None) -> int | None:
    """Return the seed of the evaluation that a file is of, or None where there is no file."""
    if path is None or not path.exists():
        return None
    _, state = load_checkpoint(path)
    return int(state["settings"]["seed"]) if state.get("kind") == _KIND else None


def fingerprint(tensors: Iterable[Tensor]) -> str:
    """Return a digest of the values of some tensors."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
