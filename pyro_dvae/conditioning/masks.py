"""Cells that are missing because of their values: a model of the mask given the whole row."""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.distributions as tdist
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_dvae.errors import InputError
from pyro_dvae.programs.plates import size_at
from pyro_dvae.registration import register
from pyro_dvae.sites import Auxiliary

NOISE, MASK = "missing_noise", "missing_mask"
MaskModel = Callable[[Tensor], Tensor]


def observe_mask(mask_model: MaskModel, fn: Any, value: Tensor, seen: Tensor) -> None:
    """Observe the mask of ``value`` given the whole row (not-MIWAE, Ipsen et al. 2021)::

        u ~ N(0, I),  x_missing = F⁻¹(Φ(u)) with F the likelihood's distribution function,  s ~ p(s | x)

    The noise u is an ordinary latent: a guide proposes it, and refinement adapts its proposal.
    """
    if isinstance(mask_model, nn.Module):
        register("mask_model", mask_model)
    logits = mask_model(completed(fn, value, seen))
    if logits.shape[-seen.dim() :] != seen.shape:
        raise InputError(
            f"mask_model: expected logits of the rows' shape {tuple(seen.shape)}, got {tuple(logits.shape)}"
        )
    whole = dist.Bernoulli(logits=logits).to_event(fn.event_dim)
    pyro.sample(MASK, whole, obs=seen.to(logits))


def completed(fn: Any, value: Tensor, seen: Tensor) -> Tensor:
    """Return ``value`` with its gaps filled from the noise site."""
    noise = pyro.sample(NOISE, _noise(value, fn.event_dim).expand(fn.batch_shape))
    return torch.where(seen, value, quantile(fn, noise))


class WithNoise(Messenger):
    """Makes a guide propose the noise of :func:`observe_mask` at its first latent of the rows.

    :param x: the rows [N, ...].
    """

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x, self.done = x, False

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        plates = [size_at(msg, frame) for frame in msg["cond_indep_stack"] if frame.vectorized]
        local = len(self.x) in plates and not msg["is_observed"] and not isinstance(msg["fn"], Auxiliary)
        if local and not self.done:
            self.done = True
            pyro.sample(NOISE, _noise(self.x, self.x.dim() - 1).expand(msg["fn"].batch_shape))


@singledispatch
def quantile(fn: Any, noise: Tensor) -> Tensor:
    """Return F⁻¹(Φ(noise)) of independent cells, differentiable."""
    try:
        found: Tensor = fn.icdf(torch.special.ndtr(noise).clamp(1e-7, 1 - 1e-7))
    except NotImplementedError:
        raise InputError(
            f"mask_model: the cells of a row under {type(fn).__name__} have no quantile function, which is "
            "needed to draw missing cells; use a continuous likelihood such as Normal with .to_event(1)"
        ) from None
    return found


@quantile.register(tdist.Independent)
def _(fn: Any, noise: Tensor) -> Tensor:
    return quantile(fn.base_dist, noise)


@quantile.register(tdist.Normal)
def _(fn: Any, noise: Tensor) -> Tensor:
    return fn.loc + fn.scale * noise


def _noise(x: Tensor, event_dim: int) -> Any:
    return dist.Normal(x.new_zeros(x.shape[x.dim() - event_dim :]), 1.0).to_event(event_dim)
