"""Steps of ``fit`` on rows from different sources, with the same rows, network and batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

import pyro_dvae as dv
from peers.problem import Problem
from pyro_dvae.networks import BernoulliDecoder, GaussianEncoder

FEW = 1_000  # rows, to measure memory without data


def source(kind: str, file: str, batch: int) -> Any:
    """Return the rows of a ``.npy`` file as an argument of ``fit``."""
    if kind == "mapped":
        return np.load(file, mmap_mode="r")
    if kind == "few":
        return torch.from_numpy(np.load(file, mmap_mode="r")[:FEW].copy())
    rows = np.load(file)
    if kind == "frame":
        import pandas

        return pandas.DataFrame(rows)
    if kind == "sparse":
        from scipy.sparse import csr_matrix

        return csr_matrix(rows)
    tensor = torch.from_numpy(rows)
    if kind == "tensor":
        return tensor
    dataset = TensorDataset(tensor)
    return DataLoader(dataset, batch, shuffle=True) if kind == "loader" else dataset


def build(problem: Problem, kind: str, steps: int, compiled: bool) -> Callable[[], float]:
    """Return a function that runs ``steps`` steps of an endless training."""
    torch.manual_seed(problem.seed)
    rows = source(kind, problem.data_file, problem.batch)
    pixels = np.load(problem.data_file, mmap_mode="r").shape[1]
    sizes = (pixels, problem.latents, problem.hidden)
    dvae = dv.DVAE(GaussianEncoder(*sizes), BernoulliDecoder(*sizes), dv.BitFlip(0.05))
    loss = dv.TraceDenoising_ELBO(max_plate_nesting=1)
    trainer = dv.Trainer(
        dvae.model,
        dvae.guide,
        rows,
        loss=loss,
        epochs=10**6,
        batch_size=problem.batch,
        compile=compiled,
        progress=False,
    )

    def endless() -> Iterator[float]:
        for epoch in trainer:
            for batch in epoch:
                yield float(trainer.step(batch))

    losses = endless()
    return lambda: fmean(islice(losses, steps))
