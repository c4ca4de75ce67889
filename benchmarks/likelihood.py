"""The cost of a held-out log-likelihood by importance sampling, per (datum, sample).

    python benchmarks/likelihood.py                 # some minutes; pip install pythae for its rows
    python benchmarks/likelihood.py --quick

The paper's network (784-200-z50-200-200-784, softplus) on binary data. The floor is the decoder's three
matrix products in float32 and nothing else, for the rows of one of our passes, by the library that our passes
use (pyro_dvae.engine.fast_products); one row of the table is the same by torch's own choice.

All contenders process the data in chunks, and the floor is timed after each chunk, so that ratios compare
neighbouring moments. "ns" is the median of the chunks after the first, "of floor" its ratio to the floor: the
steady state, with everything in a chunk (weights, their sums, the Pareto fit). "prepared" is the time before:
recording, checks, the compiler, and any extra time of the first chunk. "whole" is the call for the stated
number of rows. Both are from the first round, as in a new process (the compiler may find files of earlier
runs); the others are medians over rounds, which take the rows in changing order.

The script is what one would write with torch.distributions, 100 rows at once. pythae runs the same weights in
its own modules under torch.no_grad(), one row at a time: with its default of 100 samples at once, and with
the best of some other sizes. It takes the same number of draws, and returns only the mean, without error or
reliability.
"""

import importlib
import importlib.metadata
import importlib.util
import math
import statistics
import time
from functools import partial
from unittest.mock import patch

import click
import pyro
import torch
from torch import nn

import pyro_dvae as dv
from pyro_dvae.engine import fast_products
from pyro_dvae.evaluation.importance import plan
from pyro_dvae.evaluation.importance.plan import ROWS_IN_CACHE
from pyro_dvae.networks import BernoulliDecoder, GaussianEncoder

PIXELS, LATENTS, HIDDEN = 784, 50, 200
DENSITY = 0.13  # share of white pixels in binary MNIST
SCRIPT_DATA = 100
PYTHAE_DEFAULT = 100
PYTHAE_SIZES = (10, 25, 50, 100, 250, 500, 1000)
OURS = {
    "ours, every pass anew": {"compile": False},
    "ours, recorded": {"compile": False, "recorded": True},
    "ours, compiled": {"compile": True, "recorded": True},
    "ours, compiled, bfloat16": {"compile": True, "recorded": True, "bfloat16": True},
}


class Clock:
    """Times chunks of work and the floor in turn; called with the number of finished rows after each."""

    def __init__(self):
        factors = [(LATENTS, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, PIXELS)]
        self.factors = [(torch.randn(ROWS_IN_CACHE, a), torch.randn(b, a).T) for a, b in factors]
        self.chunks, self.floors, self.done = [], [], 0
        self.since = time.perf_counter()

    def __call__(self, done, total):
        self.chunks.append((done - self.done, time.perf_counter() - self.since))
        with fast_products():
            started = time.perf_counter()
            self.products()
            self.since = time.perf_counter()
        self.floors.append((self.since - started) / ROWS_IN_CACHE)
        self.done = done

    def products(self):
        """Compute the decoder's products."""
        for left, right in self.factors:
            torch.mm(left, right)

    def figures(self, samples, tail=0.0):
        """Return the times by name (seconds) of work that took ``tail`` seconds after its last chunk."""
        row = statistics.median(seconds / data for data, seconds in self.chunks[1:]) / samples
        whole = sum(seconds for _, seconds in self.chunks) + tail
        data, first = self.chunks[0]
        return {
            "row": row,
            "ratio": row / statistics.median(self.floors),
            "floor": statistics.median(self.floors),
            "prepared": first - data * samples * row,
            "whole": whole,
        }


def ours(dvae, x, samples, clock, recorded=False, **options):
    """Return the mean estimate of :func:`pyro_dvae.log_likelihood`."""
    options |= {"num_samples": samples, "progress": clock, "max_plate_nesting": 1}
    with patch.object(plan, "_WORTH_RECORDING", 0.0 if recorded else math.inf):
        found = dv.log_likelihood(dvae.model, dvae.guide, x, **options)
    return found.mean


