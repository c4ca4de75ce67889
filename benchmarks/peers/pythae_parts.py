"""pythae's VAE with a given encoder and decoder, and its training step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from peers.problem import Problem, Skipped
from peers.torch_parts import corrupted, epochs, sequential

try:
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
except ImportError as error:
    raise Skipped(f"{error.name} is not installed: pip install 'pyro-dvae[bench]'") from error


class Encoder(BaseEncoder):
    """Maps x̃ to mean and log-variance; ``corrupt`` precedes it in training."""

    def __init__(self, network: nn.Module, corrupt: Callable[[Tensor], Tensor] | None = None):
        super().__init__()
        self.network, self.corrupt = network, corrupt

    def forward(self, x: Tensor) -> ModelOutput:
        if self.training and self.corrupt is not None:
            x = self.corrupt(x)
        loc, log_variance = self.network(x).chunk(2, -1)
        return ModelOutput(embedding=loc, log_covariance=log_variance)


class Decoder(BaseDecoder):
    """Maps z to the probabilities of the pixels."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.network(z).sigmoid())


def vae(encoder: nn.Module, decoder: nn.Module, pixels: int, latents: int) -> VAE:
    """Return pythae's VAE; its loss is the mean negative bound with the closed-form KL."""
    config = VAEConfig(input_dim=(pixels,), latent_dim=latents, reconstruction_loss="bce")
    return VAE(config, encoder, decoder)


def build(problem: Problem) -> Callable[[], float]:
    """Return a function that runs an epoch of pythae's forward pass and trainer calls, without DataLoader."""
    torch.manual_seed(problem.seed)
    data = torch.from_numpy(problem.data())
    encoder, decoder = map(sequential, problem.weights(data.shape[1]))
    noisy = Encoder(encoder, lambda x: corrupted(x, problem.rate))
    model = vae(noisy, Decoder(decoder), data.shape[1], problem.latents).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=problem.learning_rate)

    def step(x: Tensor) -> Tensor:
        loss = model({"data": x}).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach() * len(x)

    return epochs(data, problem, step)
