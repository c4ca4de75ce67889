"""A table of mixed columns (reals, amounts, counts, ordered levels, categories) and its bound.

    python examples/mixed_table.py

scikit-learn's 178 wines, with columns of every kind made from them: three real, two positive amounts, two
counts, one ordered in five levels, one binary, and the grape as a category. ``TableDecoder`` needs only
the kinds. The noise swaps cells with other rows. The example prints the importance-weighted bound of log p of
held-out rows, compared with the same likelihoods without latents (independent columns). The picture compares
each column of the data with rows drawn from the model.
"""

from pathlib import Path

import click
import pyro
import torch
from torch import Tensor

import pyro_dvae as dv
from pyro_dvae import plots
from pyro_dvae.jobs.command import Command
from pyro_dvae.networks import TableDecoder, TableEncoder
from pyro_dvae.networks.columns import Column

COLUMNS: dict[str, Column] = {
    "alcohol": "real",
    "ash": "real",
    "phenols": "heavy-tailed",
    "malic acid": "positive",
    "colour": "positive",
    "magnesium": "count",
    "proline / 10": "count",
    "hue": ("ordinal", 5),
    "flavanoids > 2": "binary",
    "grape": ("categorical", 3),
}


def table() -> Tensor:
    """Return the rows, [178, 10]."""
    from sklearn.datasets import load_wine

    wine = load_wine()
    raw = dict(zip(wine.feature_names, torch.as_tensor(wine.data).T, strict=True))

    def standard(name: str) -> Tensor:
        return (raw[name] - raw[name].mean()) / raw[name].std()

    cuts = raw["hue"].quantile(torch.tensor([0.2, 0.4, 0.6, 0.8], dtype=torch.float64))
    cells = [
        standard("alcohol"),
        standard("ash"),
        standard("total_phenols"),
        raw["malic_acid"],
        raw["color_intensity"],
        raw["magnesium"],
        (raw["proline"] / 10).round(),
        torch.bucketize(raw["hue"].contiguous(), cuts),
        raw["flavanoids"] > 2,
        torch.as_tensor(wine.target),
    ]
    return torch.stack([each.float() for each in cells], -1)


def independent(train: Tensor, steps: int) -> TableDecoder:
    """Return the likelihoods without latents, fitted by maximum likelihood at z = 0."""
    decoder, zero = TableDecoder([*COLUMNS.values()], 1, (1,)), torch.zeros(1, 1)
    optimiser = torch.optim.Adam(decoder.parameters(), 0.05)
    for _ in range(steps):
        optimiser.zero_grad()
        (-decoder(zero).log_prob(train).mean()).backward()
        optimiser.step()
    return decoder


@click.command(cls=Command)
@click.option("--swap", default=0.1, show_default=True, help="Rate of swapped cells.")
@click.option("--epochs", default=1500, show_default=True, help="Passes over the rows.")
@click.option("--seed", default=0, show_default=True, help="Seed.")
@click.option("--output", default="mixed_table.png", show_default=True, help="The picture.")
def main(swap: float, epochs: int, seed: int, output: str) -> None:
    """Train on three quarters of the rows, and bound log p of the others."""
    pyro.set_rng_seed(seed)
    rows = table()
    rows = rows[torch.randperm(len(rows))]
    train, test = rows[:134], rows[134:]
    columns = [*COLUMNS.values()]
    pair = dv.DVAE(
        TableEncoder(columns, 3, (64,), "tanh"),
        TableDecoder(columns, 3, (64,), "tanh"),
        dv.SwapNoise(swap, train),
    )
    dv.fit(
        pair.model,
        pair.guide,
        train,
        loss=dv.TraceDenoisingIWAE_ELBO(num_particles=5, max_plate_nesting=1),
        epochs=epochs,
        batch_size=50,
        learning_rate=3e-3,
        schedule="step",
        seed=seed,
        progress=False,
    )
    bound = dv.TraceDenoisingIWAE_ELBO(num_particles=500, max_plate_nesting=1)
    found = dv.evaluate_bound(pair.model, pair.guide, test, loss=bound, seed=seed)
    alone = dv.evaluation.Estimate(
        independent(train, 500)(torch.zeros(1, 1)).log_prob(test).detach().double()
    )
    print(f"independent columns   {alone.mean:8.3f} ± {alone.standard_error:.3f} nats a row")
    print(f"denoising VAE         {found.mean:8.3f} ± {found.standard_error:.3f} nats a row")
    with torch.no_grad():
        drawn = pair.model.decoder(torch.randn(2000, 3)).sample()
    picture(Path(output), rows, drawn)
    print(f"picture: {output}")


def picture(path: Path, rows: Tensor, drawn: Tensor) -> None:
    """Draw the share of each value, or range of values, in the data and in rows drawn from the model."""
    figure = plots.new_figure(11, 4.8, layout="constrained")
    for column, (axes, (name, kind)) in enumerate(
        zip(figure.subplots(2, 5).ravel(), COLUMNS.items(), strict=True)
    ):
        data, model = rows[:, column].numpy(), drawn[:, column].clamp(max=float(rows[:, column].max()) * 1.5)
        levels = kind[1] if isinstance(kind, tuple) else 2 if kind == "binary" else 0
        edges = [level - 0.5 for level in range(levels + 1)] if levels else 15
        _, edges, _ = axes.hist(data, edges, density=True, color="0.75", label="data")
        axes.hist(model.numpy(), edges, density=True, histtype="step", color="#0072B2", lw=1.8, label="model")
        axes.set(title=f"{name}\n{kind if isinstance(kind, str) else kind[0]}", yticks=[])
        axes.title.set_fontsize(9)
    figure.axes[0].legend(frameon=False, fontsize=8)
    plots.write_figure(path, figure)


if __name__ == "__main__":
    main()
