"""The group of processes that ``torchrun`` starts: read from its environment, made, and left."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed

from pyro_dvae.errors import InputError

_ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
# Others may wait while one loads data or writes files; a process that ends is noticed at once all the same.
_TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class Group:
    """This process's place among the others.

    :param device: name of the device that this process computes on.
    :param made: whether the group was made here, and so is left here.
    """

    device: str
    made: bool = False

    def leave(self) -> None:
        """Take down the group if it was made here; each process does so when its work is done."""
        if self.made and distributed.is_initialized():
            distributed.destroy_process_group()


def launched() -> bool:
    """Return whether ``torchrun`` (or a launcher that sets the same variables) started several processes."""
    return all(name in os.environ for name in _ENVIRONMENT) and int(os.environ["WORLD_SIZE"]) > 1


def join(device: str) -> Group:
    """Join the other processes that were started with this one; alone, change nothing.

    The group speaks gloo on CPUs and NCCL on GPUs, where process r of a machine takes its r-th GPU. A group
    that is there already is used as it is.

    :param device: as a user names it: ``"auto"``, ``"cpu"``, ``"cuda"``.
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
    # Flags and random states travel over gloo also beside GPUs, which then need not be waited for.
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
