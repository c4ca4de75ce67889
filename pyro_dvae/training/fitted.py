"""What comes of a training: model and guide with their history and their best weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from pyro_dvae.programs.parameters import Trained
from pyro_dvae.registration import make_picklable
from pyro_dvae.training.history import History


@dataclass(frozen=True)
class Fitted:
    """A model and a guide that :func:`fit` or :func:`fit_many` has trained.

    :param model: as given; modules hold their last parameters.
    :param guide: as given.
    :param history: its epochs.
    :param best: parameters and buffers of its best epoch by validation, by name (``parameters/NAME``), or {}.
    :param store: the state of its param store, for ``pyro.get_param_store().set_state``.
    :param trained: its parameters and modules, live.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]
    history: History
    best: dict[str, Tensor]
    store: dict[str, Any]
    trained: Trained = field(repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes, with parameters that can be pickled."""
        make_picklable(self.trained.parameters.values())
        return vars(self)

    def __str__(self) -> str:
        """Return what was trained, and the history as a table."""
        count = sum(each.numel() for each in self.trained.parameters.values())
        best = "" if self.history.best_epoch is None else f", best epoch {self.history.best_epoch}"
        return f"{count:,} parameters, {len(self.history.epochs)} epochs{best}\n{self.history}"

    def load_best(self) -> None:
        """Copy the best epoch's parameters and buffers into the live ones; without validation do nothing."""
        if self.best:
            self.trained.assign(self.best)
