"""``fit``: the loop of a :class:`~pyro_dvae.training.trainer.Trainer` in one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyro.infer import ELBO

from pyro_dvae.training.fitted import Fitted
from pyro_dvae.training.trainer import Trainer


def fit(
    model: Callable[..., Any], guide: Callable[..., Any], data: Any, *args: Any, loss: ELBO, **options: Any
) -> Fitted:
    """Train to the last epoch; return the trained model with the weights of the best epoch by validation.

    ``args`` and ``options`` are those of :class:`Trainer`. Without validation, the last weights are returned.
    """
    trainer = Trainer(model, guide, data, *args, loss=loss, **options)
    for epoch in trainer:
        for batch in epoch:
            trainer.step(batch)
    trainer.load_best()
    return trainer.fitted()
