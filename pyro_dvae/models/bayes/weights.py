"""A Gaussian over the weights of a network, and the network as a function of its weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import softplus

from pyro_dvae import checks
from pyro_dvae.errors import InputError
from pyro_dvae.internals import given_logits, place_parameter, validates
from pyro_dvae.registration import Module


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trainable parameters of ``module`` by name, each once."""
    return {name: value for name, value in module.named_parameters() if value.requires_grad}


class Weightless(Module):
    """A decoder as a function of its weights: one set, or one set for each draw.

    The module is copied; frozen parameters and buffers stay in the copy. The weights of several draws are
    applied in one vectorised pass (``torch.func.vmap``), so the decoder must return a distribution that is
    determined by its parameters, such as Bernoulli or Normal.

    :param decoder: module from z [..., d] to a distribution of x of batch shape [...].
    :raises InputError: it is not a module, or has no trainable parameters.
    """

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        if not isinstance(decoder, nn.Module):
            raise InputError(f"decoder: expected a torch.nn.Module, got {type(decoder).__name__}")
        self.decoder = copy.deepcopy(decoder)
        weights = trainable(self.decoder)
        if not weights:
            raise InputError("decoder: expected trainable parameters, got none")
        self.shapes = {name: value.shape for name, value in weights.items()}
        named = {id(value): name for name, value in weights.items()}
        # A weight that two layers share occurs twice.
        self._places = {
            place: named[id(value)]
            for place, value in self.decoder.named_parameters(remove_duplicate=False)
            if id(value) in named
        }
        for place in self._places:
            place_parameter(self.decoder, place, None)

    def forward(self, weights: Mapping[str, Tensor], z: Tensor) -> TorchDistribution:
        """Return p(x | z, w), with batch shape [*draws, N].

        :param weights: each [*draws, 1, *shape], where 1 is the data dimension, or [*shape].
        :param z: latents [*draws, N, d]; draws share latents along missing leading dimensions.
        """
        draws = self._draws(weights)
        sets = {name: self._flat(name, weights[name], draws) for name in self.shapes}
        if draws.numel() == 1:
            likelihood = self._call({name: value[0] for name, value in sets.items()}, z)
            missing = len(draws) + 2 - z.dim()  # dimensions of draws
            return likelihood.expand(draws[:missing] + likelihood.batch_shape) if missing > 0 else likelihood
        own = z.expand(draws + z.shape[-2:])
        forms: list[Form] = []

        def one(drawn: dict[str, Tensor], latents: Tensor) -> tuple[Tensor, ...]:
            form, tensors = dismantled(self._call(drawn, latents))
            forms.append(form)
            return tensors

        with without_validation():
            tensors = vmap(one, randomness="different")(sets, own.reshape(-1, *own.shape[-2:]))
        return forms[-1].rebuilt([value.reshape(draws + value.shape[1:]) for value in tensors], draws)

    def with_weights(self, weights: Mapping[str, Tensor]) -> nn.Module:
        """Return an ordinary decoder with copies of these weights, each [*shape], as its parameters."""
        decoder = copy.deepcopy(self.decoder)
        made = {name: nn.Parameter(weights[name].detach().clone()) for name in self.shapes}
        for place, name in self._places.items():
            place_parameter(decoder, place, made[name])
        return decoder

    def _call(self, weights: Mapping[str, Tensor], z: Tensor) -> TorchDistribution:
        placed = {place: weights[name] for place, name in self._places.items()}
        return functional_call(self.decoder, placed, (z,), tie_weights=False)

    def _draws(self, weights: Mapping[str, Tensor]) -> torch.Size:
        """Return the common shape of the draws of all weights."""
        batches = []
        for name, shape in self.shapes.items():
            batch = weights[name].shape[: weights[name].dim() - len(shape)]
            if batch and batch[-1] != 1:
                raise InputError(
                    f"weights: expected {name!r} of shape [*draws, 1, {', '.join(map(str, shape))}], got "
                    f"{tuple(weights[name].shape)}: weights are drawn outside the data plate"
                )
            batches.append(batch[:-1])
        return torch.broadcast_shapes(*batches)

    def _flat(self, name: str, value: Tensor, draws: torch.Size) -> Tensor:
        """Return a weight of all draws, [draws, *shape]."""
        shape = self.shapes[name]
        batch = value.shape[: value.dim() - len(shape)][:-1]
        return value.reshape(batch + shape).expand(draws + shape).reshape(-1, *shape)


