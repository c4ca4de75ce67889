"""Refined proposals on MNIST: the share of rows with a bad Pareto k before and after, and the time.

    python benchmarks/refinement.py                          # 784-200-200-50, tanh, 10 % noise, 20 epochs
    python benchmarks/refinement.py --over-fitted --rows 200 # 784-200-50, softplus, 5,000 rows, 400 epochs

The model is trained first and stored in --folder, like the progress of the evaluation, so a stopped run can
be repeated to continue. Times are processor milliseconds, the median of chunks of 1,000 rows after the first,
which compiles; "draws alone" is the same estimate without refinement. It uses one thread, unless --threads is
given.
"""

import statistics
import time
from pathlib import Path

import click
import torch
from peers.processes import processor

import pyro_dvae as dv
from pyro_dvae.networks import BernoulliDecoder, GaussianEncoder

PART = 500


def binary_rows(data_folder, over_fitted, quick):
    """Return training and test rows, pixels drawn once."""
    if quick:
        return (torch.rand(200, 784) < 0.13).float(), (torch.rand(20, 784) < 0.13).float()
    data = dv.load_dataset("mnist", data_folder)
    generator = torch.Generator().manual_seed(0)
    parts = (data.train[: 5000 if over_fitted else None], data.test)
    train, test = ((torch.rand(each.shape, generator=generator) < each).float() for each in parts)
    return train, test


def trained(folder, train, over_fitted, epochs):
    """Return the model; train it if there is no file."""
    torch.manual_seed(0)
    hidden, activation = ((200,), "softplus") if over_fitted else ((200, 200), "tanh")
    pair = dv.DVAE(
        GaussianEncoder(784, 50, hidden, activation),
        BernoulliDecoder(784, 50, hidden, activation),
        dv.NoCorruption() if over_fitted else dv.SaltAndPepper(0.1),
    )
    path = folder / "model.pt"
    if path.exists():
        pair.load_state_dict(torch.load(path))
    else:
        dv.fit(pair.model, pair.guide, train, loss=dv.TraceDenoising_ELBO(), epochs=epochs, seed=0)
        torch.save(pair.state_dict(), path)
    return pair


class Clock:
    """Times chunks of rows; called after each with the number of finished rows."""

    def __init__(self):
        self.done, self.since, self.chunks = 0, time.process_time(), []

    def __call__(self, done, total):
        now = time.process_time()
        if done > self.done:
            self.chunks.append(1000 * (now - self.since) / (done - self.done))
        self.done, self.since = done, now

    def __str__(self):
        return f"{statistics.median(self.chunks[1:] or self.chunks):.1f}" if self.chunks else "?"


@click.command()
@click.option("--over-fitted", is_flag=True, help="A model that has learned 5,000 rows by heart.")
@click.option("--rows", default=10_000, show_default=True)
@click.option("--training", is_flag=True, help="Evaluate training rows.")
@click.option("--samples", default=5000, show_default=True, help="Draws of each row.")
@click.option("--threads", default=1, show_default=True)
@click.option("--data-folder", default="data", show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), default=Path("refinement"), show_default=True)
@click.option("--quick", is_flag=True, help="A run of seconds on random bits, which shows that it runs.")
def main(over_fitted, rows, training, samples, threads, data_folder, folder, quick):
    """Print the shares, and milliseconds per row."""
    torch.set_num_threads(threads)
    folder = folder / ("quick" if quick else "over-fitted" if over_fitted else "mnist")
    folder.mkdir(parents=True, exist_ok=True)
    train, test = binary_rows(data_folder, over_fitted, quick)
    pair = trained(folder, train, over_fitted, 1 if quick else 400 if over_fitted else 20)
    rows, samples = (4, 100) if quick else (rows, samples)
    x = (train if training else test)[:rows]
    options = {"num_samples": samples, "seed": 0, "compile": not quick, "max_plate_nesting": 1}
    clock, plain = Clock(), Clock()
    name = f"{'training' if training else 'test'}-{rows}-{samples}"
    found = dv.log_likelihood(
        pair.model, pair.guide, x, refine=True, progress=clock, checkpoint=folder / name, **options
    )
    dv.log_likelihood(pair.model, pair.guide, x[:200], proposal="clean", progress=plain, **options)
    refined, bad = found.refined, (found.pareto_k > 0.7) & ~found.refined.annealed
    print(
        f"{len(x)} {'training' if training else 'test'} rows, {samples} draws, {processor()}, {threads} "
        f"thread(s), torch {torch.__version__}\n"
        f"k > 0.7: {100 * refined.share_before(0.7):.1f} % before, {100 * float(bad.double().mean()):.2f} % "
        f"after, rows by proposal {refined.counts}; log p(x) {found.mean:.3f}\n"
        f"{clock} ms a row, of which draws alone {plain}"
    )
    if bool(refined.annealed.any()):
        print(f"annealed: effective samples of 16 chains {found.ess[refined.annealed].tolist()}")


if __name__ == "__main__":
    main()
