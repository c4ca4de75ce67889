"""Held-out log-likelihood of a plain Pyro model, compared with the exact value: PCA of handwritten digits.

    python examples/heldout_likelihood.py

The model and the guide are the user's own, trained with Pyro's SVI and Trace_ELBO; only the estimate comes
from the library. For probabilistic PCA (Tipping and Bishop 1999) log p(x) is known in closed form, so each
estimate can be compared with it. One proposal is the trained guide, which is close to the posterior, another
is this guide at half its scale. The weights of the second have no finite variance: its estimates are too low
and their errors too small. The samples alone reveal this, by the Pareto k of each observation (Vehtari et al.
2024). The example then tries what the result advises: widening corrects the narrow guide; a share of prior
draws does not, because in several dimensions hardly any of them comes near the posterior.

For each proposal the example writes the labelled values of each observation as netCDF, and a picture.
"""

import re
from functools import partial
from pathlib import Path
from typing import Any

import click
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import ClippedAdam
from torch import Tensor
from torch.distributions import constraints

import pyro_dvae as dv
from pyro_dvae import plots
from pyro_dvae.evaluation import write_netcdf
from pyro_dvae.jobs.command import Command

# By name: factor of the trained guide's scale, options of the estimate, colour, line.
PROPOSALS: dict[str, tuple[float, dict[str, Any], str, str]] = {
    "trained guide": (1.0, {}, "#0072B2", "-"),
    "trained guide, widen=1.2": (1.0, {"widen": 1.2}, "#56B4E9", "-"),
    "trained guide, defensive=0.1": (1.0, {"defensive": 0.1}, "#0072B2", "--"),
    "half the scale": (0.5, {}, "#A32A00", "-"),
    "half the scale, defensive=0.1": (0.5, {"defensive": 0.1}, "#A32A00", "--"),
    "half the scale, widen=1.2": (0.5, {"widen": 1.2}, "#E07000", "-"),
    "half the scale, widen=1.8": (0.5, {"widen": 1.8}, "#E8B000", "-"),
}


def parameters(pixels: int, latents: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the model's factor loadings W [pixels, latents], mean b [pixels] and noise scale s."""
    weight = pyro.param("weight", lambda: 0.1 * torch.randn(pixels, latents))
    mean = pyro.param("mean", torch.zeros(pixels))
    scale = pyro.param("scale", torch.tensor(0.3), constraint=constraints.positive)
    return weight, mean, scale


def model(x: Tensor, latents: int) -> None:
    """z ~ N(0, I), x ~ N(Wz + b, s²I)."""
    weight, mean, scale = parameters(x.shape[-1], latents)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(latents), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ weight.T + mean, scale).to_event(1), obs=x)


def guide(x: Tensor, latents: int, factor: float = 1.0) -> None:
    """z ~ N(Ax + c, diag(factor · v)²)."""
    encode = pyro.param("encode", lambda: 0.1 * torch.randn(latents, x.shape[-1]))
    offset = pyro.param("offset", torch.zeros(latents))
    spread = pyro.param("spread", torch.ones(latents), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x @ encode.T + offset, factor * spread).to_event(1))


def train(x: Tensor, latents: int, steps: int) -> None:
    """Fit both with stock Pyro."""
    optimiser = ClippedAdam({"lr": 0.03, "lrd": 0.03 ** (1 / steps)})
    svi = SVI(model, guide, optimiser, Trace_ELBO())
    for _ in range(steps):
        svi.step(x[torch.randint(len(x), (256,))], latents)


@torch.no_grad()
def exact(x: Tensor, latents: int) -> Tensor:
    """Return log N(x; b, WWᵀ + s²I) of each observation (nats), shape [N]."""
    weight, mean, scale = (each.double() for each in parameters(x.shape[-1], latents))
    marginal = dist.LowRankMultivariateNormal(mean, weight, (scale**2).expand(len(mean)))
    return marginal.log_prob(x.double())