@dataclass(frozen=True)
class Form:
    """The structure of a distribution, without its parameters.

    :param kind: its class, called with the parameters by name.
    :param names: names of the parameters.
    :param declared: number of dimensions of each call of ``to_event``.
    :param validate: its own setting of validation; None for Pyro's setting.
    :param batch_shape: batch shape of one draw.
    :param event_shape: event shape of one draw.
    """

    kind: type
    names: tuple[str, ...]
    declared: tuple[int, ...]
    validate: bool | None
    batch_shape: torch.Size
    event_shape: torch.Size

    def rebuilt(self, tensors: Sequence[Tensor], draws: torch.Size) -> TorchDistribution:
        """Return the distribution for parameters with further dimensions ``draws`` on the left."""
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
    """Return the structure of a distribution and the tensors of its parameters."""
    batch_shape, event_shape = distribution.batch_shape, distribution.event_shape
    declared: list[int] = []
    while isinstance(distribution, torch.distributions.Independent):
        declared.insert(0, distribution.reinterpreted_batch_ndims)
        distribution = distribution.base_dist
    held = vars(distribution)
    names = [name for name in type(distribution).arg_constraints if isinstance(held.get(name), Tensor)]
    if "probs" in names and "logits" in names:  # one of them was computed from the other
        names.remove("probs" if given_logits(distribution) else "logits")
    if not names:
        raise _refusal(type(distribution))
    told = (tuple(names), tuple(declared), validates(distribution))
    form = Form(type(distribution), *told, batch_shape, event_shape)
    return form, tuple(held[name] for name in names)


@contextmanager
def without_validation() -> Iterator[None]:
    """Skip checks of values, which ``vmap`` does not support; the rebuilt distribution makes them."""
    with pyro.validation_enabled(False):
        yield


SITE = "decoder"  # sites are named decoder.NAME, like the parameters of a decoder


class GaussianWeights(Module):
    """``w ~ N(loc, diag scale²)`` with ``scale = softplus(raw)``, for each trainable parameter of a module.

    :param start: the module whose current parameters are the means.
    :param initial_scale: the initial scale of all weights.
    """

    def __init__(self, start: nn.Module, initial_scale: float) -> None:
        super().__init__()
        scale = checks.positive_single("initial_scale", initial_scale)
        raw = scale + math.log(-math.expm1(-scale))
        values = {name: value.detach().clone() for name, value in trainable(start).items()}
        if not values:
            raise InputError("start: expected a module with trainable parameters, got none")
        self.names = list(values)
        # Module names may not contain dots.
        self.loc = nn.ParameterDict({_key(name): nn.Parameter(value) for name, value in values.items()})
        self.raw = nn.ParameterDict(
            {_key(name): nn.Parameter(torch.full_like(value, raw)) for name, value in values.items()}
        )

    def means(self) -> dict[str, Tensor]:
        return {name: self.loc[_key(name)] for name in self.names}

    def scales(self) -> dict[str, Tensor]:
        """Return the standard deviations by the names of the weights."""
        return {name: softplus(self.raw[_key(name)]) for name in self.names}

    def distributions(self) -> dict[str, dist.Independent]:
        """Return q of each weight, with all dimensions in the event."""
        scales = self.scales()
        return {
            name: dist.Normal(loc, scales[name]).to_event(loc.dim()) for name, loc in self.means().items()
        }

    def sample(self) -> dict[str, Tensor]:
        """Sample the weights as Pyro sites."""
        return {name: pyro.sample(f"{SITE}.{name}", q) for name, q in self.distributions().items()}

    def draw(self, draws: torch.Size) -> dict[str, Tensor]:
        """Draw weights without Pyro sites, each [*draws, 1, *shape]."""
        return {name: q.rsample((*draws, 1)) for name, q in self.distributions().items()}


def _key(name: str) -> str:
    return name.replace(".", "/")
