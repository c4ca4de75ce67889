"""A VAE on MNIST after Pyro's published VAE example: torchvision, DataLoader, SVI.

As in the example, images are decoded and collated one by one in one loader process, with ``Trace_ELBO``,
``pyro.optim.Adam``, and held-out data every five epochs. The network is the paper's.
"""

from __future__ import annotations

from collections.abc import Iterable

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from torch import Tensor, nn
from torch.utils.data import DataLoader

from peers.mnist import PIXELS, arguments, network, parts, say

HELD_OUT_EVERY = 5  # epochs


class VAE(nn.Module):
    """Model and guide."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, latents: int):
        super().__init__()
        self.encoder, self.decoder, self.latents = encoder, decoder, latents

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            zero = x.new_zeros(x.shape[0], self.latents)
            z = pyro.sample("z", dist.Normal(zero, torch.ones_like(zero)).to_event(1))
            pixels = dist.Bernoulli(logits=self.decoder(z), validate_args=False)
            pyro.sample("x", pixels.to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            loc, log_variance = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, (0.5 * log_variance).exp()).to_event(1))


def held_out(svi: SVI, loader: Iterable[tuple[Tensor, Tensor]], count: int) -> float:
    """Return the mean bound of held-out data."""
    return -sum(svi.evaluate_loss(x.reshape(-1, PIXELS)) for x, _ in loader) / count


def main() -> None:
    """Train, then evaluate on the test data."""
    asked = arguments()
    pyro.set_rng_seed(asked.seed)
    train, validation, test = parts(asked.data_folder)
    loaders = [
        DataLoader(part, batch_size=asked.batch, shuffle=part is train, num_workers=1)
        for part in (train, validation, test)
    ]
    encoder = network(PIXELS, asked.hidden, asked.encoder_layers, 2 * asked.latents)
    decoder = network(asked.latents, asked.hidden, asked.decoder_layers, PIXELS)
    vae = VAE(encoder, decoder, asked.latents)
    svi = SVI(vae.model, vae.guide, Adam({"lr": asked.learning_rate}), loss=Trace_ELBO())
    for epoch in range(asked.epochs):
        loss = sum(svi.step(x.reshape(-1, PIXELS)) for x, _ in loaders[0]) / len(train)
        print(f"epoch {epoch + 1}: bound {-loss:.2f}")
        if epoch % HELD_OUT_EVERY == 0:
            print(f"epoch {epoch + 1}: held-out {held_out(svi, loaders[1], len(validation)):.2f}")
    say(held_out(svi, loaders[2], len(test)))


if __name__ == "__main__":
    main()
