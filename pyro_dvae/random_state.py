"""Captures, restores and forks the global random states (torch on every device, ``random``, NumPy)."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_dvae import checks


def capture() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the current random states: large parts as tensors, the rest as JSON-able values."""
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        for device in range(torch.cuda.device_count()):
            tensors[f"cuda:{device}"] = torch.cuda.get_rng_state(device)
    version, words, gauss = random.getstate()
    tensors["python"] = torch.tensor(words, dtype=torch.int64)
    state: dict[str, Any] = {"python": [version, gauss]}
    legacy: Any = np.random.get_state(legacy=True)  # noqa: NPY002
    if legacy[0] == "MT19937":
        tensors["numpy"] = torch.from_numpy(legacy[1].astype(np.int64))
        state["numpy"] = [int(legacy[2]), int(legacy[3]), float(legacy[4])]
    return tensors, state


def restore(tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Restore the result of :func:`capture`; missing devices are skipped."""
    torch.set_rng_state(tensors["cpu"])
    for name, value in tensors.items():
        if name.startswith("cuda:") and int(name[5:]) < torch.cuda.device_count():
            torch.cuda.set_rng_state(value, int(name[5:]))
    version, gauss = state["python"]
    random.setstate((version, tuple(tensors["python"].tolist()), gauss))
    if "numpy" in tensors:
        words = tensors["numpy"].numpy().astype(np.uint32)
        np.random.set_state(("MT19937", words, *state["numpy"]))  # noqa: NPY002


@contextmanager
def forked(seed: int | None = None) -> Iterator[None]:
    """Run the body with separate random streams; the global ones continue as if it had not run.

    The streams inside start from ``seed``, or from the global ones without a seed.
    """
    # Not as tensors, because a recording must not read values.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    kept = torch.get_rng_state(), [torch.cuda.get_rng_state(device) for device in devices]
    python, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        if seed is not None:
            seed = int(seed)  # NumPy's integers are no seeds of torch
            torch.default_generator.manual_seed(seed)
            if (
                torch.cuda.is_initialized()
            ):  # torch.manual_seed would also seed CUDA if it is initialized later
                torch.cuda.manual_seed_all(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
        yield
    finally:
        torch.set_rng_state(kept[0])
        for device, value in zip(devices, kept[1], strict=True):
            torch.cuda.set_rng_state(value, device)
        random.setstate(python)
        np.random.set_state(numpy_state)  # noqa: NPY002


def start_seed(seed: int | None) -> int:
    """Return a checked seed, or one drawn from torch's global stream if there is none."""
    return int(torch.randint(2**63 - 1, ())) if seed is None else checks.count("seed", seed, minimum=0)


def derived_seed(seed: int, *parts: object) -> int:
    """Return a seed in [0, 2**63) that depends only on ``seed`` and ``parts``."""
    text = "/".join(str(part) for part in (seed, *parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
