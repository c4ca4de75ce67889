"""The training problem of all contenders: sizes, initial weights, data. It imports only NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Layers = list[tuple[NDArray[np.float32], NDArray[np.float32]]]

PROTOTYPES, FLIPPED = 20, 0.03  # of the substitute data: number of images, share of flipped pixels
DENSITY = 0.13  # share of white pixels, as in binary MNIST


class Skipped(Exception):  # noqa: N818 - a statement about the machine or the version
    """A contender is missing: its library is not installed, or this version has no such option."""


@dataclass(frozen=True)
class Problem:
    """A denoising VAE and how it is trained; the default is the paper's network.

    :param data_file: ``.npy`` file of binary data [N, D], unsigned bytes.
    :param hidden: hidden layers of the encoder and of the decoder.
    :param rate: rate of the salt-and-pepper noise before the encoder.
    :param bound: name of Pyro's or our ELBO; only ours takes corruptions (M) and particles (K).
    :param models: number of models trained together, by contenders that can.
    :param device: device of torch's contenders; JAX chooses its own.
    """

    data_file: str
    hidden: tuple[int, ...] = (200, 200)
    latents: int = 50
    batch: int = 100
    rate: float = 0.05
    learning_rate: float = 1e-3
    bound: str = "Trace_ELBO"
    corruptions: int = 1
    particles: int = 1
    models: int = 8
    device: str = "cpu"
    seed: int = 0

    def data(self) -> NDArray[np.float32]:
        """Return the data [N, D] as 0.0 and 1.0, with N rounded down to whole batches."""
        rows = np.load(self.data_file)
        return rows[: len(rows) // self.batch * self.batch].astype(np.float32)

    def weights(self, pixels: int) -> tuple[Layers, Layers]:
        """Return the initial layers of encoder and decoder: weight [out, in] and bias [out]."""
        generator = np.random.default_rng(self.seed)

        def layers(sizes: list[int]) -> Layers:
            made = []
            for inputs, outputs in pairwise(sizes):
                limit = np.sqrt(6 / (inputs + outputs))  # Glorot and Bengio (2010)
                weight = generator.uniform(-limit, limit, (outputs, inputs)).astype(np.float32)
                made.append((weight, np.zeros(outputs, np.float32)))
            return made

        encoder = layers([pixels, *self.hidden, 2 * self.latents])
        return encoder, layers([self.latents, *self.hidden, pixels])


def binarised(grey: NDArray[np.float32], seed: int = 0) -> NDArray[np.uint8]:
    """Return bits drawn with the grey values as probabilities."""
    return (np.random.default_rng(seed).random(grey.shape) < grey).astype(np.uint8)


def stand_in(rows: int, pixels: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return learnable data as a substitute for MNIST: some images with flipped pixels."""
    generator = np.random.default_rng(seed)
    prototypes = generator.random((PROTOTYPES, pixels)) < DENSITY
    chosen = prototypes[generator.integers(PROTOTYPES, size=rows)]
    return (chosen ^ (generator.random((rows, pixels)) < FLIPPED)).astype(np.uint8)


def save(data: NDArray[np.uint8], folder: Path, name: str = "data") -> str:
    """Write the data for the workers; return the file's name."""
    file = folder / f"{name}.npy"
    np.save(file, data)
    return str(file)
