"""Denoising of counts by molecular cross-validation, compared with a truncated SVD, Poisson factors and scVI.

    pip download --no-deps scanpy
    python benchmarks/counts.py scanpy-*.whl          # 700 cells × 765 genes, three seeds
    python benchmarks/counts.py scanpy-*.whl --scvi-python scvi/bin/python     # and scVI, in its environment
    python benchmarks/counts.py --quick               # generated counts; shows that it runs

The wheel of scanpy holds 700 blood cells; raw counts are restored as round(expm1(raw) · n_counts / 10⁴).
A tenth of the molecules of each cell is held out (``count_split``). All methods get the rest, and predict the
held-out counts. A prediction is a matrix of counts and, for some methods, expected logarithms:

- "squared": squared error of the log-normalised held-out counts, by the expected logarithms;
- "of counts": the same by the logarithms of the counts, and
- "Poisson": Poisson loss of the counts, both as in the open benchmark of single-cell denoising.

Expected logarithms become counts by exp − 1, and each row gets its own total ("through logarithms"). They
depend on the depth: zeros are rarer at the depth of the nine tenths for training than at that of the held-out
tenth. The SVD learns the latter from rows that are thinned once more.

The networks: log(1 + x) into 765-128-10, 10-128-765, Adam at 2e-3, batches of 100; the predictions of three
networks are averaged. All settings were chosen with ``--validate``, which splits the training part once more.
"""

from __future__ import annotations

import io
import json
import subprocess
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

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
SCVI = Path(__file__).parent / "peers" / "scvi_counts.py"
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
    """Return the expected total of a held-out row, relative to the training part of the row."""
    return split.share / (1 - split.share)


def through(logs: Tensor, split: CountSplit) -> Prediction:
    """Return expected logarithms with their counts, each row with its own total."""
    counts = logs.clamp(min=0).expm1()
    return counts * (split.train.sum(1) / counts.sum(1).clamp(min=1e-6)).unsqueeze(1), logs


def svd(rank: int) -> Denoise:
    """Return the denoiser by a truncated SVD of the log-normalised counts, at both depths."""

    def denoise(split: CountSplit, seed: int) -> dict[str, Prediction]:
        from sklearn.decomposition import TruncatedSVD

        pyro.set_rng_seed(seed)
        thinned = dv.BinomialThinning(1 - depth(split))
        shallow = sum(log_normalised(thinned(split.train).sample()) for _ in range(THINNINGS)) / THINNINGS
        both = {"": log_normalised(split.train), ", held-out depth": torch.as_tensor(shallow)}
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
            warnings.simplefilter("ignore")  # no convergence
            weights = fit.fit_transform(split.train.numpy())
        return {"": (torch.as_tensor(weights @ fit.components_), None)}

    return denoise


class Sizes(NamedTuple):
    """The common sizes of all networks."""

    latent_size: int
    width: int
    members: int
    draws: int


def network(
    decoder: Any, thinning: float, epochs: int, sizes: Sizes, kl_weight: float | dv.Schedule = 1.0
) -> Denoise:
    """Return the denoiser by several averaged variational autoencoders of counts, with thinned input."""
    bound = dv.TraceDenoising_ELBO(max_plate_nesting=1, kl_weight=kl_weight)

    def denoise(split: CountSplit, seed: int) -> dict[str, Prediction]:
        seeds = range(sizes.members * seed, sizes.members * (seed + 1))
        found = [one_network(decoder, thinning, epochs, sizes, split, each, bound) for each in seeds]
        counts, deep, shallow = (sum(each) / sizes.members for each in zip(*found, strict=True))
        return {
            "": (counts, shallow),
            ", through logarithms": through(deep, split),
            ", through logarithms, held-out depth": through(shallow, split),
        }

    return denoise


