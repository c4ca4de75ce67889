"""Squared error of missing cells: a denoising VAE beside means, neighbours, regressions and a Gaussian model.

    python benchmarks/imputation.py                              # scikit-learn's breast-cancer table, 5 masks
    python benchmarks/imputation.py --tables FOLDER --masks 3    # every FOLDER/*.npz with an array X
    python benchmarks/imputation.py --missing 0.2

Tables are standardised on the full data, and cells are hidden completely at random. "EM" is the Gaussian
model (ridge 1e-3). "full" is a decoder with one covariance over the columns, started at that of EM;
"diagonal" has independent columns given the latents. "chosen" is the best of the three on a tenth of the
observed cells, which the candidates were fitted without. Shown are the mean squared error over the masks, its
standard error, the coverage of the 90 % intervals of the better decoder, and the seconds of all candidates.
"""

import math
import time
from pathlib import Path

import click
import numpy as np
import pyro.distributions as dist
import torch
from torch import nn

import pyro_dvae as dv
from pyro_dvae.distributions.gaps import completed
from pyro_dvae.networks import FullCovarianceDecoder, GaussianEncoder


def gaussian(x, ridge=1e-3, steps=100):
    """Return mean and covariance by expectation-maximisation."""
    loc, covariance = x.nanmean(0), torch.eye(x.shape[1], dtype=x.dtype)
    identity = torch.eye(x.shape[1], dtype=x.dtype)
    for _ in range(steps):
        found = completed(loc, covariance, x)
        loc = found.mean.mean(0)
        centred = found.mean - loc
        covariance = centred.T @ centred / len(x) + found.covariance.mean(0) + ridge * identity
    return loc, covariance


class Diagonal(nn.Module):
    """x ~ N(network(z), s²) with one learned s for each column."""

    def __init__(self, columns, latents, width):
        super().__init__()
        self.latent_size = latents
        self.network = nn.Sequential(
            nn.Linear(latents, width),
            nn.Tanh(),
            nn.Linear(width, width),
            nn.Tanh(),
            nn.Linear(width, columns),
        )
        self.log_scale = nn.Parameter(torch.full((columns,), -0.5))

    def forward(self, z):
        """Return the distribution of the rows."""
        return dist.Normal(self.network(z), 0.02 + self.log_scale.exp()).to_event(1)


def trained(kind, x, epochs, loc, covariance, latents=8, width=128):
    """Return a pair trained on the observed cells of x."""
    columns = x.shape[1]
    if kind == "full":
        decoder = FullCovarianceDecoder(columns, latents, (width,), "tanh", loc=loc, covariance=covariance)
    else:
        decoder = Diagonal(columns, latents, width)
    pair = dv.DVAE(GaussianEncoder(columns, latents, (width, width), "tanh"), decoder, dv.Masking(0.2))
    model, guide = dv.with_gaps(pair.model, pair.guide)
    loss = dv.TraceDenoisingIWAE_ELBO(num_particles=5)
    filled, seen = dv.fill_gaps(x)
    options = {"epochs": epochs, "batch_size": 64, "progress": False, "learning_rate": 1e-3}
    dv.fit(model, guide, filled, seen, loss=loss, **options)
    return pair


def ours(x, epochs, steps, validation=0.1):
    """Return rows filled by each candidate, what the better decoder says of the gaps, and the choice."""
    held = (torch.rand(x.shape) < validation) & ~x.isnan()
    fewer = x.masked_fill(held, math.nan)
    loc, covariance = gaussian(fewer.double())
    refine = dv.Refinement(num_steps=steps, annealing_steps=0)
    whole = [each.double() for each in gaussian(x.double())]
    found = {"EM": completed(*whole, x.double()).mean.float()}
    guess = completed(loc, covariance, fewer.double()).mean.float()
    errors = {"EM": float((guess - x)[held].square().mean())}
    decoders = {}
    for kind in ("full", "diagonal"):
        pair = trained(kind, fewer, epochs, loc.float(), covariance)
        options = {"num_draws": 100, "num_samples": 500, "refine": refine, "progress": False, "seed": 0}
        guess = dv.condition(pair.model, pair.guide, fewer, **options).mean
        errors[kind] = float((guess - x)[held].square().mean())
        decoders[kind] = dv.condition(pair.model, pair.guide, x, **options)
        found[kind] = decoders[kind].mean
    best = min(errors, key=errors.get)
    found["chosen"] = found[best]
    return found, decoders[min(decoders, key=errors.get)], best


def rivals(x):
    """Return name: imputed rows of the simple methods."""
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer, KNNImputer
    from sklearn.linear_model import BayesianRidge

    found = {"column mean": torch.where(x.isnan(), x.nanmean(0), x)}
    imputers = {
        "kNN": KNNImputer(n_neighbors=10),
        "Bayesian ridge": IterativeImputer(BayesianRidge(), max_iter=10),
    }
    for name, imputer in imputers.items():
        found[name] = torch.as_tensor(imputer.fit_transform(x.numpy())).float()
    return found


def tables(folder, limit):
    """Yield name and standardised rows."""
    if folder is None:
        from sklearn.datasets import load_breast_cancer

        sources = {"breast cancer": load_breast_cancer().data}
    else:
        sources = {path.stem: np.load(path)["X"] for path in sorted(folder.glob("*.npz"))}
    for name, rows in sources.items():
        rows = torch.as_tensor(np.asarray(rows, dtype=np.float64))
        rows = rows[:, rows.std(0) > 0]
        if limit:
            rows = rows[torch.randperm(len(rows))[:limit]]
            rows = rows[:, rows.std(0) > 0]
        yield name, ((rows - rows.mean(0)) / rows.std(0)).float()


@click.command()
@click.option("--tables", "folder", type=click.Path(path_type=Path), help="Folder of .npz files with X.")
@click.option("--only", multiple=True, help="Names of tables.")
@click.option("--missing", default=0.5)
@click.option("--masks", default=5)
@click.option("--epochs", default=100)
@click.option("--steps", default=20, help="Refinement steps of a row.")
@click.option("--rows", default=1000, help="Rows of a table at most; 0 takes all.")
def main(folder, only, missing, masks, epochs, steps, rows):
    """Compare imputations of tables with cells missing completely at random."""
    torch.manual_seed(0)
    for name, truth in tables(folder, rows):
        if only and name not in only:
            continue
        errors, covered, seconds, choices = {}, [], [], []
        for mask in range(masks):
            torch.manual_seed(1000 + mask)
            hidden = torch.rand(truth.shape) < missing
            x = truth.masked_fill(hidden, math.nan)
            for method, filled in rivals(x).items():
                errors.setdefault(method, []).append(float((filled - truth)[hidden].square().mean()))
            start = time.perf_counter()
            found, better, choice = ours(x, epochs, steps)
            seconds.append(time.perf_counter() - start)
            for kind, filled in found.items():
                errors.setdefault(kind, []).append(float((filled - truth)[hidden].square().mean()))
            low, high = better.interval(0.9)
            covered.append(float(((truth >= low) & (truth <= high))[hidden].float().mean()))
            choices.append(choice)
        cells = "  ".join(f"{method} {_with_error(each)}" for method, each in errors.items())
        click.echo(
            f"{name} {tuple(truth.shape)}: {cells}  ({', '.join(choices)}; 90 % intervals cover "
            f"{sum(covered) / masks:.1%}; {sum(seconds) / masks:.0f} s)"
        )


def _with_error(values):
    error = np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{np.mean(values):.3f}±{error:.3f}"


if __name__ == "__main__":
    main()
