"""Anomaly detection on tables: ``dv.fit_table`` compared with neighbours, a forest and Gaussian models.

    python benchmarks/anomaly.py FOLDER      # every FOLDER/*.npz with X and y (1: anomaly), both protocols

Protocol "normal" trains on half of the normal rows and scores the rest; "unsupervised" trains on all rows and
scores them. Every result is immediately written as a line of --output, and a stopped run can be repeated to
continue. The table shows the area under the ROC curve, averaged over the seeds, and its mean over the tables.
"""

import json
import warnings
from pathlib import Path

import click
import numpy as np
import torch

import pyro_dvae as dv

PROTOCOLS = ("normal", "unsupervised")


def scores(train, test, seed):
    """Return the scores of the test rows by method."""
    from sklearn.covariance import LedoitWolf
    from sklearn.ensemble import IsolationForest
    from sklearn.mixture import GaussianMixture
    from sklearn.neighbors import NearestNeighbors

    same = train.shape == test.shape and bool((train == test).all())
    near = NearestNeighbors(n_neighbors=6 if same else 5).fit(train).kneighbors(test)[0][:, -1]
    mixture = GaussianMixture(5, reg_covar=1e-3, random_state=seed).fit(train)
    table = dv.fit_table(torch.as_tensor(train), seed=seed, progress=False)
    return {
        "kNN": near,
        "isolation forest": -IsolationForest(random_state=seed).fit(train).score_samples(test),
        "mixture": -mixture.score_samples(test),
        "Ledoit-Wolf": LedoitWolf().fit(train).mahalanobis(test),
        "ours, -log p": -table.log_likelihood(torch.as_tensor(test)).numpy(),
        "ours": table.anomaly_score(torch.as_tensor(test)).numpy(),
    }


def split(rows, labels, protocol, generator):
    """Return training rows, test rows and the labels of the test rows."""
    if protocol == "unsupervised":
        return rows, rows, labels
    normal = np.flatnonzero(labels == 0)
    chosen = generator.permutation(normal)[: len(normal) // 2]
    rest = np.setdiff1d(np.arange(len(rows)), chosen)
    return rows[chosen], rows[rest], labels[rest]


def areas(stored, protocol, seed, limit):
    """Return the area under the ROC curve by method."""
    from sklearn.metrics import roc_auc_score

    generator = np.random.default_rng(seed)
    few = generator.permutation(len(stored["y"]))[:limit]
    x, labels = stored["X"][few].astype(np.float64), stored["y"][few]
    train, test, truth = split(x, labels, protocol, generator)
    kept = train.std(0) > 0
    loc, scale = train[:, kept].mean(0), train[:, kept].std(0)
    train, test = ((each[:, kept] - loc) / scale for each in (train, test))
    return {name: float(roc_auc_score(truth, each)) for name, each in scores(train, test, seed).items()}


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--only", multiple=True, help="Names of tables.")
@click.option("--seeds", default=3)
@click.option("--rows", default=2000, help="Rows of a table at most.")
@click.option("--report", "only_report", is_flag=True, help="Print what is in --output; run nothing.")
@click.option("--output", default="anomaly.jsonl", type=click.Path(path_type=Path))
def main(folder, only, seeds, rows, only_report, output):
    """Compare anomaly scores by the area under the ROC curve."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    lines = [json.loads(each) for each in output.read_text().splitlines()] if output.exists() else []
    done = {(each["table"], each["protocol"], each["seed"]): each["areas"] for each in lines}
    paths = sorted(folder.glob("*.npz"), key=lambda path: np.load(path)["X"].size)
    paths = [path for path in paths if not only or path.stem in only]
    if not paths:
        raise click.BadParameter(f"no table in {folder}: expected .npz files with X and y")
    for seed in range(seeds):
        for path in paths:
            for protocol in PROTOCOLS:
                if (path.stem, protocol, seed) not in done and not only_report:
                    found = areas(np.load(path), protocol, seed, rows)
                    done[path.stem, protocol, seed] = found
                    line = {"table": path.stem, "protocol": protocol, "seed": seed, "areas": found}
                    with output.open("a") as file:
                        file.write(json.dumps(line) + "\n")
    for protocol in PROTOCOLS:
        report(protocol, done, sorted({name for name, how, _ in done if how == protocol}))


def report(protocol, done, names):
    """Print a Markdown table of one protocol."""
    methods = list(next(iter(done.values())))
    click.echo(f"\n| {protocol} | " + " | ".join(methods) + " |\n" + "|---" * (len(methods) + 1) + "|")
    means = []
    for name in names:
        found = [each for (table, how, _), each in done.items() if (table, how) == (name, protocol)]
        means.append([np.mean([each[method] for each in found]) for method in methods])
        click.echo(f"| {name} | " + " | ".join(f"{each:.3f}" for each in means[-1]) + " |")
    click.echo("| **mean** | " + " | ".join(f"{each:.3f}" for each in np.mean(means, 0)) + " |")


if __name__ == "__main__":
    main()
