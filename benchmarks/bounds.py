"""The cost of a step of each bound, and the spread of each gradient estimator.

    python benchmarks/bounds.py

Cost: the paper's network (784-200-z50-200-200-784), batch 100, 5 % of bits flipped, loss and gradient,
relative to M = K = 1 of the same bound; rounds are interleaved, and the median of their ratios is printed.
Variance: the summed variances of the gradients of encoder and rate, in small problems where all estimators
are unbiased (except the relaxed corruption, which is marked), relative to the first estimator of its group.
"""

import statistics
import time

import click
import pyro
import pyro.distributions as dist
import torch

import pyro_dvae as dv
from pyro_dvae.networks import BernoulliDecoder, GaussianEncoder

KINDS = {
    "TraceDenoising_ELBO": (dv.TraceDenoising_ELBO, {}),
    "TraceDenoising_ELBO, stl": (dv.TraceDenoising_ELBO, {"gradient": "stl"}),
    "TraceMeanFieldDenoising_ELBO": (dv.TraceMeanFieldDenoising_ELBO, {}),
    "TraceDenoisingIWAE_ELBO": (dv.TraceDenoisingIWAE_ELBO, {}),
    "TraceDenoisingIWAE_ELBO, pooled": (dv.TraceDenoisingIWAE_ELBO, {"combine": "pooled"}),
    "TraceDenoisingIWAE_ELBO, mixture": (dv.TraceDenoisingIWAE_ELBO, {"combine": "mixture"}),
    "TraceDenoisingIWAE_ELBO, dreg": (dv.TraceDenoisingIWAE_ELBO, {"gradient": "dreg"}),
    "TraceSemiImplicit_ELBO, J = 10": (dv.TraceSemiImplicit_ELBO, {"num_mixture": 10}),
}
DRAWS = ((1, 1), (5, 1), (1, 5), (5, 5))


def step_times(rounds, steps):
    """Return the seconds of a step in each round, by bound and (M, K)."""
    torch.manual_seed(0)
    dvae = dv.DVAE(GaussianEncoder(784, 50), BernoulliDecoder(784, 50), dv.BitFlip(0.05))
    x = torch.rand(100, 784).round()
    bounds = {
        (name, draws): kind(num_corruptions=draws[0], num_particles=draws[1], max_plate_nesting=1, **extra)
        for name, (kind, extra) in KINDS.items()
        for draws in DRAWS
    }
    times = {key: [] for key in bounds}
    for _ in range(rounds):
        for key, bound in bounds.items():
            bound.loss_and_grads(dvae.model, dvae.guide, x)
            started = time.perf_counter()
            for _ in range(steps):
                bound.loss_and_grads(dvae.model, dvae.guide, x)
            times[key].append((time.perf_counter() - started) / steps)
    return times


class Small(torch.nn.Module):
    """Eight pixels and a two-dimensional latent, Gaussian or Bernoulli."""

    def __init__(self, discrete, temperature=None):
        super().__init__()
        torch.manual_seed(0)
        self.discrete = discrete
        self.decode = torch.nn.Linear(2, 8).requires_grad_(False)
        self.encode = torch.nn.Linear(8, 2 if discrete else 4)
        self.noise = dv.BitFlip(0.2, learnable=True, temperature=temperature)

    def model(self, x):
        with pyro.plate("data", len(x)):
            if self.discrete:
                z = pyro.sample("z", dist.Bernoulli(logits=torch.zeros(2)).to_event(1))
            else:
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=3 * self.decode(z)).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            hidden = self.encode(dv.corrupt("x_tilde", self.noise, x))
            if self.discrete:
                pyro.sample("z", dist.Bernoulli(logits=hidden).to_event(1))
            else:
                loc, log_scale = hidden.chunk(2, -1)
                pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def variances(bound, problem, repeats):
    """Return the variances of the gradients of encoder and rate, each summed over its elements."""
    x = torch.rand(1, 8, generator=torch.Generator().manual_seed(1)).round()
    found = {"encoder": [], "rate": []}
    for _ in range(repeats):
        problem.zero_grad()
        bound.loss_and_grads(problem.model, problem.guide, x)
        found["encoder"].append(torch.cat([p.grad.flatten() for p in problem.encode.parameters()]))
        found["rate"].append(problem.noise.rate.raw.grad.reshape(1).clone())
    return {name: float(torch.stack(values).var(0).sum()) for name, values in found.items()}


