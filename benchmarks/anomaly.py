"""Anomaly detection on tables: scores of a denoising VAE beside neighbours, a forest and Gaussian models.

    python benchmarks/anomaly.py FOLDER                      # every FOLDER/*.npz with X and y (1: anomaly)
    python benchmarks/anomaly.py FOLDER --protocol unsupervised

Protocol "normal" trains on half of the normal rows and scores the rest; "unsupervised" trains on all rows and
scores them. Shown is the area under the ROC curve, the mean over the seeds, and its mean over the tables.
"""

import warnings
from pathlib import Path

import click
import numpy as np
import pyro.distributions as dist
import torch
from torch import nn

import pyro_dvae as dv
from pyro_dvae.networks import GaussianEncoder


class Columns(nn.Module):
    """x ~ N(network(z), s²) with one learned s for each column."""

    def __init__(self, columns, latents, width):
        super().__init__()
        self.latent_size = latents
        self.network = nn.Sequential(nn.Linear(latents, width), nn.Tanh(), nn.Linear(width, columns))
        self.log_scale = nn.Parameter(torch.zeros(columns))

    def forward(self, z):
        """Return the distribution of the rows."""
        return dist.Normal(self.network(z), 0.1 + self.log_scale.exp()).to_event(1)


def ours(train, test, epochs, steps):
    """Return name: score of each test row."""
    columns = train.shape[1]
    latents = min(8, max(2, columns // 3))
    encoder = GaussianEncoder(columns, latents, (64,), "tanh")
    pair = dv.DVAE(encoder, Columns(columns, latents, 64), dv.GaussianNoise(0.3))
    options = {"epochs": epochs, "batch_size": 64, "progress": False, "learning_rate": 2e-3}
    dv.fit(pair.model, pair.guide, train, loss=dv.TraceDenoising_ELBO(), **options)
    how = {"refine": dv.Refinement(num_steps=steps, annealing_steps=0), "num_samples": 200, "progress": False}
    return {
        method: dv.anomaly_score(pair.model, pair.guide, test, method=method, seed=0, **how).numpy()
        for method in ("likelihood", "regret", "reconstruction")
    }


def rivals(train, test, seed):
    """Return name: score of each test row."""
    from sklearn.covariance import LedoitWolf
    from sklearn.ensemble import IsolationForest
    from sklearn.mixture import GaussianMixture
    from sklearn.neighbors import NearestNeighbors

    same = train.shape == test.shape and bool((train == test).all())
    near = NearestNeighbors(n_neighbors=6 if same else 5).fit(train).kneighbors(test)[0][:, -1]
    mixture = GaussianMixture(5, reg_covar=1e-3, random_state=seed).fit(train)
    return {
        "kNN": near,
        "isolation forest": -IsolationForest(random_state=seed).fit(train).score_samples(test),
        "mixture": -mixture.score_samples(test),
        "Ledoit-Wolf": LedoitWolf().fit(train).mahalanobis(test),
    }


def split(rows, labels, protocol, generator):
    """Return training rows, test rows and the labels of the test rows."""
    if protocol == "unsupervised":
        return rows, rows, labels
    normal = np.flatnonzero(labels == 0)
    chosen = generator.permutation(normal)[: len(normal) // 2]
    rest = np.setdiff1d(np.arange(len(rows)), chosen)
    return rows[chosen], rows[rest], labels[rest]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--only", multiple=True, help="Names of tables.")
@click.option("--protocol", type=click.Choice(["normal", "unsupervised"]), default="normal")
@click.option("--seeds", default=3)
@click.option("--epochs", default=100)
@click.option("--steps", default=30, help="Refinement steps of a row.")
@click.option("--rows", default=2000, help="Rows of a table at most.")
def main(folder, only, protocol, seeds, epochs, steps, rows):
    """Compare anomaly scores by the area under the ROC curve."""
    from sklearn.metrics import roc_auc_score

    warnings.simplefilter("ignore")
    means = {}
    for path in sorted(folder.glob("*.npz")):
        if only and path.stem not in only:
            continue
        stored = np.load(path)
        found = {}
        for seed in range(seeds):
            generator = np.random.default_rng(seed)
            torch.manual_seed(seed)
            few = generator.permutation(len(stored["y"]))[:rows]
            x, labels = stored["X"][few].astype(np.float64), stored["y"][few]
            train, test, truth = split(x, labels, protocol, generator)
            kept = train.std(0) > 0
            loc, scale = train[:, kept].mean(0), train[:, kept].std(0)
            train, test = ((each[:, kept] - loc) / scale for each in (train, test))
            scores = rivals(train, test, seed)
            scores |= ours(torch.as_tensor(train).float(), torch.as_tensor(test).float(), epochs, steps)
            for name, score in scores.items():
                found.setdefault(name, []).append(roc_auc_score(truth, score))
        averages = {name: float(np.mean(each)) for name, each in found.items()}
        click.echo(f"{path.stem:<18} " + "  ".join(f"{name} {each:.3f}" for name, each in averages.items()))
        for name, each in averages.items():
            means.setdefault(name, []).append(each)
    click.echo(f"{'mean':<18} " + "  ".join(f"{name} {np.mean(each):.3f}" for name, each in means.items()))


if __name__ == "__main__":
    main()
