"""Shared by the whole scripts: options, the split of MNIST, and the output of results."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from itertools import pairwise

from torch import nn
from torch.utils.data import Dataset, Subset
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor

PIXELS = 784


@dataclass(frozen=True)
class Arguments:
    """The training options of a script."""

    data_folder: str
    epochs: int
    batch: int
    learning_rate: float
    hidden: int
    encoder_layers: int
    decoder_layers: int
    latents: int
    seed: int


def arguments() -> Arguments:
    """Read the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-folder", required=True)
    for name, default in (("epochs", 20), ("batch", 100), ("hidden", 200), ("encoder-layers", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in (("decoder-layers", 2), ("latents", 50), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    return Arguments(**vars(parser.parse_args()))


def parts(folder: str) -> tuple[Dataset, Dataset, Dataset]:
    """Return grey MNIST from torchvision: train, validation (the last sixth), test."""
    images = MNIST(folder, train=True, transform=ToTensor())
    kept = len(images) - max(1, len(images) // 6)
    train, validation = Subset(images, range(kept)), Subset(images, range(kept, len(images)))
    return train, validation, MNIST(folder, train=False, transform=ToTensor())


def network(inputs: int, hidden: int, layers: int, outputs: int) -> nn.Sequential:
    """Return affine layers with softplus between them, Glorot uniform weights, zero biases."""
    sizes = [inputs, *[hidden] * layers, outputs]
    modules: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layer = nn.Linear(a, b)
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
        modules += [layer, nn.Softplus()]
    return nn.Sequential(*modules[:-1])


def say(test_bound: float) -> None:
    """Print the result for the benchmark: the bound on the test data (nats per row)."""
    print(json.dumps({"test_bound": test_bound}))