@click.command(cls=Command)
@click.option("--latents", default=8, show_default=True, help="Dimensions of the latent.")
@click.option("--steps", default=1500, show_default=True, help="Steps of training.")
@click.option("--data", default=270, show_default=True, help="Held-out digits, at most 270.")
@click.option("--samples", default=5000, show_default=True, help="Samples per observation.")
@click.option("--seed", default=0, show_default=True, help="Seed.")
@click.option("--output", default="heldout_likelihood", show_default=True, help="Folder of what is written.")
def main(latents: int, steps: int, data: int, samples: int, seed: int, output: str) -> None:
    """Estimate a known log-likelihood with good proposals and bad ones."""
    torch.set_num_threads(1)  # these tensors are small, so a second thread would be slower
    pyro.set_rng_seed(seed)
    pyro.clear_param_store()
    digits = dv.load_dataset("digits")
    train(digits.train, latents, steps)
    x = digits.test[:data]
    truth = exact(x, latents)
    found = {
        name: dv.log_likelihood(
            partial(model, latents=latents),
            partial(guide, latents=latents, factor=factor),
            x,
            num_samples=samples,
            seed=seed,
            max_plate_nesting=1,
            **options,
        )
        for name, (factor, options, *_) in PROPOSALS.items()
    }
    print(f"log p(x) of {len(x)} held-out digits, {samples} samples of each (nats per digit)")
    print(f"{'proposal':<31}{'estimate':>9}{'error':>8}{'exact':>9}{'off by':>9}{'ESS':>7}{'k':>7}{'bad':>7}")
    for name, each in found.items():
        off = each.mean - float(truth.mean())
        print(
            f"{name:<31}{each.mean:>9.3f}{each.sampling_error:>8.4f}{float(truth.mean()):>9.3f}{off:>+9.4f}"
            f"{float(each.ess.median()):>7.0f}{float(each.pareto_k.median()):>7.2f}{each.share_unreliable:>7.1%}"
        )
    print("ESS, k: medians; bad: share of the digits whose Pareto k is above the threshold")
    for name, each in found.items():
        if each.advice:
            print(f"{name}: {each.advice}")
    folder = Path(output)
    draw(folder / "pareto_k.png", found, truth)
    for name, each in found.items():
        write_netcdf(each.to_arviz(), folder / f"{re.sub('[^a-z0-9.]+', '_', name)}.nc")
    print(f"written: {folder}")


def draw(path: Path, found: dict[str, dv.LogLikelihood], truth: Tensor) -> None:
    """Draw the convergence of the estimates to the exact value, and the reliability of each digit's."""
    figure = plots.new_figure(10.0, 5.2, layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, each in found.items():
        _, _, colour, line = PROPOSALS[name]
        sizes, bounds = each.bound_by_samples
        style = {"color": colour, "linestyle": line, "linewidth": 1.8, "label": name}
        left.plot(sizes, (bounds.mean(0) - truth.mean()).numpy(), **style)
        share = 100 * torch.arange(1, len(each) + 1) / len(each)
        right.step(each.pareto_k.sort().values.numpy(), share.numpy(), where="post", **style)
    left.axhline(0.0, color="0.3", linestyle=":", linewidth=1)
    left.annotate("exact", (1.0, 0.0), xytext=(0, 4), textcoords="offset points", color="0.3")
    left.set_xscale("log")
    left.set_xlabel("samples of each digit")
    left.set_ylabel("mean estimate less exact log p(x) (nats)")
    left.margins(y=0.08)
    threshold = next(iter(found.values())).threshold
    right.axvspan(threshold, max(right.get_xlim()[1], threshold), color="0.92", zorder=0)
    note = f"unreliable above {threshold:.2f}"
    right.annotate(note, (0.98, 0.04), xycoords="axes fraction", ha="right", color="0.3")
    right.margins(x=0)
    right.set_xlabel("Pareto k of a digit")
    right.set_ylabel("digits with at most this k (%)")
    for axes in (left, right):
        axes.grid(color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    plots.write_figure(path, figure)


if __name__ == "__main__":
    main()