def one_network(
    decoder: Any, thinning: float, epochs: int, sizes: Sizes, split: CountSplit, seed: int, bound: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Train, and return expected counts and logarithms, at the training and at the held-out depth."""
    pyro.set_rng_seed(seed)
    columns = split.train.shape[1]
    likelihood = decoder(columns, sizes.latent_size, (sizes.width,), "relu")
    with torch.no_grad():
        likelihood.head.bias.copy_((split.train.mean(0) + 1e-4).log())
    corruption = dv.BinomialThinning(thinning) if thinning else None
    encoder = CountEncoder(columns, sizes.latent_size, (sizes.width,), "relu")
    pair = dv.DVAE(encoder, likelihood, corruption)
    dv.fit(
        pair.model,
        pair.guide,
        split.train,
        loss=bound,
        epochs=epochs,
        batch_size=100,
        learning_rate=2e-3,
        schedule="step",
        seed=seed,
        compile=False,  # for some hundred steps, compiling costs more
        progress=False,
    )
    both = (pair.model, pair.guide, split.train)
    return (
        denoised_counts(*both, seed=seed, num_samples=100),
        denoised_logs(*both, seed=seed, num_samples=sizes.draws),
        denoised_logs(*both, seed=seed, num_samples=sizes.draws, depth=depth(split)),
    )


def scvi(python: Path, likelihood: str, epochs: int | None, draws: int) -> Denoise:
    """Return the denoiser by scVI with its own defaults, in a process of its environment."""

    def denoise(split: CountSplit, seed: int) -> dict[str, Prediction]:
        asked = {"seed": seed, "likelihood": likelihood, "epochs": epochs, "draws": draws}
        options = json.dumps(asked | {"depth": depth(split)})
        with tempfile.TemporaryDirectory() as folder:
            source, target = f"{folder}/counts.npy", f"{folder}/found.npz"
            np.save(source, split.train.numpy())
            command = [str(python), "-W", "ignore", str(SCVI), source, target, options]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            with np.load(target) as file:
                found = {name: torch.as_tensor(file[name]).float() for name in file.files}
        return {
            "": (found["shares"] * split.train.sum(1, keepdim=True), found["shallow"]),
            ", through logarithms": through(found["logs"], split),
            ", through logarithms, held-out depth": through(found["shallow"], split),
        }

    return denoise


def with_scvi(python: Path | None) -> Path | None:
    """Return this Python if it has scvi-tools; otherwise say that scVI is skipped."""
    reason = "give --scvi-python, the Python of an environment with scvi-tools"
    if python is not None:
        try:
            subprocess.run([str(python), "-c", "import scvi"], capture_output=True, text=True, check=True)
        except subprocess.CalledProcessError as error:
            reason = f"{python} cannot import scvi: {error.stderr.strip().rpartition(chr(10))[2]}"
        except OSError as error:
            reason = f"{python}: {error.strerror}"
        else:
            return python
    click.echo(f"scVI is skipped: {reason}")
    return None


def methods(epochs: int, quick: bool, sizes: Sizes, scvi_python: Path | None) -> dict[str, Denoise]:
    ranks = (2,) if quick else (5, 10, 15, 20)
    found: dict[str, Denoise] = {"no denoising": nothing, "column means": column_means}
    found |= {f"truncated SVD, rank {rank}": svd(rank) for rank in ranks}
    found |= {f"NMF with KL, rank {rank}": nmf(rank) for rank in ranks}
    found["Poisson VAEs, no noise"] = network(PoissonDecoder, 0.0, epochs, sizes)
    thinned, warm_up = f"Poisson VAEs, thinning 0.2, {2 * epochs} epochs", dv.LinearSchedule(0.0, 1.0, epochs)
    found[thinned] = network(PoissonDecoder, 0.2, 2 * epochs, sizes)
    found[f"{thinned}, KL warm-up"] = network(PoissonDecoder, 0.2, 2 * epochs, sizes, warm_up)
    found["negative binomial VAEs, no noise"] = network(NegativeBinomialDecoder, 0.0, epochs, sizes)
    if scvi_python is not None:
        for kind in ("zinb", "nb", "poisson"):
            found[f"scVI, {kind}"] = scvi(
                scvi_python, kind, 2 if quick else None, sizes.members * sizes.draws
            )
    return found


def stored(output: Path | None) -> dict[tuple[str, int], dict[str, list[float]]]:
    """Return the results in a file by method and seed."""
    if output is None or not output.exists():
        return {}
    rows = [json.loads(text) for text in output.read_text().splitlines()]
    return {(row["method"], row["seed"]): row["figures"] for row in rows}


def measured(denoise: Denoise, split: CountSplit, seed: int) -> dict[str, list[float]]:
    """Return squared errors (of logarithms and of counts), Poisson loss and seconds, by prediction."""
    began = time.perf_counter()
    predictions = denoise(split, seed)
    seconds, found = time.perf_counter() - began, {}
    for name, (counts, logs) in predictions.items():
        errors, own = split.errors(counts), split.errors(counts, logs).squared.mean
        found[name] = [own, errors.squared.mean, errors.poisson.mean, seconds]
    return found


@click.command()
@click.argument("wheel", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--seeds", default=3, show_default=True, help="Splits and initialisations.")
@click.option("--epochs", default=100, show_default=True, help="Passes over the rows.")
@click.option("--latent-size", default=10, show_default=True, help="Latents of the networks.")
@click.option("--width", default=128, show_default=True, help="Width of their hidden layers.")
@click.option("--members", default=3, show_default=True, help="Networks that are averaged.")
@click.option("--validate", is_flag=True, help="Measure on a part of the training part, to choose settings.")
@click.option("--only", default="", metavar="TEXT", help="Only methods with this in their name.")
@click.option(
    "--scvi-python",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Python with scvi-tools.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File of JSON lines; what it has is not run again.",
)
@click.option("--quick", is_flag=True, help="Few generated counts.")
def main(
    wheel: Path | None,
    seeds: int,
    epochs: int,
    latent_size: int,
    width: int,
    members: int,
    validate: bool,
    only: str,
    scvi_python: Path | None,
    output: Path | None,
    quick: bool,
) -> None:
    """Measure denoisers of the counts in WHEEL, that of scanpy."""
    if not quick and (wheel is None or not wheel.exists()):
        raise click.UsageError("give the wheel of scanpy (pip download --no-deps scanpy), or --quick")
    pyro.settings.set(module_local_params=True)
    data = generated() if wheel is None else from_wheel(wheel)
    found, sizes = with_scvi(scvi_python), Sizes(latent_size, width, members, 4 if quick else 100)
    click.echo(f"{len(data)} rows, {data.shape[1]} columns, {float(data.sum(1).mean()):.0f} counts a row")
    click.echo(f"{'':<62}{'squared':>9}{'of counts':>11}{'Poisson':>10}{'±':>9}{'seconds':>9}")
    done = stored(output)
    for method, denoise in methods(2 if quick else epochs, quick, sizes, found).items():
        if only not in method:
            continue
        for seed in range(1 if quick else seeds):
            if (method, seed) not in done:
                split = count_split(data, 0.1, seed=seed)
                if validate:
                    split = count_split(split.train, 0.1, seed=1000 + seed)
                done[method, seed] = measured(denoise, split, seed)
                if output is not None:
                    row = {"method": method, "seed": seed, "figures": done[method, seed]}
                    with output.open("a") as file:
                        file.write(json.dumps(row) + "\n")
        for name in done[method, 0]:
            figures = [done[method, seed][name] for seed in range(1 if quick else seeds)]
            own, squared, poisson, seconds = np.mean(figures, 0)
            spread = float(np.std([each[2] for each in figures], ddof=1)) if len(figures) > 1 else 0.0
            click.echo(
                f"{method + name:<62}{own:>9.4f}{squared:>11.4f}{poisson:>10.5f}{spread:>9.5f}{seconds:>9.1f}"
            )


if __name__ == "__main__":
    main()
