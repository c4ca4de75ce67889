"""Images that a model and a guide make: reconstructions and samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_dvae.plots import manifold_codes

Program = Callable[..., Any]


def _means(model: Program, x: Tensor) -> Tensor:
    """Run the model and return the mean of its data site ``x``, shape like ``x``."""
    trace = poutine.trace(model).get_trace(x)
    mean: Tensor = trace.nodes["x"]["fn"].mean
    return mean


@torch.no_grad()
def prior_means(model: Program, like: Tensor, count: int) -> Tensor:
    """Return the data means [count, D] of latents drawn from the prior."""
    return _means(poutine.uncondition(model), like.new_zeros(count, like.shape[-1]))


@torch.no_grad()
def reconstructions(model: Program, guide: Program, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the corrupted inputs and the data means of one latent drawn for each, both [N, D]."""
    guide_trace = poutine.trace(guide).get_trace(x)
    x_tilde: Tensor = guide_trace.nodes["x_tilde"]["value"]
    return x_tilde, _means(poutine.replay(model, trace=guide_trace), x)


@torch.no_grad()
def manifold_means(model: Program, like: Tensor, rows: int, columns: int) -> Tensor:
    """Return the data means [rows·columns, D] over the 2-D latent space, by the inverse Gaussian CDF."""
    return decoded(model, like, manifold_codes(rows, columns).to(like))


@torch.no_grad()
def decoded(model: Program, like: Tensor, codes: Tensor) -> Tensor:
    """Return the data means [N, D] of the latents ``codes`` [N, d]."""
    conditioned = poutine.condition(poutine.uncondition(model), data={"z": codes})
    return _means(conditioned, like.new_zeros(len(codes), like.shape[-1]))
