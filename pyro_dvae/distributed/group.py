"""The process group of ``torchrun``: read from the environment, created, and left."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed

from pyro_dvae.errors import InputError

_ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
# Long, because processes wait while one loads data or writes files; a process's end is noticed at once.
_TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class Group:
    """This process's place in the group.

    :param device: name of the device that this process computes on.
    :param made: whether the group was created here, so it is also left here.
    """

    device: str
    made: bool = False

    def leave(self) -> None:
        """Leave the group if it was created here; each process calls this at its end."""
        if self.made and distributed.is_initialized():
            distributed.destroy_process_group()


def launched() -> bool:
    """Return whether ``torchrun`` (or a launcher that sets the same variables) started several processes."""
    return all(name in os.environ for name in _ENVIRONMENT) and int(os.environ["WORLD_SIZE"]) > 1


def join(device: str) -> Group:
    """Join the other processes that were started with this one; a single process changes nothing.

    The group uses gloo on CPUs and NCCL on GPUs, where process r of a machine takes its r-th GPU. An existing
    group is used unchanged.

    :param device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
    :raises InputError: there are fewer GPUs than processes, or ``device`` is one GPU for all.
    """
    if not launched():
        return Group(device)
    place = _place(device)
    if distributed.is_initialized():
        return Group(place)
    on_gpu = place.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(torch.device(place))
    # Flags and random states use gloo even with GPUs, so that they need not wait for the GPUs.
    distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=_TIMEOUT)
    return Group(place, made=True)


def _place(device: str) -> str:
    if device.startswith("cuda:"):
        raise InputError(f"device: expected 'cuda' or 'cpu' (each process takes its own GPU), got {device!r}")
    if device not in ("auto", "cuda") or not torch.cuda.is_available():
        return device
    local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local >= gpus:
        raise InputError(
            f"device: expected a GPU for each process, got {gpus}; start {gpus} processes with "
            f"torchrun --nproc-per-node={gpus}, or give --device cpu"
        )
    return f"cuda:{local}"
