"""Refits a guide on rows drawn from its model, so that it over-fits the training rows less."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO, Trace_ELBO
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.calling import calling
from pyro_dvae.errors import InputError
from pyro_dvae.programs.observations import observed_name
from pyro_dvae.programs.parameters import discover, float_type
from pyro_dvae.rows import Data
from pyro_dvae.training import Fitted, Trainer, fit

Program = Callable[..., Any]


class HalfAsleep(Trace_ELBO):
    """A loss that replaces a share of the rows with draws of the model, only in training.

    :param loss: the loss of a batch.
    :param share: share of the rows, in [0, 1].
    :param data_site: the observed site that draws the first argument; by default the only one, or ``x``.
    """

    def __init__(self, loss: ELBO, share: float = 0.5, data_site: str | None = None) -> None:
        super().__init__()
        self.of_rows = checks.elbo("loss", loss)
        self.share = checks.number("share", share, 0.0, 1.0)
        self.data_site = data_site

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Return the loss of unchanged rows, for validation."""
        value: float = self.of_rows.loss(model, guide, *args, **kwargs)
        return value

    def differentiable_loss(self, model: Program, guide: Program, x: Tensor, *args: Any, **kw: Any) -> Tensor:
        """Return the loss with a share of the rows replaced."""
        found: Tensor = self.of_rows.differentiable_loss(
            model, guide, self.mixed(model, x, *args, **kw), *args, **kw
        )
        return found

    def loss_and_grads(self, model: Program, guide: Program, x: Tensor, *args: Any, **kwargs: Any) -> float:
        """Return the loss with a share of the rows replaced, and add its gradient."""
        return self.of_rows.loss_and_grads(
            model, guide, self.mixed(model, x, *args, **kwargs), *args, **kwargs
        )

    @torch.no_grad()
    def mixed(self, model: Program, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the rows [N, ...], each with probability ``share`` replaced by a draw x ~ p(x)."""
        with poutine.block():
            sites = poutine.trace(poutine.uncondition(model)).get_trace(x, *args, **kwargs).nodes
        own: Tensor = sites[observed_name(sites, self.data_site)]["value"]
        if own.numel() != x.numel():
            raise InputError(f"data_site: expected draws of {tuple(x.shape)}, got {tuple(own.shape)}")
        drawn = torch.rand(len(x), device=x.device) < self.share
        return torch.where(drawn.reshape(-1, *[1] * (x.dim() - 1)), own.reshape(x.shape), x)


def model_leaves(model: Program, *rows: Any, **kwargs: Any) -> list[Tensor]:
    """Return the registered leaves on which the density of the model depends."""
    density: list[Tensor] = []

    def run() -> None:
        density.append(poutine.trace(model).get_trace(*rows, **kwargs).log_prob_sum())

    leaves = list(discover(model, None, run, required=False).parameters.values())
    if not leaves or not density[0].requires_grad:
        return []
    slopes = torch.autograd.grad(density[0], leaves, allow_unused=True)
    return [leaf for leaf, slope in zip(leaves, slopes, strict=True) if slope is not None]


def refit_guide(
    model: Program,
    guide: Program,
    data: Any,
    *args: Any,
    loss: ELBO,
    share: float = 0.5,
    data_site: str | None = None,
    **options: Any,
) -> Fitted:
    """Train the guide of a trained model further, on equal shares of training rows and draws of the model.

    On few training rows, an encoder over-fits long before the decoder does. The model can draw any number of
    further rows, from which the guide learns the model's posterior; log p(x) does not change. This is
    "reverse half-asleep" inference (Zhang, Hayes and Barber 2022).

    :param model: Pyro model of a batch, trained; its parameters do not change.
    :param guide: Pyro guide of a batch.
    :param data: training rows [N, ...], from any source.
    :param args: further data of model and guide, N rows each.
    :param loss: the bound, as in :func:`~pyro_dvae.fit`; validation uses the given rows.
    :param share: share of rows drawn from the model; 1 uses only the number of training rows.
    :param data_site: the observed site that draws ``data``; by default the only one, or ``x``.
    :param options: those of :class:`~pyro_dvae.training.Trainer`, except ``freeze``.
    :raises InputError: nothing is left to train, or the site does not draw rows like the data.
    """
    checks.pair(model, guide)
    if "freeze" in options:
        raise InputError("freeze: refitting keeps the model fixed anyway; leave freeze out")
    rows = Data.opened("data", (data, *args), {}, float_type(model, guide))[:2].rows
    constants = {
        name: each for name, each in options.items() if name not in inspect.signature(Trainer).parameters
    }
    with calling("model, data"):
        leaves = model_leaves(model, *rows, **constants)
    return fit(model, guide, data, *args, loss=HalfAsleep(loss, share, data_site), freeze=leaves, **options)