def products_alone(dvae, x, samples, clock):
    """Compute the products of the floor with torch's own choice of a library."""
    at_once = -(-ROWS_IN_CACHE // samples)
    for start in range(0, len(x), at_once):
        for _ in range(0, at_once * samples, ROWS_IN_CACHE):
            clock.products()
        clock(min(start + at_once, len(x)), len(x))
    return math.nan


@torch.no_grad()
def script(dvae, x, samples, clock):
    """Estimate with a script written by hand."""
    encoder, decoder = dvae.guide.encoder, dvae.model.decoder
    prior = torch.distributions.Normal(0.0, 1.0)
    found = []
    for chunk in x.split(SCRIPT_DATA):
        posterior = torch.distributions.Normal(*encoder(chunk))
        z = posterior.sample((samples,))
        pixels = torch.distributions.Bernoulli(logits=decoder.head(decoder.trunk(z)))
        log_weight = pixels.log_prob(chunk).sum(-1) + (prior.log_prob(z) - posterior.log_prob(z)).sum(-1)
        found.append(log_weight.logsumexp(0) - math.log(samples))
        clock(sum(map(len, found)), len(x))
    return float(torch.cat(found).mean())


@torch.no_grad()
def pythae(dvae, x, samples, clock, size):
    """Return the mean of pythae's estimates."""
    vae = pythae_vae(dvae)
    total = 0.0
    for index in range(len(x)):
        total += float(vae.get_nll(x[index : index + 1], n_samples=samples, batch_size=size))
        clock(index + 1, len(x))
    return total / len(x)


def pythae_vae(dvae):
    """Return pythae's VAE with our networks' weights."""
    models = importlib.import_module("pythae.models")
    bases = importlib.import_module("pythae.models.nn")
    output = importlib.import_module("pythae.models.base.base_utils").ModelOutput

    class Encoder(bases.BaseEncoder):
        def __init__(self):
            nn.Module.__init__(self)
            self.trunk, self.head = dvae.guide.encoder.trunk, dvae.guide.encoder.head

        def forward(self, x):
            loc, log_variance = self.head(self.trunk(x)).chunk(2, -1)
            return output(embedding=loc, log_covariance=log_variance)

    class Decoder(bases.BaseDecoder):
        def __init__(self):
            nn.Module.__init__(self)
            self.trunk, self.head = dvae.model.decoder.trunk, dvae.model.decoder.head

        def forward(self, z):
            return output(reconstruction=self.head(self.trunk(z)).sigmoid())

    config = models.VAEConfig(input_dim=(PIXELS,), latent_dim=LATENTS, reconstruction_loss="bce")
    return models.VAE(config, Encoder(), Decoder()).eval()


def pythae_sizes(samples):
    """Return the numbers of samples at once for which pythae draws exactly ``samples``: their divisors."""
    return sorted({size for size in (*PYTHAE_SIZES, samples) if samples % size == 0})


def best_size(dvae, x, samples):
    """Return the number of samples at once with which pythae is fastest."""
    taken = {}
    for size in pythae_sizes(samples):
        clock = Clock()
        pythae(dvae, x, samples, clock, size)
        taken[size] = clock.figures(samples)["ratio"]
    return min(taken, key=lambda size: taken[size])


def jobs(dvae, x, samples, slow):
    """Return the contenders by name: a function of a clock that returns the mean, and its number of rows."""
    few = x[:slow]
    found = {"floor, torch's own library": (partial(products_alone, dvae, x, samples), len(x))}
    for name, options in OURS.items():
        found[name] = (partial(ours, dvae, x, samples, **options), len(x))
    some = x[: 2 * SCRIPT_DATA]
    found["torch.distributions script"] = (partial(script, dvae, some, samples), len(some))
    if importlib.util.find_spec("pythae"):
        best = best_size(dvae, few[:6], samples)
        default = PYTHAE_DEFAULT if samples % PYTHAE_DEFAULT == 0 else samples
        for label, size in (
            (f"pythae, {default} at once", default),
            (f"pythae, {best} at once (best)", best),
        ):
            found[label] = (partial(pythae, dvae, few, samples, size=size), len(few))
    return found


def measure(dvae, x, samples, slow, rounds):
    """Return the times of every round, and the last estimate, by name."""
    work = jobs(dvae, x, samples, slow)
    figures = {name: [] for name in work}
    for index in range(rounds):
        order = list(work)
        for name in order[index % len(order) :] + order[: index % len(order)]:
            run, count = work[name]
            clock = Clock()
            mean = run(clock)
            tail = time.perf_counter() - clock.since
            figures[name].append(clock.figures(samples, tail) | {"data": count, "mean": mean})
    return figures


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--data", type=click.IntRange(2 * SCRIPT_DATA), default=1000, show_default=True, help="Data.")
@click.option("--slow-data", type=click.IntRange(2), default=20, show_default=True, help="Data for pythae.")
@click.option("--samples", default=500, show_default=True, help="Samples per datum.")
@click.option("--threads", default=torch.get_num_threads(), show_default=True)
@click.option("--data-folder", type=click.Path(), help="Where MNIST is; without, random bits of its density.")
@click.option("--quick", is_flag=True, help="A run of seconds, which shows that it runs and no more.")
def main(rounds, data, slow_data, samples, threads, data_folder, quick):
    if quick:
        rounds, data, slow_data, samples = 1, 2 * SCRIPT_DATA, 4, 50
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    pyro.settings.set(module_local_params=True)
    dvae = dv.DVAE(
        GaussianEncoder(PIXELS, LATENTS, (HIDDEN, HIDDEN)),
        BernoulliDecoder(PIXELS, LATENTS),
        dv.NoCorruption(),
    )
    if data_folder is None:
        x = (torch.rand(data, PIXELS) < DENSITY).float()
    else:
        x = dv.load_dataset("mnist", root=data_folder).test[:data].round()
    figures = measure(dvae, x, samples, slow_data, rounds)
    floor = statistics.median(each["floor"] for found in figures.values() for each in found)
    print(f"{samples} samples of each datum, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{'':<29}{'ns':>8}{'of floor':>10}{'prepared s':>12}{'whole s':>9}{'data':>7}{'log p(x)':>11}")
    print(f"{'floor, our choice':<29}{1e9 * floor:>8.0f}{1:>10.2f}")
    middle = {
        name: found[0] | {key: statistics.median(each[key] for each in found) for key in ("row", "ratio")}
        for name, found in figures.items()
    }
    for name, each in middle.items():
        print(
            f"{name:<29}{1e9 * each['row']:>8.0f}{each['ratio']:>10.2f}{each['prepared']:>12.2f}"
            f"{each['whole']:>9.2f}{each['data']:>7}"
            + ("" if math.isnan(each["mean"]) else f"{each['mean']:>11.2f}")
        )
    if not importlib.util.find_spec("pythae"):
        print("pythae is not installed: left out (pip install pythae)")
        return
    print(f"pythae {importlib.metadata.version('pythae')}, time relative to ours, by multiples of the floor:")
    for name in (each for each in middle if each.startswith("pythae")):
        times = [f"{middle[name]['ratio'] / middle[own]['ratio']:.1f} ({own[6:]})" for own in OURS]
        print(f"  {name}: {', '.join(times)}")


if __name__ == "__main__":
    main()
