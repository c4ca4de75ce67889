"""What every bound shares: one vectorised run, the three losses, the per-datum bound."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from pyro.infer import Trace_ELBO
from pyro.infer.util import torch_item
from pyro.util import warn_if_nan
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.bounds.draws import Draws, Layout, draw
from pyro_dvae.errors import InputError
from pyro_dvae.random_state import forked


class DenoisingELBO(Trace_ELBO):
    """Base of the bounds: a subclass turns the draws of one run into a bound and its surrogate.

    A guide may have auxiliary sites (a corruption sampled by :func:`pyro_dvae.corrupt`, or any site marked
    ``infer={"is_auxiliary": True}``); they are sampled and followed by the gradient but never counted.
    All M × K draws are made in one pass over plates left of the user's own, so model and guide must
    vectorise as under Pyro's ``vectorize_particles=True``.

    :param num_corruptions: M, draws of the auxiliary sites per datum.
    :param num_particles: K, draws of the latents per corruption.
    :param max_plate_nesting: how many dimensions the user's plates take; found by one run where omitted.
    :param strict_enumeration_warning: as in Pyro.
    :param retain_graph: whether ``loss_and_grads`` keeps the graph.
    """

    def __init__(
        self,
        *,
        num_corruptions: int = 1,
        num_particles: int = 1,
        max_plate_nesting: int | float = float("inf"),
        vectorize_particles: bool = True,
        strict_enumeration_warning: bool = True,
        retain_graph: bool | None = None,
    ) -> None:
        if not vectorize_particles:
            raise InputError("vectorize_particles: the denoising bounds always draw in one pass, got False")
        self.num_corruptions = checks.count("num_corruptions", num_corruptions)
        super().__init__(
            num_particles=checks.count("num_particles", num_particles),
            max_plate_nesting=max_plate_nesting,
            strict_enumeration_warning=strict_enumeration_warning,
            retain_graph=retain_graph,
        )
        self.vectorize_particles = True

    @abstractmethod
    def _bound_and_surrogate(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return the bound summed over the data (nats, scaled) and a scalar that has its gradient.

        Where gradients are off the second is not used.
        """

    @abstractmethod
    def _per_datum(self, draws: Draws) -> Tensor:
        """Return the bound of each datum [*datum] (nats), without the outer scale."""

    def draws(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Draws:
        """Run guide and model once over all draws."""
        if self._adds_dimensions() and self.max_plate_nesting == float("inf"):
            # The extra run must not shift the user's random stream, nor a resumed one against its first.
            with forked():
                self._guess_plates(model, guide, args, kwargs)
        layout = Layout(self.num_corruptions, self.num_particles, self.max_plate_nesting)
        return draw(model, guide, args, kwargs, layout)

    def _adds_dimensions(self) -> bool:
        """Whether draws take dimensions left of the user's plates, whose number must then be known."""
        return self.num_corruptions * self.num_particles > 1

    def _guess_plates(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        # Pyro adds a dimension of its own for vectorised particles; ours are added per run.
        self.vectorize_particles = False
        try:
            self._guess_max_plate_nesting(model, guide, args, kwargs)
        finally:
            self.vectorize_particles = True

    @torch.no_grad()
    def per_datum(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return the bound of each datum, shape [*datum] (nats), without plate scales and gradient."""
        return self._per_datum(self.draws(model, guide, args, kwargs))

    @torch.no_grad()
    def loss(self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any) -> float:
        """Return the negative bound summed over the data plate (nats)."""
        loss = -float(self._bound_and_surrogate(self.draws(model, guide, args, kwargs))[0])
        warn_if_nan(loss, "loss")
        return loss

    def differentiable_loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return the negative bound as a tensor whose gradient estimates that of the bound."""
        draws = self.draws(model, guide, args, kwargs)
        bound, surrogate = self._bound_and_surrogate(draws)
        return -(bound.detach() + (surrogate - surrogate.detach()))

    def loss_and_grads(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> float:
        """Return the negative bound and add its gradient to the parameters' ``.grad``."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward(retain_graph=self.retain_graph)
        value: float = torch_item(loss.detach())
        warn_if_nan(value, "loss")
        return value
