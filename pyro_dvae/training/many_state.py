"""The state of joint training of several models: stacked tensors, histories, and their checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_dvae import random_state
from pyro_dvae.checkpoint import load_checkpoint, save_checkpoint
from pyro_dvae.errors import CheckpointError
from pyro_dvae.rows import Data
from pyro_dvae.training import kept
from pyro_dvae.training.fitted import Fitted
from pyro_dvae.training.history import History
from pyro_dvae.training.run_state import require_epochs, require_same, telling_of_levels
from pyro_dvae.training.stacked import Member, stack, unstack
from pyro_dvae.training.update import Update

KIND = "training of many"


def fingerprints_of(sets: Mapping[str, Sequence[Data]]) -> dict[str, Any]:
    """Return the fingerprints of the data of all models, for their identity."""
    return {name: [each for rows in found for each in rows.fingerprints()] for name, found in sets.items()}


class ManyState:
    """Parameters, buffers and Adam's state of E models, each tensor [E, ...], and their progress.

    Training changes the stacked tensors; :meth:`to_models` copies them into the models.

    :param updates: the settings of their optimizers. Their averages of parameters, if any, become views of
        stacked ones.
    """

    def __init__(self, members: Sequence[Member], updates: Sequence[Update]) -> None:
        self.members, self.updates = members, updates
        self.leaves = [stack(leaves) for leaves in self._leaves()]
        self.buffers = [stack(buffers) for buffers in self._buffers()]
        free = members[0].trained.free
        self.free = [n for n, name in enumerate(members[0].trained.parameters) if name in free]
        self.adam = {n: _fresh(self.leaves[n]) for n in self.free}
        self.averages = {} if updates[0].average is None else {n: self.leaves[n].clone() for n in self.free}
        for number, update in enumerate(updates):
            if update.average is not None:
                stacked = zip(update.average, self.averages.values(), strict=True)
                update.average = {name: average[number] for name, average in stacked}
        self.histories = [History() for _ in members]
        self.best: list[dict[str, Tensor]] = [{} for _ in members]
        self.stopped = [False] * len(members)
        self.finished = 0

    def to_models(self) -> None:
        """Copy parameters and buffers into the models that have not stopped."""
        going = [number for number, stopped in enumerate(self.stopped) if not stopped]
        pairs = [*zip(self.leaves, self._leaves(), strict=True)]
        for stacked, tensors in [*pairs, *zip(self.buffers, self._buffers(), strict=True)]:
            unstack([stacked[number] for number in going], [tensors[number] for number in going])

    def move_averages(self, going: Tensor) -> None:
        """Update the parameter averages of the models that have not stopped.

        :param going: 1 for models that have not stopped, else 0, [E], on the device.
        """
        for n, average in self.averages.items():
            weight = going * (1 - (self.updates[0].decay or 0.0))
            average.lerp_(self.leaves[n], weight.to(average).reshape(-1, *[1] * (average.dim() - 1)))

    def take_leaves(self) -> None:
        """Copy the models' parameters, which callbacks may have changed, into the stacked ones."""
        for stacked, leaves in zip(self.leaves, self._leaves(), strict=True):
            stacked.copy_(stack(leaves))

    def take_buffers(self) -> None:
        """Copy the models' buffers, which schedules have set, into the stacked ones."""
        for stacked, buffers in zip(self.buffers, self._buffers(), strict=True):
            stacked.copy_(stack(buffers))

    def fitted(self) -> list[Fitted]:
        """Return the result of each model."""
        return [
            Fitted(m.model, m.guide, history, best, m.store, m.trained)
            for m, history, best in zip(self.members, self.histories, self.best, strict=True)
        ]

    def save(self, path: Path, identity: Mapping[str, Any], calls: Sequence[Mapping[str, Any]]) -> None:
        """Save the state between two epochs.

        :param identity: identifies models, settings and data.
        :param calls: the states of the callbacks of each model.
        """
        self.take_buffers()  # of models that have stopped
        best = {
            f"best{number}/{name}": tensor
            for number, tensors in enumerate(self.best)
            for name, tensor in tensors.items()
        }
        histories = [history.to_dict() for history in self.histories]
        updates = [update.settings_dict() for update in self.updates]
        random, of_random = random_state.capture()
        owners = {"callbacks": list(calls), "updates": updates, "random": [random, of_random]}
        tensors, packed = kept.pack(owners)
        state = {"kind": KIND, **identity, "epoch": self.finished, "histories": histories}
        state |= packed
        save_checkpoint(path, self._named() | best | tensors, state)

    def resume(self, path: Path, identity: Mapping[str, Any], epochs: int) -> list[dict[str, Any]]:
        """Resume from a checkpoint of the same models, settings and data; return the states of callbacks.

        :param epochs: the total number of epochs.
        """
        tensors, state = load_checkpoint(path)
        if state.get("kind") != KIND:
            raise CheckpointError(f"checkpoint {path}: not from the training of several models")
        require_epochs(epochs, state["epoch"], False, path)
        saved, now = (
            {"settings": each["settings"], "config": None, "data": _data_of(each)}
            for each in (state, identity)
        )
        require_same(saved, now, (), f"checkpoint {path}")
        for name, tensor in self._named().items():
            if name not in tensors or tensors[name].shape != tensor.shape:
                raise CheckpointError(f"checkpoint {path}: from models of another structure ({name})")
            tensor.copy_(tensors[name])
        for number, member in enumerate(self.members):
            prefix = f"best{number}/"
            live = member.trained.tensors()
            self.best[number] = {
                name.removeprefix(prefix): tensor.to(live[name.removeprefix(prefix)].device)
                for name, tensor in tensors.items()
                if name.startswith(prefix)
            }
        self.histories = [History(**history) for history in state["histories"]]
        self.finished = state["epoch"]
        with telling_of_levels([member.trained for member in self.members], f"checkpoint {path}"):
            self.to_models()
        unpacked = kept.unpack(tensors, state)
        for update, own in zip(self.updates, unpacked["updates"], strict=True):
            update.load_state_dict(own)
        if "random" in unpacked:  # not in earlier checkpoints
            random_state.restore(*unpacked["random"])
        states: list[dict[str, Any]] = unpacked["callbacks"]
        return states

    # Tensors of the models: [parameters][models]

    def _leaves(self) -> list[list[Tensor]]:
        return [list(row) for row in zip(*(m.trained.parameters.values() for m in self.members), strict=True)]

    def _buffers(self) -> list[list[Tensor]]:
        return [list(row) for row in zip(*(m.trained.buffers().values() for m in self.members), strict=True)]

    def _named(self) -> dict[str, Tensor]:
        named = {f"leaf{n}": leaf for n, leaf in enumerate(self.leaves)}
        named |= {f"buffer{n}": buffer for n, buffer in enumerate(self.buffers)}
        named |= {f"average{n}": average for n, average in self.averages.items()}
        return named | {f"state{n}/{m}": t for n, state in self.adam.items() for m, t in enumerate(state)}


def _data_of(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fingerprints of all data with their names."""
    pairs = ((name, identity.get(name, ())) for name in ("data", "validation"))
    return {f"{name}[{number}]": each for name, found in pairs for number, each in enumerate(found)}


def _fresh(leaf: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return Adam's step count [E], mean and mean square [E, ...] of a parameter."""
    return torch.zeros(len(leaf), device=leaf.device), torch.zeros_like(leaf), torch.zeros_like(leaf)
