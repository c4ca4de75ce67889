"""The observed site of the ready-made models."""

from __future__ import annotations

import pyro
from pyro.distributions import TorchDistribution
from torch import Tensor


def observe(fn: TorchDistribution, x: Tensor) -> None:
    """Observe rows ``x`` [N, ...] at the site ``x``.

    Images [N, C, H, W] are flattened if the events of ``fn`` are flat, and flat rows are shaped if they are
    images. Any other difference is left for Pyro to refuse.
    """
    event = fn.event_shape
    if x.shape[1:] != event and x.shape[1:].numel() == event.numel() and 1 in (len(event), x.dim() - 1):
        x = x.reshape(x.shape[:1] + event)
    pyro.sample("x", fn, obs=x)