def estimator_groups():
    """Return groups of estimators of the same gradient."""
    plain, iwae = dv.TraceDenoising_ELBO, dv.TraceDenoisingIWAE_ELBO
    return {
        "L_dvae, M = K = 4, Gaussian latents": [
            (
                "score of the rate, no baseline",
                plain(num_corruptions=4, num_particles=4, baseline="none"),
                Small(False),
            ),
            ("score of the rate, leave-one-out", plain(num_corruptions=4, num_particles=4), Small(False)),
            (
                "the same, sticking the landing",
                plain(num_corruptions=4, num_particles=4, gradient="stl"),
                Small(False),
            ),
            (
                "the same, closed-form KL",
                dv.TraceMeanFieldDenoising_ELBO(num_corruptions=4, num_particles=4),
                Small(False),
            ),
            (
                "relaxed corruption, T = 0.5 (biased)",
                plain(num_corruptions=4, num_particles=4),
                Small(False, temperature=0.5),
            ),
        ],
        "L_dvae, M = K = 4, Bernoulli latents": [
            ("score, no baseline", plain(num_corruptions=4, num_particles=4, baseline="none"), Small(True)),
            (
                "score, learned baseline (untrained)",
                plain(num_corruptions=4, num_particles=4, baseline=constant_baseline()),
                Small(True),
            ),
            ("score, leave-one-out", plain(num_corruptions=4, num_particles=4), Small(True)),
        ],
        "L_diwae, M = 1, K = 16, Gaussian latents": [
            ("pathwise", iwae(num_corruptions=1, num_particles=16), Small(False)),
            (
                "doubly reparameterised",
                iwae(num_corruptions=1, num_particles=16, gradient="dreg"),
                Small(False),
            ),
        ],
        "L_diwae, M = 1, K = 16, Bernoulli latents": [
            ("score, no baseline", iwae(num_corruptions=1, num_particles=16, baseline="none"), Small(True)),
            ("VIMCO", iwae(num_corruptions=1, num_particles=16), Small(True)),
        ],
    }


def constant_baseline():
    """Return a baseline network that predicts a constant, the scale of the bound."""
    network = torch.nn.Linear(8, 1)
    torch.nn.init.zeros_(network.weight)
    torch.nn.init.constant_(network.bias, -6.0)
    return network


@click.command()
@click.option("--rounds", default=7, show_default=True)
@click.option("--steps", default=10, show_default=True, help="Steps of each bound in a round.")
@click.option("--repeats", default=2000, show_default=True, help="Gradients of each estimator.")
def main(rounds, steps, repeats):
    """Print both tables."""
    pyro.settings.set(module_local_params=True)  # many small modules have the same names
    times = step_times(rounds, steps)
    print(
        f"{'step relative to M = K = 1':<36}"
        + "".join(f"{f'M={m} K={k}':>9}" for m, k in DRAWS[1:])
        + f"{'ms at 1':>9}"
    )
    for name in KINDS:
        base = times[name, (1, 1)]
        ratios = [
            statistics.median(a / b for a, b in zip(times[name, draws], base, strict=True))
            for draws in DRAWS[1:]
        ]
        cells = "".join(f"{ratio:>9.2f}" for ratio in ratios)
        print(f"{name:<36}{cells}{1e3 * statistics.median(base):>9.2f}")
    pyro.set_rng_seed(0)
    for group, members in estimator_groups().items():
        print(f"\nvariance of the gradient, {group}\n{'':<40}{'encoder':>9}{'rate':>9}")
        first = None
        for name, bound, problem in members:
            found = variances(bound, problem, repeats)
            first = found if first is None else first
            print(f"{name:<40}" + "".join(f"{found[key] / first[key]:>9.2g}" for key in found))


if __name__ == "__main__":
    main()
