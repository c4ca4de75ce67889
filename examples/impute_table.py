"""Fill the gaps of a table without tuning: ``dv.fit_table`` compared with column means and one Gaussian.

    python examples/impute_table.py                       # scikit-learn's wine table, half of it missing
    python examples/impute_table.py --table my.csv --missing 0.2

Cells are hidden at random; the table may have gaps of its own. The model is fitted only to the observed
cells, and the hidden cells are drawn given the observed ones. The script prints the candidates chosen on
held-out cells, the root mean squared error of the hidden cells (in standard deviations of their column), and
the share of them in their 90 % intervals. The picture shows predictions against the truth.
"""

from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

import pyro_dvae as dv
from pyro_dvae import plots
from pyro_dvae.datasets.tables import csv_content
from pyro_dvae.datasets.treatment import Treatment
from pyro_dvae.jobs.command import Command
from pyro_dvae.models.tables.em import gaussian_mixture


def table(path: Path | None) -> Tensor:
    """Return the standardised numbers of a table, [N, D], with NaN in its own gaps."""
    if path is None:
        from sklearn.datasets import load_wine

        rows = torch.as_tensor(load_wine().data)
    else:
        columns = csv_content(path, Treatment()).table
        assert columns is not None
        if texts := [name for name, cells in columns.items() if cells.dtype.kind not in "biuf"]:
            raise dv.DataError(f"{path}: expected numbers, got text in column {texts[0]!r}; remove it")
        rows = torch.as_tensor(np.stack(list(columns.values()), 1).astype(np.float64))
    mean = rows.nanmean(0)
    spread = (rows - mean).square().nanmean(0).sqrt()
    return (rows - mean) / torch.where(spread > 0, spread, 1.0)


@click.command(cls=Command)
@click.option("--table", "path", type=click.Path(path_type=Path), help="CSV file of numbers with a header.")
@click.option("--missing", default=0.5, help="Share of the cells to hide.")
@click.option("--draws", default=200, help="Draws of each missing cell.")
@click.option("--seed", default=0, help="Seed of the gaps, of the fit and of the draws.")
@click.option("--output", default="imputed.png", type=click.Path(path_type=Path), help="The picture.")
def main(path: Path | None, missing: float, draws: int, seed: int, output: Path) -> None:
    """Fill the gaps of a table, beside column means and one Gaussian."""
    torch.manual_seed(seed)
    truth = table(path)
    hidden = (torch.rand(truth.shape) < missing) & ~truth.isnan()
    x = truth.masked_fill(hidden, torch.nan)
    fitted = dv.fit_table(x, seed=seed)
    click.echo(f"{fitted}\n")
    found = fitted.condition(x, num_draws=draws, seed=seed)
    click.echo(f"{found}\n")
    single = gaussian_mixture(x, ridge=1e-3, num_steps=100)
    answers = {
        "column means": truth * 0,
        "one Gaussian": single.expected(x.nan_to_num(), ~x.isnan()),
        "fit_table": found.mean,
    }
    for name, filled in answers.items():
        error = (filled - truth)[hidden].square().mean().sqrt()
        click.echo(f"{name:<15}  rms error {float(error):.3f}")
    low, high = found.interval(0.9)
    covered = ((truth >= low) & (truth <= high))[hidden].double().mean()
    click.echo(f"in their 90 % intervals: {covered:.1%} of {int(hidden.sum())} hidden cells")
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
