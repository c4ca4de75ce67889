"""The step written by hand in torch: eager, or with a compiled forward pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from peers.problem import Problem
from peers.torch_parts import corrupted, epochs, sequential


def build(problem: Problem, compiled: bool = False) -> Callable[[], float]:
    """Return the epoch: corruption, networks, −log p(x, z) + log q(z | x̃), fused Adam."""
    torch.manual_seed(problem.seed)
    data = torch.from_numpy(problem.data())
    encoder, decoder = map(sequential, problem.weights(data.shape[1]))
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=problem.learning_rate, fused=True)

    def loss_of(x: Tensor) -> Tensor:
        loc, log_variance = encoder(corrupted(x, problem.rate)).chunk(2, -1)
        noise = torch.randn_like(loc)
        z = loc + (0.5 * log_variance).exp() * noise
        reconstruction = binary_cross_entropy_with_logits(decoder(z), x, reduction="sum")
        return reconstruction + 0.5 * (z.square() - noise.square() - log_variance).sum()

    forward = torch.compile(loss_of) if compiled else loss_of

    def step(x: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = forward(x)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return epochs(data, problem, step)
