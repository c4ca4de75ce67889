"""Denoising of counts by molecular cross-validation, beside a truncated SVD, Poisson factors and scVI.

    pip download --no-deps scanpy
    python benchmarks/counts.py scanpy-*.whl          # 700 cells × 765 genes, three seeds
    python benchmarks/counts.py scanpy-*.whl --only scVI     # in an environment with scvi-tools
    python benchmarks/counts.py --quick               # generated counts; shows that it runs

The wheel of scanpy holds 700 blood cells; raw counts are restored as round(expm1(raw) · n_counts / 10⁴).
A tenth of the molecules of each cell is held back (``count_split``). All methods see the rest, and predict
the held-back counts. A prediction is a matrix of counts and, where a method has them, expected logarithms:

- "squared": squared error of the log-normalised held-back counts, by the expected logarithms;
- "of counts": the same by the logarithms of the counts, and
- "Poisson": Poisson loss of the counts, both as the open benchmark of single-cell denoising has them.

Expected logarithms become counts by exp − 1, and each row gets its own total ("through logarithms"). They
depend on the depth: zeros are rarer at the depth of the nine tenths that a method sees than at that of the
tenth that is held back. The SVD learns the latter from rows that are thinned once more.
The networks: log(1 + x) into 765-128-10, 10-128-765, Adam at 2e-3, batches of 100, no tuning for a seed.
"""

from __future__ import annotations

import importlib.util
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
from pyro_dvae.evaluation import CountSplit, count_split, denoised_counts, denoised_logs
from pyro_dvae.evaluation.measures.denoised import log_normalised
from pyro_dvae.networks import CountEncoder, NegativeBinomialDecoder, PoissonDecoder

MEMBER = "scanpy/datasets/10x_pbmc68k_reduced.h5ad"
Prediction = tuple[Tensor, Tensor | None]  # counts, expected logarithms
Denoise = Callable[[CountSplit, int], dict[str, Prediction]]
THINNINGS = 50


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


def nothing(split: CountSplit, seed: int) -> dict[str, Prediction]:
    return {"": (split.train, None)}


def column_means(split: CountSplit, seed: int) -> dict[str, Prediction]:
    shares = split.train.mean(0) / split.train.mean(0).sum()
    logs = log_normalised(split.train).mean(0).expand_as(split.train)
    return {"": (split.train.sum(1, keepdim=True) * shares, logs)}


def depth(split: CountSplit) -> float:
    """Return the expected total of a held-back row, as a factor of what a method sees of it."""
    return split.share / (1 - split.share)


def through(logs: Tensor, split: CountSplit) -> Prediction:
    """Return expected logarithms with the counts that have them, each row with its own total."""
    counts = logs.clamp(min=0).expm1()
    return counts * (split.train.sum(1) / counts.sum(1).clamp(min=1e-6)).unsqueeze(1), logs


def svd(rank: int) -> Denoise:
    """Return the denoiser by a truncated SVD of the log-normalised counts, at both depths."""

    def denoise(split: CountSplit, seed: int) -> dict[str, Prediction]:
        from sklearn.decomposition import TruncatedSVD

        pyro.set_rng_seed(seed)
        thinned = dv.BinomialThinning(1 - depth(split))
        shallow = sum(log_normalised(thinned(split.train).sample()) for _ in range(THINNINGS)) / THINNINGS
        both = {"": log_normalised(split.train), ", held-back depth": torch.as_tensor(shallow)}
        found = {}
        for name, logs in both.items():
            fit = TruncatedSVD(min(rank, logs.shape[1] - 1), random_state=seed).fit(logs.numpy())
            smooth = torch.as_tensor(fit.inverse_transform(fit.transform(logs.numpy()))).clamp(min=0)
            found[name] = through(smooth, split)
        return found

    return denoise


