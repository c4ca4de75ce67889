"""The step written by hand in torch: eager, with a compiled forward pass, or captured in a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from peers.problem import Problem, Skipped
from peers.torch_parts import corrupted, data_of, epochs, sequential


def build(problem: Problem, compiled: bool = False, captured: bool = False) -> Callable[[], float]:
    """Return a function that runs an epoch: corruption, networks, −log p(x, z) + log q(z | x̃), fused Adam.

    :raises Skipped: the step should be captured, but there is no GPU.
    """
    if captured and not problem.device.startswith("cuda"):
        raise Skipped("CUDA graphs need a GPU")
    torch.manual_seed(problem.seed)
    data = data_of(problem)
    encoder, decoder = (sequential(layers).to(data.device) for layers in problem.weights(data.shape[1]))
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=problem.learning_rate, fused=True, capturable=captured)

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

    if captured:
        step = replayed(step, data[: problem.batch], parameters, optimizer)
    return epochs(data, problem, step)


def replayed(
    step: Callable[[Tensor], Tensor],
    example: Tensor,
    parameters: list[Tensor],
    optimizer: torch.optim.Optimizer,
) -> Callable[[Tensor], Tensor]:
    """Return ``step`` as one launch: a CUDA graph, captured after three runs as torch requires.

    These runs train, so parameters and optimizer are set back, in place: the graph has only addresses. The
    result keeps ``step`` alive, and thus their memory.
    """
    x = example.clone()
    before = [parameter.detach().clone() for parameter in parameters]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step(x)
    with torch.no_grad():
        for parameter, value in zip(parameters, before, strict=True):
            parameter.copy_(value)
        for state in optimizer.state.values():
            for value in state.values():
                value.zero_()

    def replay(batch: Tensor, _step: object = step) -> Tensor:
        x.copy_(batch)
        graph.replay()
        return loss.clone()

    return replay
