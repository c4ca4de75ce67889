"""Checkpoints: one safetensors file with named tensors and a JSON state, checked by digests; no pickle.

The string metadata of the file holds ``format``, ``version``, ``state`` (JSON), ``tensors`` (JSON: the
SHA-256 of each tensor's type, shape and bytes) and ``digest`` (the SHA-256 of these four). A damaged file is
refused as a whole, and some of the tensors can be read and checked without the others.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.errors import CheckpointError, InputError
from pyro_dvae.files import irregular, user_path, write_atomically

FORMAT = "pyro_dvae.checkpoint"
VERSION = 1


def save_checkpoint(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], state: Mapping[str, Any]
) -> None:
    """Write ``tensors`` and the JSON-able ``state`` to a file that is moved to ``path`` when complete.

    Tensors may share memory, be non-contiguous or live on any device; each is stored separately.
    """
    stored = {
        name: tensor.detach().to("cpu", copy=True).contiguous().resolve_conj()
        for name, tensor in tensors.items()
    }
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "state": to_json(state),
        "tensors": json.dumps({name: _tensor_digest(tensor) for name, tensor in sorted(stored.items())}),
    }
    metadata["digest"] = _metadata_digest(metadata)
    # The format has no complex numbers in double precision.
    stored = {name: torch.view_as_real(t) if t.is_complex() else t for name, t in stored.items()}
    write_atomically(path, save(stored, metadata), make_folder=False)


def load_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors (on the CPU) and the state of a checkpoint, or raise :class:`CheckpointError`."""
    return read_checkpoint(path, lambda name: True)


def load_parameters(
    path: str | os.PathLike[str], which: str = "best", kind: str = "parameters"
) -> dict[str, Tensor]:
    """Return the unconstrained parameters by name, from the best epoch by validation or the last.

    Only these tensors are read. If the run had no validation, the best are the last.

    :param kind: "parameters", or "buffers" for the buffers of modules.
    """
    prefix = f"best/{kind}/" if checks.known("which", which, ("best", "last")) == "best" else f"{kind}/"
    tensors, _ = read_checkpoint(path, lambda name: name.startswith(prefix))
    if not tensors and which == "best":
        return load_parameters(path, "last", kind)
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def read_checkpoint(
    path: str | os.PathLike[str], wanted: Callable[[str], bool]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors whose names are ``wanted``, and the state; other tensors are not read."""
    path = user_path("checkpoint", path)
    _require_file(path)
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            metadata = file.metadata() or {}
            digests = _verified_digests(path, metadata, set(file.keys()))
            tensors = {name: file.get_tensor(name).clone() for name in digests if wanted(name)}
    except (OSError, SafetensorError, ValueError, RuntimeError, KeyError, TypeError) as error:
        if isinstance(error, CheckpointError):
            raise
        reason = " ".join(str(error).split())
        raise CheckpointError(f"checkpoint {path}: truncated, or not a safetensors file ({reason})") from None
    for name, tensor in tensors.items():
        if _tensor_digest(tensor) == digests[name]:
            continue
        if tensor.dtype in (torch.float32, torch.float64) and tensor.shape[-1:] == (2,):  # complex
            tensors[name] = torch.view_as_complex(tensor)
        if _tensor_digest(tensors[name]) != digests[name]:
            raise CheckpointError(f"checkpoint {path}: damaged, tensor {name!r} does not match its digest")
    return tensors, from_json(metadata["state"])


def _require_file(path: Path) -> None:
    if (kind := irregular(path)) not in (None, "a folder"):
        raise CheckpointError(f"checkpoint {path}: it is {kind}, expected a file")
    try:
        with open(path, "rb") as file:
            start = file.read(9)
    except IsADirectoryError:
        raise CheckpointError(f"checkpoint {path}: it is a folder, expected a file") from None
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint {path}: there is no such file") from None
    except OSError as error:
        raise CheckpointError(f"checkpoint {path}: cannot be read: {error.strerror}") from None
    # A safetensors file starts with eight bytes of any value, the length of its header, which starts with {.
    if start[8:] != b"{" and start.startswith((b"PK", b"\x80")):
        raise CheckpointError(f"checkpoint {path}: a pickle or zip file; only safetensors files are read")


def _verified_digests(path: object, metadata: Mapping[str, str], names: set[str]) -> dict[str, str]:
    """Return the digest of each tensor, after checking everything except the tensors."""
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"checkpoint {path}: a safetensors file, but not a checkpoint of pyro_dvae")
    version = metadata.get("version", "")
    if version.isdecimal() and int(version) > VERSION:
        raise CheckpointError(f"checkpoint {path}: format version {version}, written by a newer pyro_dvae")
    if metadata.get("digest") != _metadata_digest(metadata):
        raise CheckpointError(f"checkpoint {path}: damaged, its state does not match its digest")
    digests: dict[str, str] = json.loads(metadata["tensors"])
    if set(digests) != names:
        raise CheckpointError(f"checkpoint {path}: damaged, its tensors do not match its list")
    return digests


def _metadata_digest(metadata: Mapping[str, str]) -> str:
    parts = [metadata.get(key, "") for key in ("format", "version", "state", "tensors")]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _tensor_digest(tensor: Tensor) -> str:
    digest = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)} ".encode())
    digest.update(content(tensor))
    return digest.hexdigest()


def content(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor's values, for a digest."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    # To torch, a single number of a column is contiguous with any stride.
    found: memoryview = flat.as_strided(flat.shape, (1,)).view(torch.uint8).numpy().data
    return found


def to_json(value: Any) -> str:
    """Return ``value`` as strict JSON; NaN and infinities become ``{"$float": "nan"}`` etc."""
    try:
        return json.dumps(_encoded(value), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"state: expected JSON-able values, got one that is not: {error}") from None


def from_json(text: str) -> Any:
    """Return the value from the result of :func:`to_json`."""
    return json.loads(text, object_hook=lambda d: float(d["$float"]) if d.keys() == {"$float"} else d)


def _encoded(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(value)}
    if isinstance(value, Mapping):
        return {str(key): _encoded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encoded(item) for item in value]
    return value
