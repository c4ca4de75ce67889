"""A network whose weights are arguments: the trainable parameters of any module taken out of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.func import functional_call, vmap

from pyro_dvae.bayes.rebuilding import Form, dismantled, without_validation
from pyro_dvae.errors import InputError
from pyro_dvae.registration import Module


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trainable parameters of ``module`` by name, each once."""
    return {name: value for name, value in module.named_parameters() if value.requires_grad}


class Skeleton(Module):
    """A decoder without its weights, called with values of them: one set, or one set for each draw.

    The module is copied; frozen parameters and buffers stay in the copy. The weights of several draws are
    applied in one vectorised pass (``torch.func.vmap``), for which the distribution that the decoder returns
    must be one that its parameters make, such as Bernoulli or Normal.

    :param decoder: module from z [..., d] to a distribution of x of batch shape [...].
    :raises InputError: it is no module, or has nothing to learn.
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
        # A weight that two layers share has two places.
        self._places = {
            place: named[id(value)]
            for place, value in self.decoder.named_parameters(remove_duplicate=False)
            if id(value) in named
        }
        for place in self._places:
            owner, _, leaf = place.rpartition(".")
            self.decoder.get_submodule(owner)._parameters[leaf] = None

    def forward(self, weights: Mapping[str, Tensor], z: Tensor) -> TorchDistribution:
        """Return p(x | z, w), of batch shape [*draws, N].

        :param weights: each [*draws, 1, *shape], where 1 stands for the data, or [*shape].
        :param z: latents [*draws, N, d], or fewer leading dimensions: those that are missing are shared.
        """
        draws = self._draws(weights)
        sets = {name: self._flat(name, weights[name], draws) for name in self.shapes}
        if draws.numel() == 1:
            likelihood = self._call({name: value[0] for name, value in sets.items()}, z)
            missing = len(draws) + 2 - z.dim()  # of draws of a single set
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
            owner, _, leaf = place.rpartition(".")
            decoder.get_submodule(owner)._parameters[leaf] = made[name]
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