def nmf(rank: int) -> Denoise:
    """Return the denoiser by Poisson factors: NMF with the Kullback-Leibler loss."""

    def denoise(split: CountSplit, seed: int) -> dict[str, Prediction]:
        from sklearn.decomposition import NMF

        loss: Any = "kullback-leibler"
        fit = NMF(rank, beta_loss=loss, solver="mu", max_iter=300, init="nndsvda", random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it has not converged
            weights = fit.fit_transform(split.train.numpy())
        return {"": (torch.as_tensor(weights @ fit.components_), None)}

    return denoise


def network(decoder: Any, thinning: float, epochs: int, draws: int) -> Denoise:
    """Return the denoiser by a variational autoencoder of counts, with thinned input."""

    def denoise(split: CountSplit, seed: int) -> dict[str, Prediction]:
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
        both = (pair.model, pair.guide, split.train)
        counts = denoised_counts(*both, seed=seed, num_samples=100)
        shallow = denoised_logs(*both, seed=seed, num_samples=draws, depth=depth(split))
        deep = denoised_logs(*both, seed=seed, num_samples=draws // 2)
        return {
            "": (counts, shallow),
            ", through logarithms": through(deep, split),
            ", through logarithms, held-back depth": through(shallow, split),
        }

    return denoise


def scvi_denoiser(likelihood: str, epochs: int | None) -> Denoise:
    """Return the denoiser by scVI (Lopez et al. 2018) with its own defaults; logarithms of its draws."""

    def denoise(split: CountSplit, seed: int) -> dict[str, Prediction]:
        import anndata
        import scvi

        scvi.settings.seed = seed
        data = anndata.AnnData(split.train.numpy())
        scvi.model.SCVI.setup_anndata(data)
        model = scvi.model.SCVI(data, gene_likelihood=likelihood)
        model.train(max_epochs=epochs, enable_progress_bar=False, accelerator="cpu")
        shares = torch.as_tensor(model.get_normalized_expression(n_samples=100, return_numpy=True))
        thinned = dv.BinomialThinning(1 - depth(split))
        sums = {name: torch.zeros_like(split.train) for name in ("", ", held-back depth")}
        count = 0
        for _ in range(2 if epochs else 20):
            draws = model.posterior_predictive_sample(n_samples=25).todense()
            for draw in torch.as_tensor(draws).float().unbind(-1):
                sums[""] += log_normalised(draw)
                held, some = torch.zeros_like(draw), draw > 0  # most cells are zeros, and stay so
                held[some] = thinned(draw[some]).sample()
                sums[", held-back depth"] += log_normalised(held)
                count += 1
        found = {f", through logarithms{name}": through(logs / count, split) for name, logs in sums.items()}
        logs = sums[", held-back depth"] / count
        return {"": (shares.float() * split.train.sum(1, keepdim=True), logs)} | found

    return denoise


def methods(epochs: int, quick: bool) -> dict[str, Denoise]:
    ranks, draws = ((2,), 4) if quick else ((5, 10, 20), 500)
    found: dict[str, Denoise] = {"no denoising": nothing, "column means": column_means}
    found |= {f"truncated SVD, rank {rank}": svd(rank) for rank in ranks}
    found |= {f"NMF with KL, rank {rank}": nmf(rank) for rank in ranks}
    for thinning in (0.0, 0.1, 0.2):
        noise = f"thinning {thinning:g}" if thinning else "no noise"
        found[f"Poisson VAE, {noise}"] = network(PoissonDecoder, thinning, epochs, draws)
    found["negative binomial VAE, no noise"] = network(NegativeBinomialDecoder, 0.0, epochs, draws)
    if importlib.util.find_spec("scvi") is not None:
        kinds = ("zinb", "nb", "poisson")
        found |= {f"scVI, {kind}": scvi_denoiser(kind, 2 if quick else None) for kind in kinds}
    return found


@click.command()
@click.argument("wheel", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--seeds", default=3, show_default=True, help="Splits and initialisations.")
@click.option("--epochs", default=100, show_default=True, help="Passes over the rows.")
@click.option("--only", default="", metavar="TEXT", help="Only methods with this in their name.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="File of JSON lines.")
@click.option("--quick", is_flag=True, help="Few generated counts.")
def main(wheel: Path | None, seeds: int, epochs: int, only: str, output: Path | None, quick: bool) -> None:
    """Measure denoisers of the counts in WHEEL, that of scanpy."""
    if wheel is None and not quick:
        raise click.UsageError("give the wheel of scanpy (pip download --no-deps scanpy), or --quick")
    pyro.settings.set(module_local_params=True)
    data = generated() if wheel is None else from_wheel(wheel)
    click.echo(f"{len(data)} rows, {data.shape[1]} columns, {float(data.sum(1).mean()):.0f} counts a row")
    click.echo(f"{'':<62}{'squared':>9}{'of counts':>11}{'Poisson':>10}{'±':>9}{'seconds':>9}")
    for method, denoise in methods(2 if quick else epochs, quick).items():
        if only not in method:
            continue
        rows: dict[str, list[tuple[float, ...]]] = {}
        for seed in range(1 if quick else seeds):
            split, began = count_split(data, 0.1, seed=seed), time.perf_counter()
            predictions = denoise(split, seed)
            seconds = time.perf_counter() - began
            for name, (counts, logs) in predictions.items():
                found, own = split.errors(counts), split.errors(counts, logs).squared.mean
                rows.setdefault(method + name, []).append(
                    (own, found.squared.mean, found.poisson.mean, seconds)
                )
        for name, figures in rows.items():
            own, squared, poisson, seconds = np.mean(figures, 0)
            spread = float(np.std([each[2] for each in figures], ddof=1)) if len(figures) > 1 else 0.0
            click.echo(f"{name:<62}{own:>9.4f}{squared:>11.4f}{poisson:>10.5f}{spread:>9.5f}{seconds:>9.1f}")
            if output is not None:
                with output.open("a") as file:
                    file.write(json.dumps({"method": name, "rows": figures}) + "\n")


if __name__ == "__main__":
    main()
