"""Denoising of counts by molecular cross-validation, beside a truncated SVD and Poisson factors.

    pip download --no-deps scanpy
    python benchmarks/counts.py scanpy-*.whl          # 700 cells × 765 genes, three seeds
    python benchmarks/counts.py --quick               # generated counts; shows that it runs

The wheel of scanpy holds 700 blood cells; raw counts are restored as round(expm1(raw) · n_counts / 10⁴).
A tenth of the molecules of each cell is held back (``count_split``). All methods see the rest, and predict
(1) the log-normalised held-back counts, by squared error, and (2) the held-back counts, by Poisson loss.
Every method gives its expected logarithms for the first where it has them; the column "of means" is the
squared error of the logarithms of its expected counts, as the open benchmark of single-cell denoising has it.
The networks: log(1 + x) into 765-128-10, 10-128-765, Adam at 2e-3, batches of 100, no tuning for a seed.
"""

from __future__ import annotations

import io
import json
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyro
import torch
from torch import Tensor

import pyro_dvae as dv
from pyro_dvae.evaluation import CountSplit, count_split, denoised_counts
from pyro_dvae.evaluation.measures.count_split import log_normalised
from pyro_dvae.networks import CountEncoder, NegativeBinomialDecoder, PoissonDecoder

MEMBER = "scanpy/datasets/10x_pbmc68k_reduced.h5ad"
Prediction = tuple[Tensor, Tensor | None]  # expected counts, expected logarithms


def from_wheel(path: Path) -> Tensor:
    """Return the counts of the wheel's reduced 68k set, [700, 765]."""
    import h5py
    from scipy.sparse import csr_matrix

    with zipfile.ZipFile(path) as wheel, h5py.File(io.BytesIO(wheel.read(MEMBER))) as file:
        raw, depth = file["raw.X"], file["obs"]["n_counts"]
        shape = (len(depth), len(file["raw.var"]))
        logs = csr_matrix((raw["data"][:], raw["indices"][:], raw["indptr"][:]), shape).toarray()
    return torch.as_tensor(np.expm1(logs) * depth[:, None] / 1e4).round().float()


def generated(rows: int = 60, columns: int = 20) -> Tensor:
    """Return counts of two kinds of rows with different depths."""
    pyro.set_rng_seed(0)
    shares = torch.softmax(torch.randn(2, columns), -1)[torch.randint(0, 2, (rows,))]
    return torch.poisson(shares * torch.randint(50, 400, (rows, 1)))


def nothing(split: CountSplit, seed: int) -> Prediction:
    return split.train, None


def column_means(split: CountSplit, seed: int) -> Prediction:
    shares = split.train.mean(0) / split.train.mean(0).sum()
    return split.train.sum(1, keepdim=True) * shares, log_normalised(split.train).mean(0).expand_as(
        split.train
    )


def svd(rank: int) -> Callable[[CountSplit, int], Prediction]:
    """Return the denoiser by a truncated SVD of the log-normalised counts."""

    def denoise(split: CountSplit, seed: int) -> Prediction:
        from sklearn.decomposition import TruncatedSVD

        logs = log_normalised(split.train).numpy()
        fit = TruncatedSVD(min(rank, logs.shape[1] - 1), random_state=seed).fit(logs)
        found = torch.as_tensor(fit.inverse_transform(fit.transform(logs))).clamp(min=0)
        counts = found.expm1()
        return counts * (split.train.sum(1) / counts.sum(1)).unsqueeze(1), found

    return denoise


