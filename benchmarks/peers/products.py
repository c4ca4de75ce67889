"""Only the matrix products of a step: forward, and for the gradients of weights and inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext

import torch

from peers.problem import Problem
from pyro_dvae.engine import fast_products


def build(problem: Problem, library: str = "ours", bfloat16: bool = False) -> Callable[[], float]:
    """Return a function that runs the products of an epoch; the first layer's input needs no gradient.

    :param library: "ours" for the choice of compiled steps (MKL on Intel's processors, else oneDNN), or
        "torch" for torch's own.
    """
    torch.manual_seed(problem.seed)
    rows, pixels = problem.data().shape
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    work = []
    encoded = problem.batch * problem.corruptions
    draws = (encoded, encoded * problem.particles)  # rows of the encoder and of the decoder
    for part, layers in enumerate(problem.weights(pixels)):
        for depth, (array, _) in enumerate(layers):
            weight = torch.from_numpy(array).to(dtype)
            x = torch.randn(draws[part], weight.shape[1]).to(dtype)
            y = torch.randn(draws[part], weight.shape[0]).to(dtype)
            work.append((x, weight.T, torch.empty_like(y)))
            work.append((y.T, x, torch.empty_like(weight)))
            if (part, depth) != (0, 0):
                work.append((y, weight, torch.empty_like(x)))

    def epoch() -> float:
        with fast_products() if library == "ours" else nullcontext():
            for _ in range(rows // problem.batch):
                for left, right, out in work:
                    torch.mm(left, right, out=out)
        return math.nan

    return epoch
