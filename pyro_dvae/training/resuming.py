"""The files of a run: saving and resuming."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from pyro_dvae import random_state
from pyro_dvae.checkpoint import save_checkpoint
from pyro_dvae.distributed import Ranks
from pyro_dvae.distributed.ranks import pack_random, take_files, unpack_random
from pyro_dvae.errors import CheckpointError, InputError, warn
from pyro_dvae.files import user_path
from pyro_dvae.interrupts import Stopped
from pyro_dvae.ownership import FileOwner
from pyro_dvae.training import kept, run_state
from pyro_dvae.training.callbacks.base import RunCallbacks
from pyro_dvae.training.epochs import EpochRecord
from pyro_dvae.training.history import History, MetricsFile
from pyro_dvae.training.recorded import Recorded
from pyro_dvae.training.run import Run
from pyro_dvae.training.stopping import Faults, Requests


class RunFiles:
    """The checkpoint and the metrics of a run, which no other process may write meanwhile.

    All processes call every method; rank 0 writes.

    :param metrics: a file with one JSON line per epoch.
    :param identity: identifies the run (:func:`~pyro_dvae.training.run_state.identity`).
    :param calls: the callbacks.
    :param place: returns the state of a loader that has one, or None.
    """

    def __init__(
        self,
        run: Run,
        metrics: str | os.PathLike[str] | None,
        identity: dict[str, Any],
        faults: Faults,
        ranks: Ranks,
        requests: Requests,
        calls: RunCallbacks,
        place: Callable[[], Any] = lambda: None,
    ) -> None:
        self._place, self._calls = place, calls
        self._run, self._faults, self._ranks, self._requests = run, faults, ranks, requests
        path = None if metrics is None else user_path("metrics", metrics)
        self._metrics = None if path is None or not ranks.first else MetricsFile(path)
        self._identity = identity
        self._owner = FileOwner(checkpoint=run.checkpoint, metrics=path)

    def take(self) -> None:
        take_files(self._ranks, self._owner)

    def release(self) -> None:
        """Let other processes write to the files."""
        self._owner.release()

    @contextmanager
    def released_on_error(self) -> Iterator[None]:
        """Release the files if the body fails: its error may keep this object alive."""
        try:
            yield
        except BaseException:
            self.release()
            raise

    # Saving

    def save(self) -> None:
        """Save the checkpoint, between two steps, and call the hook."""
        self._write()
        stopping = self._calls.stopping()
        self._calls.at("checkpoint")
        if self._calls.stopping() != stopping:  # the request belongs into the checkpoint
            self._write()

    def _write(self) -> None:
        run = self._run
        if run.checkpoint is None:
            raise InputError("checkpoint: expected a path to save to, got None")
        self._faults.require_finite_losses()
        self._faults.require_finite_parameters()
        random = run.random or random_state.capture()
        tensors, state = run_state.pack(
            live=run.trained.tensors(),
            best=run.best,
            losses=run.record.losses,
            random=random,
        )
        state |= self._identity | {
            "epoch": run.finished,
            "position": run.record.position,
            "seen": run.record.seen,
            "seconds": run.record.seconds(),
            "history": run.history.to_dict(),
        }
        owners = {
            "loader": self._place(),
            "update": run.update.state_dict(),
            "callbacks": self._calls.state_dict(),
            "recorded": run.recorded.prints,
        }
        kept_tensors, kept_state = kept.pack(owners)
        tensors |= kept_tensors
        state |= kept_state
        others, of_others = pack_random(self._ranks, random)
        if self._ranks.first:
            with self._owner.held():
                save_checkpoint(run.checkpoint, tensors | others, state | of_others)
        run.saved_at = run.now

    def append_metrics(self) -> None:
        """Append the line of the last epoch."""
        if self._metrics is not None:
            self._metrics.append(self._run.history)

    def rewrite_metrics(self) -> None:
        """Make the file of metrics agree with the history."""
        if self._metrics is not None:
            self._metrics.rewrite(self._run.history)

    def stop_if_requested(self) -> None:
        """Save and end the run if the user has asked for it."""
        if self._requests.made:
            self.stop()

    def stop(self) -> NoReturn:
        """Save the run unless it is saved, and end it."""
        if self._run.checkpoint is not None and self._run.saved_at != self._run.now:
            self.save()
        raise Stopped(self._run.checkpoint)

    # Resuming

    def restore(self, epochs: int, seed: int, may_change: Collection[str]) -> None:
        """Restore the run from its checkpoint.

        :param epochs: the total number of epochs.
        :param seed: seed of the run, for the noise of additional processes.
        :param may_change: settings that may differ.
        :raises CheckpointError: the checkpoint is damaged, or from another configuration or other data.
        """
        run = self._run
        assert run.checkpoint is not None
        where = f"checkpoint {run.checkpoint}"
        packed, state = run_state.read_training(run.checkpoint)
        run_state.require_known(may_change, state, self._identity)
        run_state.require_same(state, self._identity, may_change, where)
        saved = run_state.unpack(packed, state)
        run.trained.require_same(saved.live, where)
        with run_state.telling_of_levels([run.trained], where):
            run.trained.assign(saved.live)
        device_of = {name: tensor.device for name, tensor in run.trained.tensors().items()}
        run.best = saved.best and {name: tensor.to(device_of[name]) for name, tensor in saved.best.items()}
        states = kept.unpack(packed, state)
        if "update" not in states:
            raise CheckpointError(f"{where}: the state of its optimizer is missing")
        run.update.load_state_dict(states["update"], state["epoch"], "schedule" in may_change)
        if "callbacks" in states:
            self._calls.load_state_dict(states["callbacks"])
        run.history = History(**state["history"])
        run.finished = state["epoch"]
        run_state.require_epochs(epochs, run.finished, state["position"] > 0, run.checkpoint)
        run.record = EpochRecord(state["position"], state["seen"], saved.losses, [], state["seconds"])
        run.place = states.get("loader")
        then, now = state["settings"], self._identity["settings"]
        changed = [name for name in ("batch_size", "seed") if then.get(name) != now[name]]
        if changed and run.record.position and run.place is None:
            run.begin_epoch_again()
            warn(f"{changed[0]} has changed, so epoch {run.finished + 1} starts again with its first batch")
        run.recorded = Recorded(states.get("recorded", ()))
        run.random = unpack_random(self._ranks, packed, state, saved.random, seed)
        try:
            with random_state.forked():
                random_state.restore(*run.random)
        except (TypeError, ValueError, RuntimeError, KeyError, IndexError) as error:
            raise CheckpointError(f"{where}: its random states cannot be used: {error}") from None
        run.saved_at = run.now
