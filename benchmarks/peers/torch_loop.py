"""A VAE on MNIST in plain torch: a DataLoader over tensors in memory, closed-form KL, Adam, held-out loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, Dataset, TensorDataset

from peers.mnist import PIXELS, arguments, network, parts, say


def in_memory(part: Dataset) -> TensorDataset:
    """Return the images of a data set as one tensor [N, D]."""
    subset = getattr(part, "dataset", part)
    rows = torch.as_tensor(getattr(part, "indices", range(len(part))))
    return TensorDataset(subset.data[rows].reshape(-1, PIXELS).float() / 255)


def main() -> None:
    """Train, then evaluate on the test data."""
    asked = arguments()
    torch.manual_seed(asked.seed)
    train, validation, test = map(in_memory, parts(asked.data_folder))
    encoder = network(PIXELS, asked.hidden, asked.encoder_layers, 2 * asked.latents)
    decoder = network(asked.latents, asked.hidden, asked.decoder_layers, PIXELS)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=asked.learning_rate)

    def loss_of(x: Tensor) -> Tensor:
        loc, log_variance = encoder(x).chunk(2, -1)
        z = loc + (0.5 * log_variance).exp() * torch.randn_like(loc)
        divergence = 0.5 * (loc.square() + log_variance.exp() - 1 - log_variance).sum()
        return binary_cross_entropy_with_logits(decoder(z), x, reduction="sum") + divergence

    @torch.no_grad()
    def held_out(part: TensorDataset) -> float:
        return -sum(float(loss_of(x)) for (x,) in DataLoader(part, batch_size=asked.batch)) / len(part)

    for epoch in range(asked.epochs):
        total = 0.0
        for (x,) in DataLoader(train, batch_size=asked.batch, shuffle=True):
            optimizer.zero_grad()
            loss = loss_of(x)
            loss.backward()
            optimizer.step()
            total += loss.item()
        print(f"epoch {epoch + 1}: bound {-total / len(train):.2f}, held-out {held_out(validation):.2f}")
    say(held_out(test))


if __name__ == "__main__":
    main()