def nmf(rank: int) -> Callable[[CountSplit, int], Prediction]:
    """Return the denoiser by Poisson factors: NMF with the Kullback-Leibler loss."""

    def denoise(split: CountSplit, seed: int) -> Prediction:
        from sklearn.decomposition import NMF

        loss: Any = "kullback-leibler"
        fit = NMF(rank, beta_loss=loss, solver="mu", max_iter=300, init="nndsvda", random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it has not converged
            weights = fit.fit_transform(split.train.numpy())
        return torch.as_tensor(weights @ fit.components_), None

    return denoise


def network(decoder: Any, thinning: float, epochs: int) -> Callable[[CountSplit, int], Prediction]:
    """Return the denoiser by a variational autoencoder of counts, with thinned input."""

    def denoise(split: CountSplit, seed: int) -> Prediction:
        pyro.set_rng_seed(seed)
        columns = split.train.shape[1]
        likelihood = decoder(columns, 10, (128,), "relu")
        with torch.no_grad():
            likelihood.head.bias.copy_((split.train.mean(0) + 1e-4).log())
        corruption = dv.BinomialThinning(thinning) if thinning else None
        pair = dv.DVAE(CountEncoder(columns, 10, (128,), "relu"), likelihood, corruption)
        dv.fit(
            pair.model,
            pair.guide,
            split.train,
            loss=dv.TraceDenoising_ELBO(max_plate_nesting=1),
            epochs=epochs,
            batch_size=100,
            learning_rate=2e-3,
            schedule="step",
            seed=seed,
            progress=False,
        )
        counts = denoised_counts(pair.model, pair.guide, split.train, seed=seed)
        return counts, expected_logs(pair, split)

    return denoise


@torch.no_grad()
def expected_logs(pair: dv.DVAE, split: CountSplit, draws: int = 100) -> Tensor:
    """Return the mean log-normalised counts of draws x ~ p(x | z, n) with the held-back part's expected n."""
    total = split.train.sum(1, keepdim=True) * split.share / (1 - split.share)
    loc, scale = pair.encode(split.train)
    found = torch.zeros_like(split.train)
    for _ in range(draws):
        z = loc + scale * torch.randn_like(scale)
        found += log_normalised(pair.model.decoder(z, total).sample())
    return found / draws


def methods(epochs: int, quick: bool) -> dict[str, Callable[[CountSplit, int], Prediction]]:
    ranks = (2,) if quick else (5, 10, 20)
    found = {"no denoising": nothing, "column means": column_means}
    found |= {f"truncated SVD, rank {rank}": svd(rank) for rank in ranks}
    found |= {f"NMF with KL, rank {rank}": nmf(rank) for rank in ranks}
    kinds = {"Poisson": PoissonDecoder, "negative binomial": NegativeBinomialDecoder}
    for name, kind in kinds.items():
        for thinning in (0.0, 0.1, 0.2):
            noise = f"thinning {thinning:g}" if thinning else "no noise"
            found[f"{name} VAE, {noise}"] = network(kind, thinning, epochs)
    return found


@click.command()
@click.argument("wheel", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--seeds", default=3, show_default=True, help="Splits and initialisations.")
@click.option("--epochs", default=100, show_default=True, help="Passes over the rows.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="File of JSON lines.")
@click.option("--quick", is_flag=True, help="Few generated counts.")
def main(wheel: Path | None, seeds: int, epochs: int, output: Path | None, quick: bool) -> None:
    """Measure denoisers of the counts in WHEEL, that of scanpy."""
    if wheel is None and not quick:
        raise click.UsageError("give the wheel of scanpy (pip download --no-deps scanpy), or --quick")
    pyro.settings.set(module_local_params=True)
    data = generated() if wheel is None else from_wheel(wheel)
    click.echo(f"{len(data)} rows, {data.shape[1]} columns, {float(data.sum(1).mean()):.0f} counts a row")
    click.echo(f"{'':<40}{'squared':>9}{'of means':>10}{'Poisson':>10}{'±':>9}{'seconds':>9}")
    for name, denoise in methods(2 if quick else epochs, quick).items():
        rows = []
        for seed in range(1 if quick else seeds):
            split, began = count_split(data, 0.1, seed=seed), time.perf_counter()
            counts, logs = denoise(split, seed)
            seconds = time.perf_counter() - began
            found = split.errors(counts, logs)
            rows.append((found.squared.mean, split.errors(counts).squared.mean, found.poisson.mean, seconds))
        squared, of_means, poisson, seconds = np.mean(rows, 0)
        spread = float(np.std([row[2] for row in rows], ddof=1)) if len(rows) > 1 else 0.0
        click.echo(f"{name:<40}{squared:>9.4f}{of_means:>10.4f}{poisson:>10.5f}{spread:>9.5f}{seconds:>9.1f}")
        if output is not None:
            with output.open("a") as file:
                file.write(json.dumps({"method": name, "rows": rows}) + "\n")


if __name__ == "__main__":
    main()
