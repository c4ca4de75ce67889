"""Squared error of missing cells: ``dv.fit_table`` compared with means, neighbours and Gaussian models.

    python benchmarks/imputation.py                              # scikit-learn's breast-cancer table, 5 masks
    python benchmarks/imputation.py --tables FOLDER --masks 3    # every FOLDER/*.npz with an array X
    python benchmarks/imputation.py --gaps self-masking --extra "mask model"     # the protocol of not-MIWAE
    python benchmarks/imputation.py --extra forests --extra MIWAE    # LightGBM forests (miceforest); needs it

Tables are standardised on the full data. Cells are hidden completely at random, or ("self-masking", Ipsen et
al. 2021) values above the mean in the first half of the columns. "EM" is one Gaussian with a ridge of 1e-3.
"MIWAE" is an importance-weighted VAE (Mattei and Frellsen 2019) with 10 latents and two layers of 128; "mask
model" has a linear decoder, 10 latents and a learned logistic model of the mask (not-MIWAE). Every result is
immediately written as a line of --output, and a stopped run can be repeated to continue. The table shows the
mean squared error over the masks and its standard error; for "ours" and "EM" also the continuous ranked
probability score of 100 draws, the coverage of 90 % intervals, and processor seconds.
"""

import itertools
import json
import math
import time
from functools import partial
from pathlib import Path

import click
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pyro_dvae as dv
from pyro_dvae.models.tables.em import gaussian_mixture

DRAWS = 100


def ours(x):
    """Return means and draws of the missing cells."""
    found = dv.fit_table(x, seed=0, progress=False).condition(x, num_draws=DRAWS, seed=0)
    return found.cell_means, found.cell_draws


def expectation_maximisation(x):
    """Return means and draws of the missing cells under one Gaussian."""
    single = gaussian_mixture(x, ridge=1e-3, num_steps=100, tolerance=1e-6)
    filled, seen = x.nan_to_num(), ~x.isnan()
    return single.expected(filled, seen)[~seen], single.drawn(filled, seen, DRAWS)[:, ~seen]


def by_imputer(made):
    """Return the method of a scikit-learn imputer."""

    def method(x):
        return torch.as_tensor(made().fit_transform(x.numpy()))[x.isnan()], None

    return method


def column_mean(x):
    return x.nanmean(0).expand(x.shape)[x.isnan()], None


def forests(x):
    """Return means of five imputations by chained LightGBM forests."""
    import miceforest
    import pandas

    frame = pandas.DataFrame(x.numpy(), columns=[f"x{each}" for each in range(x.shape[1])])
    kernel = miceforest.ImputationKernel(frame, num_datasets=5, random_state=0)
    kernel.mice(4, num_threads=1)
    filled = [kernel.complete_data(each).to_numpy() for each in range(5)]
    return torch.as_tensor(np.mean(filled, 0))[x.isnan()], None


def importance_weighted(x, not_at_random=False):
    """Return means and draws under a VAE of 10 latents, with a model of the mask if ``not_at_random``."""
    size, latents, hidden = x.shape[1], 10, 128
    torch.manual_seed(0)

    def layers(*sizes):
        made = [nn.Linear(*pair) for pair in itertools.pairwise(sizes)]
        return nn.Sequential(*[part for each in made for part in (each, nn.Tanh())][:-1]).double()

    decoder = layers(latents, size) if not_at_random else layers(latents, hidden, hidden, size)
    encoder = layers(2 * size, hidden, hidden, 2 * latents)
    log_scale = nn.Parameter(torch.zeros(()).double())
    masks = dv.networks.SelfMasking(size).double() if not_at_random else None

    def model(x):
        pyro.module("decoder", decoder)
        scale = pyro.param("log_scale", lambda: log_scale).exp()
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(latents), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), scale).to_event(1), obs=x)

    def guide(x, seen):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            loc, log_scale = encoder(torch.cat([x, seen.to(x)], -1)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.clamp(-7, 3).exp()).to_event(1))

    pyro.clear_param_store()
    pair = dv.with_gaps(model, guide, pass_mask=True, mask_model=masks)
    loss = dv.TraceDenoisingIWAE_ELBO(num_particles=20, max_plate_nesting=1)
    options = {"epochs": 200, "batch_size": 114, "learning_rate": 3e-3, "progress": False}
    dv.fit(*pair, *dv.fill_gaps(x), loss=loss, **options)
    refine = dv.Refinement(families=("diagonal",), annealing_steps=0, pilot=200)
    options = {"num_draws": DRAWS, "num_samples": 500, "refine": refine, "seed": 0, "progress": False}
    found = dv.condition(model, guide, x, mask_model=masks, pass_mask=True, **options)
    return found.cell_means, found.cell_draws


EXTRA = {
    "forests": forests,
    "MIWAE": importance_weighted,
    "mask model": partial(importance_weighted, not_at_random=True),
}


def methods(extra):
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer, KNNImputer
    from sklearn.linear_model import BayesianRidge

    found = {
        "column mean": column_mean,
        "kNN": by_imputer(lambda: KNNImputer(n_neighbors=10)),
        "Bayesian ridge": by_imputer(lambda: IterativeImputer(BayesianRidge(), max_iter=10)),
        "EM": expectation_maximisation,
        "ours": ours,
    }
    return found | {name: EXTRA[name] for name in extra}


