"""Early stopping."""

from __future__ import annotations

from pyro_dvae import checks
from pyro_dvae.errors import InputError
from pyro_dvae.training.callbacks.base import Callback, Running


class EarlyStopping(Callback):
    """End a run whose validation bound has stopped rising; until then the run is unchanged.

    The best weights are kept in any case. The decision depends only on the history, so a run that is resumed
    with a larger patience continues. (With :func:`fit_many`, models that stopped before the others do not.)

    :param patience: epochs without a better validation bound. A run ends only after a validation, so with
        rare ones (``validate_every``) it may take longer.
    :param min_rise: smallest rise over the best bound so far that counts as better (nats per observation).
    """

    decides_again = True

    def __init__(self, patience: int = 20, min_rise: float = 0.0) -> None:
        self.patience = checks.count("patience", patience)
        self.min_rise = checks.number("min_rise", min_rise, 0.0)

    def start(self, run: Running) -> None:
        if not run.validates:
            raise InputError(
                "callbacks: EarlyStopping needs a validation bound; give validation= or evaluate="
            )
        self.epoch(run)

    def epoch(self, run: Running) -> None:
        best, since = None, 0
        for epoch, bound in zip(run.history.epochs, run.history.validation_bound, strict=True):
            if bound is not None and (best is None or bound > best + self.min_rise):
                best, since = bound, epoch
        validated = run.history.validation_bound[-1:] not in ([], [None])
        if best is not None and validated and run.epoch - since >= self.patience:
            run.stop(f"no better validation bound since epoch {since}, {best:.3f} nats per observation")
