"""Distributions as tensors and back, so that ``torch.func.vmap`` can return them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_dvae.errors import InputError


@dataclass(frozen=True)
class Form:
    """What a distribution is beside its parameters.

    :param kind: its class, called with the parameters by name.
    :param names: of the parameters.
    :param declared: by how many dimensions ``to_event`` was applied to it, each time.
    :param validate: its own choice on validation; None for Pyro's setting.
    :param batch_shape: of one draw.
    :param event_shape: of one draw.
    """

    kind: type
    names: tuple[str, ...]
    declared: tuple[int, ...]
    validate: bool | None
    batch_shape: torch.Size
    event_shape: torch.Size

    def rebuilt(self, tensors: Sequence[Tensor], draws: torch.Size) -> TorchDistribution:
        """Return the distribution of parameters with further dimensions ``draws`` on the left."""
        try:
            made = self.kind(**dict(zip(self.names, tensors, strict=True)), validate_args=self.validate)
            for count in self.declared:
                made = dist.Independent(made, count, validate_args=self.validate)
        except TypeError as error:
            raise self._refused() from error
        if made.batch_shape != draws + self.batch_shape or made.event_shape != self.event_shape:
            raise self._refused()
        return made

    def _refused(self) -> InputError:
        return _refusal(self.kind)


def _refusal(kind: type) -> InputError:
    return InputError(
        "decoder: several draws of its weights at once need a distribution that is given by its parameters "
        f"alone, as Bernoulli or Normal, got {kind.__name__}; use num_particles=1 and num_corruptions=1"
    )


def dismantled(distribution: Any) -> tuple[Form, tuple[Tensor, ...]]:
    """Return what a distribution is and the tensors of its parameters."""
    batch_shape, event_shape = distribution.batch_shape, distribution.event_shape
    declared: list[int] = []
    while isinstance(distribution, torch.distributions.Independent):
        declared.insert(0, distribution.reinterpreted_batch_ndims)
        distribution = distribution.base_dist
    held = vars(distribution)
    names = [name for name in type(distribution).arg_constraints if isinstance(held.get(name), Tensor)]
    if "probs" in names and "logits" in names:  # one of them was computed from the other
        names.remove("probs" if held.get("_param") is held["logits"] else "logits")
    if not names:
        raise _refusal(type(distribution))
    validate = held.get("_validate_args")
    form = Form(type(distribution), tuple(names), tuple(declared), validate, batch_shape, event_shape)
    return form, tuple(held[name] for name in names)


@contextmanager
def without_validation() -> Iterator[None]:
    """Leave out the checks of values, which ``vmap`` cannot do; the rebuilt distribution does them."""
    with pyro.validation_enabled(False):
        yield
