"""The base class of all bounds: one vectorised run, three losses, and the bound of each observation."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import torch
from pyro.infer import Trace_ELBO
from pyro.infer.util import torch_item
from pyro.util import warn_if_nan
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from pyro_dvae import checks
from pyro_dvae.errors import InputError
from pyro_dvae.programs.drawing import draw
from pyro_dvae.programs.draws import Draws, Pair
from pyro_dvae.programs.looped import draw_in_turn
from pyro_dvae.programs.observations import leave_out_zeros, require_no_rest
from pyro_dvae.programs.plates import Layout
from pyro_dvae.programs.vectorised import CheckedPair, check_vectorised, naming_draws

_PAIRS_AT_MOST = 8  # remembered as checked


class DenoisingELBO(Trace_ELBO):
    """Base class of all bounds. A subclass turns the draws of one run into a bound and its surrogate.

    A guide may have uncounted sites: corruptions, sampled by :func:`pyro_dvae.corrupt`, and other noise,
    sampled by :func:`pyro_dvae.auxiliary`. They add nothing to the bound, but gradients flow through them.
    Every other site counts as in Pyro. All M × K draws are made in one pass, in plates to the left of the
    user's plates, so model and guide must vectorise as under Pyro's ``vectorize_particles=True``. The first
    run of a model and guide checks this: it compares some draws of the pass with separate runs.

    :param num_corruptions: M, draws of the uncounted sites per observation.
    :param num_particles: K, draws of the latents per corruption.
    :param max_plate_nesting: number of dimensions of the user's plates; by default found by one run.
    :param vectorize_particles: False draws one sample at a time, which is slower but works for any program.
    :param strict_enumeration_warning: as in Pyro.
    :param retain_graph: whether ``loss_and_grads`` keeps the autograd graph.
    :param ignore_jit_warnings: accepted for compatibility with Pyro, but not used.
    :raises InputError: if an argument is invalid.
    """

    # Attributes that only schedule checks, so that compiled steps ignore them.
    apart_from_results: ClassVar[tuple[str, ...]] = ("_checked", "_warned", "_cleared", "_descent")

    def __init__(
        self,
        *,
        num_corruptions: int = 1,
        num_particles: int = 1,
        max_plate_nesting: int | float | None = math.inf,
        vectorize_particles: bool = True,
        strict_enumeration_warning: bool = True,
        retain_graph: bool | None = None,
        ignore_jit_warnings: bool = False,
        max_iarange_nesting: int | None = None,
        jit_options: dict[str, Any] | None = None,
        tail_adaptive_beta: float | None = None,
        kl_weight: object = None,
    ) -> None:
        if kl_weight is not None:
            raise InputError(
                f"kl_weight: only TraceDenoising_ELBO has a KL term to weight, not {type(self).__name__}"
            )
        if max_iarange_nesting is not None:
            raise InputError("max_iarange_nesting: renamed in Pyro; use max_plate_nesting")
        if jit_options is not None:
            raise InputError("jit_options: this bound does not use torch.jit; use pyro_dvae.CompiledSVI")
        if tail_adaptive_beta is not None:
            raise InputError("tail_adaptive_beta: only pyro.infer.TraceTailAdaptive_ELBO takes it")
        self.num_corruptions = checks.count("num_corruptions", num_corruptions)
        super().__init__(
            num_particles=checks.count("num_particles", num_particles),
            max_plate_nesting=_nesting(max_plate_nesting),
            strict_enumeration_warning=checks.flag("strict_enumeration_warning", strict_enumeration_warning),
            retain_graph=checks.optional(checks.flag, "retain_graph", retain_graph),
            ignore_jit_warnings=checks.flag("ignore_jit_warnings", ignore_jit_warnings),
        )
        self.vectorize_particles = checks.flag("vectorize_particles", vectorize_particles)
        self._checked: list[CheckedPair] | None = None  # the latest first
        self._warned: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        # Copies and pickles do not need the programs.
        return self.__dict__ | dict.fromkeys(self.__dict__.keys() & {"_checked", "_cleared", "_descent"})

    @abstractmethod
    def _bound_and_surrogate(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return the bound summed over the data (nats, scaled) and a scalar with its gradient.

        Without gradients, the second value is not used.
        """

    @abstractmethod
    def _per_datum(self, draws: Draws) -> Tensor:
        """Return the bound of each observation [*datum] (nats), without the outer scale."""

    def draws(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Draws:
        """Run guide and model for all draws, in one pass or one draw at a time."""
        pair = Pair(model, guide, args, kwargs)
        with_leaves = self._needs_leaves() and torch.is_grad_enabled()
        looped = not self.vectorize_particles
        layout = Layout(self.num_corruptions, self.num_particles, self.max_plate_nesting, looped)
        if not self._adds_dimensions():
            with _naming_nesting(self.max_plate_nesting):
                return draw(model, guide, args, kwargs, layout, with_leaves)
        layout = replace(layout, max_plate_nesting=self._nesting_of(pair, layout))
        if looped and not self._is_single():
            return draw_in_turn(pair, layout, with_leaves)
        with naming_draws(pair, layout):
            return draw(model, guide, args, kwargs, layout, with_leaves)

    def _nesting_of(self, pair: Pair, layout: Layout) -> int | float:
        """Check a pair when it is due; return the number of dimensions of its plates."""
        known = [each for each in self._checked or () if each.is_of(pair)]
        now = known[0] if known else CheckedPair(pair.model, pair.guide, pair.kind)
        now.runs += get_proxy_mode() is None
        if now.nesting is None or now.is_due():
            now.nesting = check_vectorised(pair, layout)
        others = [each for each in self._checked or () if each is not now]
        self._checked = [now, *others[: _PAIRS_AT_MOST - 1]]
        return now.nesting

    @property
    def plate_nesting(self) -> int | float:
        """Number of dimensions of the user's plates, as given or as found by the last run with draws."""
        found = self._checked[0].nesting if self._checked else None
        return self.max_plate_nesting if found is None else found

    def _needs_leaves(self) -> bool:
        """Whether the gradient goes only through the draws (see :class:`~.leaves.Leaves`)."""
        return False

    def _adds_dimensions(self) -> bool:
        """Whether draws need dimensions left of the user's plates, whose number must then be known."""
        return not self._is_single()

    def _is_single(self) -> bool:
        """Whether each program is run for one draw only, without a loop."""
        return self.num_corruptions * self.num_particles == 1

    @torch.no_grad()
    def per_datum(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return the bound of each observation, [*datum] (nats), without plate scales or gradient."""
        draws = self.draws(model, guide, args, kwargs)
        if not draws.layout.several:
            leave_out_zeros(draws)
        require_no_rest(draws)
        return self._per_datum(draws)

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


@contextmanager
def _naming_nesting(given: int | float) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        if "plate stack overflow" not in str(error):
            raise
        raise InputError(
            f"max_plate_nesting: expected the number of plate dimensions of model and guide, got {given}"
        ) from error


def _nesting(value: int | float | None) -> int | float:
    return math.inf if value is None else checks.nesting("max_plate_nesting", value)
