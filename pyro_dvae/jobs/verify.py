"""``pyro-dvae verify RUN``: whether this machine reproduces a stored run bit for bit."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyro_dvae import checks
from pyro_dvae.errors import DivergenceError, InputError
from pyro_dvae.files import user_path
from pyro_dvae.jobs import folder as run_folder
from pyro_dvae.jobs.data import require_same_data, require_same_values, versions
from pyro_dvae.jobs.options import TrainRequest
from pyro_dvae.jobs.train import TrainingRun
from pyro_dvae.models import DVAE
from pyro_dvae.training.run_state import read_training


def verify(
    folder: str | Path,
    steps: int = 100,
    *,
    data_folder: str | None = None,
    dataset: str | None = None,
    device: str | None = None,
) -> tuple[bool, str]:
    """Repeat the first steps of a run, without changing it, and compare the losses bit for bit.

    A loss depends on every bit of the weights before its step, so equal losses mean equal weights.

    :param folder: the run folder, which does not change.
    :param steps: maximum number of steps to compare; a run stores the losses of up to 100.
    :param data_folder: current folder of the data, if it differs from the run's.
    :param dataset: current path of the run's own data file.
    :param device: device to use instead of the run's.
    :returns: whether all losses are equal, and the result in words.
    :raises InputError: if the folder is not a run folder, or the run's first losses were not stored.
    """
    steps = checks.count("steps", steps)
    folder = user_path("run", folder)
    config = run_folder.read_config(folder)
    stored = _stored_losses(folder)[:steps]
    # A substitute data set is loaded by its own name.
    wanted = dataset or run_folder.options_of(config).dataset or config["data"]["name"]
    changed = {"data_folder": data_folder, "dataset": wanted, "device": device}
    changed = {name: value for name, value in changed.items() if value is not None}
    options = dataclasses.replace(run_folder.options_of(config), **changed)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as temporary:
        asked = frozenset(options.as_dict())  # no option is chosen from the data
        request = TrainRequest(options, asked, f"{temporary}/run", None, quiet=True)
        for step, (then, now) in enumerate(zip(stored, _losses(request, config, folder), strict=False), 1):
            if then != now:
                parted = (
                    f"not the same bits: the runs part at step {step} of {len(stored)}, loss {now!r}, in the "
                    f"stored run {then!r} nats"
                )
                return False, "\n".join([parted, *_different_versions(config)])
    return True, f"the same bits: the losses of the first {len(stored)} steps are those of {folder}"


def _stored_losses(folder: Path) -> list[float]:
    path = folder / run_folder.CHECKPOINT
    tensors, state = read_training(path, lambda name: name == "epoch/losses")
    if "ranks" in state:
        raise InputError(f"run: {folder} was trained by several processes; verify needs a run of one process")
    losses: list[float] = state["history"].get("first_losses") or []
    if not losses and state["epoch"] == 0:
        losses = tensors["epoch/losses"].tolist()
    if not losses:
        raise InputError(f"run: {folder} has no losses of the first steps to compare with")
    return losses


def _losses(request: TrainRequest, config: dict[str, Any], folder: Path) -> Iterator[float]:
    """Yield the loss of each step of a run from its start; refuse other data than the run's."""
    run = TrainingRun(request)
    try:
        require_same_data(config["data"], run.data)
        _, state = read_training(folder / run_folder.CHECKPOINT, lambda name: False)
        require_same_values(run.data, run.train, state["data"].get("train"))
        dvae = DVAE(run.encoder, run.decoder, run.corruption)
        trainer = run.trainer(dvae.model, dvae.guide, run.bound)
        for epoch in trainer:
            for x in epoch:
                yield float(trainer.step(x))
            return
    except DivergenceError:
        return
    finally:
        run.release()


def _different_versions(config: dict[str, Any]) -> list[str]:
    then, now = config.get("versions", {}), versions()
    return [
        f"{name}: {then[name]} then, {now[name]} now"
        for name in now
        if then.get(name, now[name]) != now[name]
    ]
