"""``dv.load``: loads a trained model from a run folder, or from a folder of ``save``."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

from pyro_dvae import checks
from pyro_dvae.errors import InputError
from pyro_dvae.files import user_path
from pyro_dvae.jobs.folder import CHECKPOINT, CONFIG, load_run, read_results
from pyro_dvae.programs.parameters import discover
from pyro_dvae.random_state import forked
from pyro_dvae.training.fitted import Fitted
from pyro_dvae.training.history import History
from pyro_dvae.training.run_state import read_training
from pyro_dvae.using.saving import WEIGHTS, load_weights


def load(
    folder: str | os.PathLike[str],
    *,
    model: Callable[..., Any] | None = None,
    guide: Callable[..., Any] | None = None,
    which: str = "best",
    device: torch.device | str = "cpu",
    **kwargs: Any,
) -> Fitted:
    """Return a trained model with its methods, in evaluation mode.

    A run folder of ``pyro-dvae train`` is complete, and so is a folder that ``fitted.save`` wrote if model
    and guide consist of this package's parts. For your own programs, give a model and a guide of the same
    shapes, whose weights are replaced.

    :param folder: run folder, or folder that ``fitted.save`` wrote.
    :param model: your own model, for a saved folder.
    :param guide: your own guide, for a saved folder.
    :param which: "best" (by validation) or "last" weights of a run.
    :param device: device of the modules; your own programs stay where they are.
    :param kwargs: keyword arguments of your own model and guide, as :func:`~pyro_dvae.fit` took them.
    :raises InputError: the folder holds neither a run nor a saved model.
    :raises CheckpointError: the weights are damaged, or have other shapes.
    """
    path = user_path("folder", folder)
    checks.known("which", which, ("best", "last"))
    place = checks.device("device", device)
    if (path / WEIGHTS).exists():
        return load_weights(path, model, guide, place, **kwargs)
    if not (path / CONFIG).exists():
        raise InputError(
            f"folder: {path} is not a run or a saved model: it holds neither {CONFIG} nor {WEIGHTS}"
        )
    if model is not None or guide is not None or kwargs:
        raise InputError("model, guide, keywords: a run folder is complete; leave them out")
    with forked():  # weights are drawn before they are read
        dvae, config = load_run(path, which)
    dvae.to(place).eval()
    size = config["data"]["dimension"]
    total = config["data"].get("mean_total", size)  # for means and draws of counts
    row = torch.full((1, size), total / size, device=place)
    trained = discover(dvae.model, dvae.guide, lambda: (dvae.guide(row), dvae.model(row)), data={"data": row})
    _, state = read_training(path / CHECKPOINT, lambda name: False)
    about = {"config": config, "results": read_results(path) or {}}
    history = History(**state["history"])
    return Fitted(dvae.model, dvae.guide, history, {}, {}, trained, (row.cpu(),), about=about)
