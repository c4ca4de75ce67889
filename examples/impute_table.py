"""Fill the gaps of a table: a denoising VAE beside column means and a Gaussian model, with intervals.

    python examples/impute_table.py                       # scikit-learn's wine table, half of it missing
    python examples/impute_table.py --table my.csv --missing 0.2

Cells are hidden at random. The pair trains on the observed cells alone, with an importance-weighted bound,
and the hidden cells are drawn given the observed ones. Printed are the root mean squared error of the hidden
cells, in standard deviations of their column, and how many of them lie in their 90 % intervals. The picture
shows predictions against the truth.
"""

from pathlib import Path

import click
import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor

import pyro_dvae as dv
from pyro_dvae import plots
from pyro_dvae.distributions.gaps import completed
from pyro_dvae.jobs.command import Command
from pyro_dvae.networks import FullCovarianceDecoder, GaussianEncoder


def table(path: Path | None) -> Tensor:
    """Return the standardised numbers of a table, [N, D]."""
    if path is None:
        from sklearn.datasets import load_wine

        rows = torch.as_tensor(load_wine().data)
    else:
        rows = torch.as_tensor(np.genfromtxt(path, delimiter=",", skip_header=1))
    return ((rows - rows.mean(0)) / rows.std(0)).float()


def expectation_maximisation(x: Tensor, ridge: float = 1e-3, steps: int = 100) -> tuple[Tensor, Tensor]:
    """Return mean [D] and covariance [D, D] of a Gaussian fitted to rows with gaps, in float64."""
    x = x.double()
    loc, covariance = x.nanmean(0), torch.eye(x.shape[1], dtype=torch.float64)
    for _ in range(steps):
        found = completed(loc, covariance, x)
        loc = found.mean.mean(0)
        centred = found.mean - loc
        covariance = centred.T @ centred / len(x) + found.covariance.mean(0)
        covariance = covariance + ridge * torch.eye(len(loc), dtype=torch.float64)
    return loc, covariance


def train(x: Tensor, latents: int, epochs: int, loc: Tensor, covariance: Tensor) -> dv.DVAE:
    """Return a pair trained on the observed cells: a full covariance, started at the Gaussian model's."""
    columns = x.shape[1]
    decoder = FullCovarianceDecoder(columns, latents, (64,), "tanh", loc=loc, covariance=covariance)
    pair = dv.DVAE(GaussianEncoder(columns, latents, (64,), "tanh"), decoder, dv.Masking(0.2))
    model, guide = dv.with_gaps(pair.model, pair.guide)
    loss = dv.TraceDenoisingIWAE_ELBO(num_particles=5)
    filled, seen = dv.fill_gaps(x)
    dv.fit(model, guide, filled, seen, loss=loss, epochs=epochs, batch_size=64, progress=False)
    return pair


@click.command(cls=Command)
@click.option("--table", "path", type=click.Path(path_type=Path), help="CSV file of numbers with a header.")
@click.option("--missing", default=0.5, help="Share of the cells to hide.")
@click.option("--latents", default=4, help="Size of the latent.")
@click.option("--epochs", default=200, help="Epochs of training.")
@click.option("--draws", default=200, help="Draws of each missing cell.")
@click.option("--seed", default=0, help="Seed of the gaps, of training and of the draws.")
@click.option("--output", default="imputed.png", type=click.Path(path_type=Path), help="The picture.")
def main(
    path: Path | None, missing: float, latents: int, epochs: int, draws: int, seed: int, output: Path
) -> None:
    """Fill the gaps of a table by a denoising VAE, beside column means and a Gaussian model."""
    torch.manual_seed(seed)
    truth = table(path)
    hidden = torch.rand(truth.shape) < missing
    x = truth.masked_fill(hidden, torch.nan)
    loc, covariance = expectation_maximisation(x)
    pair = train(x, latents, epochs, loc.float(), covariance)
    found = dv.condition(pair.model, pair.guide, x, num_draws=draws, seed=seed, progress=False)
    click.echo(str(found))
    gaussian = completed(loc, covariance, x.double())
    answers = {
        "column means": truth * 0,
        "Gaussian model": gaussian.mean.float(),
        "denoising VAE": found.mean,
    }
    click.echo(f"\n{int(hidden.sum())} hidden cells of {truth.numel()}")
    for name, filled in answers.items():
        error = (filled - truth)[hidden].square().mean().sqrt()
        click.echo(f"{name:<15}  rms error {float(error):.3f}")
    low, high = found.interval(0.9)
    covered = ((truth >= low) & (truth <= high))[hidden].float().mean()
    scale = gaussian.covariance.diagonal(dim1=1, dim2=2).sqrt()
    ends = dist.Normal(0.0, 1.0).icdf(torch.tensor(0.95)) * scale
    of_gaussian = ((truth - gaussian.mean).abs() <= ends)[hidden].float().mean()
    click.echo(f"in their 90 % intervals: {covered:.1%} (Gaussian model {of_gaussian:.1%})")
    click.echo(f"picture: {picture(output, truth[hidden], found.mean[hidden], low[hidden], high[hidden])}")


def picture(output: Path, truth: Tensor, mean: Tensor, low: Tensor, high: Tensor) -> Path:
    """Draw up to 300 hidden cells: conditional mean and 90 % interval against the truth."""
    few = torch.randperm(len(truth))[:300]
    figure = plots.new_figure(5.5, 5.0, layout="constrained")
    axes = figure.add_subplot()
    ends = torch.stack([mean - low, high - mean]).clamp(min=0)[:, few]
    axes.errorbar(
        truth[few], mean[few], ends, fmt="o", markersize=3, linewidth=0.5, color="#0072B2", alpha=0.6
    )
    axes.axline((0, 0), slope=1, color="0.3", linewidth=1)
    axes.set_xlabel("hidden value (standard deviations)")
    axes.set_ylabel("conditional mean and 90 % interval")
    return plots.write_figure(output, figure)


if __name__ == "__main__":
    main()
