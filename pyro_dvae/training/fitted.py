"""The result of training: model and guide with their history and best weights."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyro
from torch import Tensor

from pyro_dvae.programs.parameters import Trained
from pyro_dvae.registration import make_picklable
from pyro_dvae.training.history import History

_METHODS_MODULE = "pyro_dvae.using"  # above this module, hence imported late


@dataclass(frozen=True)
class Fitted:
    """A model and a guide that :func:`fit` or :func:`fit_many` has trained.

    It has the functions of :mod:`pyro_dvae.using` as methods: ``encode``, ``decode``, ``reconstruct``,
    ``denoise``, ``sample``, ``interpolate``, ``log_likelihood``, ``condition``, ``impute``, ``predict``,
    ``sample_given``, ``anomaly_score``, ``inference_gaps``, ``diagnose``, ``save``.

    :param model: the given model; modules hold their last parameters.
    :param guide: the given guide.
    :param history: the history of the epochs.
    :param best: parameters and buffers of the best epoch by validation, by name (``parameters/NAME``), or {}.
    :param store: state of the param store, for ``pyro.get_param_store().set_state``.
    :param trained: the live parameters and modules.
    :param rows: one row of each data argument of model and guide.
    :param constants: keyword arguments of model and guide.
    :param about: further JSON-able information: names of columns; configuration and results of a run folder.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]
    history: History
    best: dict[str, Tensor]
    store: dict[str, Any]
    trained: Trained = field(repr=False)
    rows: tuple[Tensor, ...] = field(default=(), repr=False)
    constants: Mapping[str, Any] = field(default_factory=dict, repr=False)
    about: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __getattr__(self, name: str) -> Any:
        """Return a method of :mod:`pyro_dvae.using`."""
        if not name.startswith("_"):
            methods = importlib.import_module(_METHODS_MODULE).METHODS
            if name in methods:
                return partial(methods[name], self)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        """Return the attributes and the methods of :mod:`pyro_dvae.using`."""
        return [*super().__dir__(), *importlib.import_module(_METHODS_MODULE).METHODS]

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Run the body on these parameters, in evaluation mode; Pyro's param store is restored afterwards."""
        with pyro.get_param_store().scope(self.store or None), self.trained.evaluating():
            yield

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes, with parameters that can be pickled."""
        make_picklable(self.trained.parameters.values())
        return vars(self)

    def __str__(self) -> str:
        """Return the number of parameters, and the history as a table."""
        count = sum(each.numel() for each in self.trained.parameters.values())
        best = "" if self.history.best_epoch is None else f", best epoch {self.history.best_epoch}"
        return f"{count:,} parameters, {len(self.history.epochs)} epochs{best}\n{self.history}"

    def load_best(self) -> None:
        """Copy the best epoch's parameters and buffers into the live ones; without validation do nothing."""
        if self.best:
            self.trained.assign(self.best)
