"""Denoise counts of different depths: negative binomial with library size, and binomial thinning.

    python examples/count_data.py

Rows of counts as in single-cell sequencing: four kinds of cells, genes that follow programmes, and depths
that differ tenfold. The data are generated, so the true rates are known. A tenth of each row's counts is held
out; the model gets the rest, its encoder a thinned copy. The example prints the Poisson loss of the held-out
counts and the error of the log rates, compared with no denoising and with Poisson factors (scikit-learn's
NMF). The picture shows the same genes as counted, as denoised, and their true rates.
"""

import warnings
from pathlib import Path

import click
import pyro
import torch
from torch import Tensor

import pyro_dvae as dv
from pyro_dvae import plots
from pyro_dvae.evaluation import count_split, denoised_counts
from pyro_dvae.jobs.command import Command
from pyro_dvae.networks import CountEncoder, NegativeBinomialDecoder

KINDS, DISPERSION = 4, 0.2


def generate(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Return negative binomial counts and the true shares of the columns, each [rows, columns]."""
    kind = torch.arange(rows) * KINDS // rows
    base, marker = torch.randn(columns), 1.5 * torch.randn(KINDS, columns)
    programme = torch.randn(rows, 1) * torch.randn(1, columns) * 0.5
    shares = torch.softmax(base + marker[kind] + programme, -1)
    depth = 10 ** (2 + torch.rand(rows, 1))
    rate = torch.distributions.Gamma(1 / DISPERSION, 1 / DISPERSION).sample(shares.shape) * shares * depth
    return torch.poisson(rate), shares


def poisson_factors(counts: Tensor, rank: int) -> Tensor:
    """Return the rates by non-negative factors, fitted by maximum likelihood."""
    from sklearn.decomposition import NMF

    fit = NMF(rank, beta_loss="kullback-leibler", solver="mu", max_iter=200, init="nndsvda", random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no convergence
        return torch.as_tensor(fit.fit_transform(counts.numpy()) @ fit.components_)


def error(denoised: Tensor, shares: Tensor) -> float:
    """Return the root mean square error of the logarithms of rates per 10,000, plus one."""
    found = denoised / denoised.sum(1, keepdim=True)
    return float((torch.log1p(1e4 * found) - torch.log1p(1e4 * shares)).square().mean().sqrt())


@click.command(cls=Command)
@click.option("--rows", default=1000, show_default=True, help="Rows.")
@click.option("--columns", default=200, show_default=True, help="Columns.")
@click.option("--thinning", default=0.2, show_default=True, help="Rate of the corruption.")
@click.option("--epochs", default=100, show_default=True, help="Passes over the rows.")
@click.option("--seed", default=0, show_default=True, help="Seed.")
@click.option("--output", default="count_data.png", show_default=True, help="The picture.")
def main(rows: int, columns: int, thinning: float, epochs: int, seed: int, output: str) -> None:
    """Train a denoising variational autoencoder of counts, and compare what it predicts."""
    pyro.set_rng_seed(seed)
    counts, shares = generate(rows, columns)
    split = count_split(counts, 0.1, seed=seed)
    pair = dv.DVAE(
        CountEncoder(columns, 10, (128,)),
        NegativeBinomialDecoder(columns, 10, (128,)),
        dv.BinomialThinning(thinning),
    )
    dv.fit(
        pair.model,
        pair.guide,
        split.train,
        loss=dv.TraceDenoising_ELBO(max_plate_nesting=1),
        epochs=epochs,
        learning_rate=2e-3,
        schedule="step",
        seed=seed,
        progress=False,
    )
    found = {
        "no denoising": split.train,
        "Poisson factors": poisson_factors(split.train, 8),
        "denoising VAE": denoised_counts(pair.model, pair.guide, split.train, seed=seed),
    }
    print(f"{'':<18}{'Poisson loss':>14}{'error of log rates':>20}")
    for name, each in found.items():
        print(f"{name:<18}{split.errors(each).poisson.mean:>14.4f}{error(each, shares):>20.4f}")
    picture(Path(output), {"as counted": split.train, "denoised": found["denoising VAE"], "true": shares})
    print(f"picture: {output}")


def picture(path: Path, panels: dict[str, Tensor]) -> None:
    """Draw log rates of rows sorted by kind, and of the columns that vary most, side by side."""
    truth = torch.log1p(1e4 * panels["true"])
    columns = truth.var(0).argsort(descending=True)[:60]
    columns = columns[truth[:, columns].argmax(0).argsort()]
    figure = plots.new_figure(10, 4.5, layout="constrained")
    for axes, (name, values) in zip(figure.subplots(1, 3, sharey=True), panels.items(), strict=True):
        logs = torch.log1p(1e4 * values / values.sum(1, keepdim=True).clamp(min=1e-9))[:, columns]
        image = axes.imshow(logs.numpy(), aspect="auto", cmap="magma", vmin=0, vmax=float(truth.max()))
        axes.set(title=name, xlabel="column")
    figure.axes[0].set_ylabel("row, four kinds one after the other")
    figure.colorbar(image, ax=figure.axes, label="log(1 + rate per 10,000)")
    plots.write_figure(path, figure)


if __name__ == "__main__":
    main()