def tables(folder, limit):
    """Yield name and standardised rows."""
    if folder is None:
        from sklearn.datasets import load_breast_cancer

        sources = {"breast cancer": load_breast_cancer().data}
    else:
        sources = {path.stem: np.load(path)["X"] for path in sorted(folder.glob("*.npz"))}
    for name, rows in sorted(sources.items(), key=lambda each: each[1].size):
        torch.manual_seed(0)
        rows = torch.as_tensor(np.asarray(rows, dtype=np.float64))
        if limit and len(rows) > limit:
            rows = rows[torch.randperm(len(rows))[:limit]]
        rows = rows[:, rows.std(0) > 0]
        yield name, (rows - rows.mean(0)) / rows.std(0)


def hidden_cells(truth, gaps, missing, mask):
    """Return which cells are hidden, [N, D]."""
    torch.manual_seed(1000 + mask)
    if gaps == "self-masking":
        first = torch.arange(truth.shape[1]) < truth.shape[1] // 2
        return (truth > truth.mean(0)) & first
    return torch.rand(truth.shape) < missing


def measured(method, x, truth, hidden):
    """Return the results of a method as JSON-able values."""
    start = time.process_time()
    mean, draws = method(x)
    found = {"seconds": time.process_time() - start}
    exact = truth[hidden]
    found["error"] = float((mean - exact).square().mean())
    if draws is not None:
        half = len(draws) // 2
        spread = (draws[:half] - draws[half:]).abs().mean()
        found["crps"] = float((draws - exact).abs().mean() - 0.5 * spread)
        low, high = draws.quantile(0.05, 0), draws.quantile(0.95, 0)
        found["coverage"] = float(((exact >= low) & (exact <= high)).double().mean())
    return found


@click.command()
@click.option("--tables", "folder", type=click.Path(path_type=Path), help="Folder of .npz files with X.")
@click.option("--only", multiple=True, help="Names of tables.")
@click.option("--gaps", type=click.Choice(["random", "self-masking"]), default="random")
@click.option("--missing", default=0.5, help="Share of the cells to hide at random.")
@click.option("--masks", default=5)
@click.option("--rows", default=1000, help="Rows of a table at most; 0 takes all.")
@click.option("--extra", multiple=True, type=click.Choice(list(EXTRA)))
@click.option("--methods", "chosen", multiple=True, help="Names of methods; all by default.")
@click.option("--report", "only_report", is_flag=True, help="Print what is in --output; run nothing.")
@click.option("--output", default="imputation.jsonl", type=click.Path(path_type=Path))
def main(folder, only, gaps, missing, masks, rows, extra, chosen, only_report, output):
    """Compare imputations of tables."""
    torch.set_num_threads(1)
    lines = [json.loads(each) for each in output.read_text().splitlines()] if output.exists() else []
    settings = {"gaps": gaps, "missing": missing if gaps == "random" else None, "rows": rows}
    done = {}
    for line in lines:
        if all(line[key] == value for key, value in settings.items()):
            done[line["table"], line["mask"], line["method"]] = line
    wanted = {name: each for name, each in methods(extra).items() if not chosen or name in chosen}
    shapes = {}
    for mask in range(1 if gaps == "self-masking" else masks):
        for name, truth in tables(folder, rows):
            if only and name not in only:
                continue
            if only_report and (name, mask, "ours") not in done:
                continue
            shapes[name] = tuple(truth.shape)
            hidden = hidden_cells(truth, gaps, missing, mask)
            x = truth.masked_fill(hidden, math.nan)
            for method, run in wanted.items():
                if (name, mask, method) not in done and not only_report:
                    line = {"table": name, "mask": mask, "method": method, **settings}
                    line |= measured(run, x, truth, hidden)
                    done[name, mask, method] = line
                    with output.open("a") as file:
                        file.write(json.dumps(line) + "\n")
    report(done, shapes, list(wanted))


def report(done, shapes, names):
    """Print a Markdown table of the tables, and the means over them."""
    click.echo("| table | rows, columns | " + " | ".join(names) + " | CRPS, EM | CRPS | coverage | s |")
    click.echo("|---" * (len(names) + 6) + "|")
    means = {}
    for table, shape in sorted(shapes.items()):
        masks = [{mask for name, mask, method in done if (name, method) == (table, each)} for each in names]
        common = set.intersection(*masks)  # an unfinished mask may lack some methods
        lines = [line for line in done.values() if line["table"] == table and line["mask"] in common]
        cells = [_with_error([each["error"] for each in lines if each["method"] == name]) for name in names]
        for key, method in (("crps", "EM"), ("crps", "ours"), ("coverage", "ours"), ("seconds", "ours")):
            cells.append(_mean([each[key] for each in lines if each["method"] == method]))
        for name in names:
            errors = [each["error"] for each in lines if each["method"] == name]
            means.setdefault(name, []).append(np.mean(errors))
        click.echo(f"| {table} | {shape[0]:,}, {shape[1]} | " + " | ".join(cells) + " |")
    click.echo("| **mean** | | " + " | ".join(f"{np.mean(means[name]):.3f}" for name in names) + " | | | | |")


def _with_error(values):
    error = np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{np.mean(values):.3f}" + ("" if math.isnan(error) else f" ± {error:.3f}")


def _mean(values):
    return f"{np.mean(values):.3g}" if values else ""


if __name__ == "__main__":
    main()
