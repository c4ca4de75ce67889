"""Two estimators of a gradient, from the usual introduction to the variational autoencoder.

    python examples/vae_derivation.py

What is the gradient in θ of E_q[x²] under q = N(θ, 1)? The answer is 2θ, since E_q[x²] = θ² + 1. From draws
x = θ + ε it is estimated by

    score function       x² ∂ log q(x) / ∂θ = x² (x − θ)       variance  θ⁴ + 14 θ² + 15
    reparameterised      ∂ (θ + ε)² / ∂θ = 2 x                  variance  4

for one draw; the mean over K draws has a K-th of this variance. The variance of the score function with a
baseline, the mean of x² over the other draws, is between them: (8 θ² + 10) / K + (8 θ² + 2) / (K (K − 1)).

All three estimators use the same Pyro model and guide; they differ in the distribution that the guide samples
from and in the bound's baseline. θ is a vector of equal numbers, one for each repetition, so one backward
pass gives many independent estimates. The picture shows their distributions, and their variances against K.
"""

from dataclasses import dataclass
from pathlib import Path

import click
import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.testing.fakes import NonreparameterizedNormal
from torch import Tensor

import pyro_dvae as dv
from pyro_dvae import plots
from pyro_dvae.jobs.command import Command
from pyro_dvae.sites import Auxiliary

COUNTS = (1, 2, 5, 10, 20, 50, 100)
SHOWN = 10  # draws of each estimate in the picture of distributions


@dataclass(frozen=True)
class Estimator:
    """An estimator of the gradient: the distribution of the guide, and the baseline of its score."""

    normal: type[dist.Normal]
    baseline: str
    colour: str

    def variance(self, theta: float, count: int) -> float:
        """Return the exact variance of the mean over ``count`` draws."""
        if self.normal is dist.Normal:
            return 4 / count
        if self.baseline == "none":
            return (theta**4 + 14 * theta**2 + 15) / count
        return (8 * theta**2 + 10) / count + (8 * theta**2 + 2) / (count * (count - 1))

    def counts(self) -> list[int]:
        """Return the numbers of draws; a baseline from other draws needs at least two."""
        return [count for count in COUNTS if count > 1 or self.baseline == "none"]


ESTIMATORS = {
    "score function": Estimator(NonreparameterizedNormal, "none", "#D55E00"),
    "score function, baseline": Estimator(NonreparameterizedNormal, "leave-one-out", "#E69F00"),
    "reparameterised": Estimator(dist.Normal, "none", "#0072B2"),
}


def estimates(estimator: Estimator, theta: float, count: int, repeats: int) -> Tensor:
    """Return independent estimates of the gradient, shape [repeats], each from ``count`` draws."""
    thetas = torch.full((repeats,), theta, dtype=torch.float64, requires_grad=True)

    def model() -> None:
        with pyro.plate("repetitions", repeats):
            x = pyro.sample("x", dist.Normal(thetas.detach(), 1.0).mask(False))  # without its density
            pyro.factor("integrand", x**2)

    def guide() -> None:
        with pyro.plate("repetitions", repeats):
            q = estimator.normal(thetas, 1.0)
            # The bound would add the entropy of q, which does not depend on θ; this adds 0, with the score of
            # q.
            pyro.sample("x", Auxiliary(q))

    expectation = dv.TraceDenoising_ELBO(
        num_corruptions=count, baseline=estimator.baseline, max_plate_nesting=1
    )
    expectation.differentiable_loss(model, guide).neg().backward()
    assert thetas.grad is not None
    return thetas.grad


@click.command(cls=Command)
@click.option("--theta", default=2.0, show_default=True, help="The mean θ of q.")
@click.option("--repeats", default=20_000, show_default=True, help="Estimates of each kind.")
@click.option("--seed", default=0, show_default=True, help="Seed.")
@click.option("--output", default="vae_derivation.png", show_default=True, help="The picture.")
def main(theta: float, repeats: int, seed: int, output: str) -> None:
    """Estimate one gradient in three ways, and compare their variances with the exact ones."""
    pyro.set_rng_seed(seed)
    found = {
        name: {count: estimates(each, theta, count, repeats) for count in each.counts()}
        for name, each in ESTIMATORS.items()
    }
    print(f"gradient of E_q[x²] under q = N({theta:g}, 1): {2 * theta:g}; {repeats:,} estimates of each kind")
    print(f"{'estimator':<26}{'draws':>5}{'mean':>10}{'variance':>12}{'exact':>12}")
    for name, by_count in found.items():
        for count, values in by_count.items():
            exact = ESTIMATORS[name].variance(theta, count)
            mean, variance = float(values.mean()), float(values.var())
            print(f"{name:<26}{count:>5}{mean:>10.3f}{variance:>12.4f}{exact:>12.4f}")
    draw(Path(output), theta, found)
    print(f"picture: {output}")


def draw(path: Path, theta: float, found: dict[str, dict[int, Tensor]]) -> None:
    """Draw the distribution of the estimates, and the variances against the number of draws."""
    figure = plots.new_figure(10.0, 4.6, layout="constrained")
    left, right = figure.subplots(1, 2)
    shown = torch.cat([by_count[SHOWN] for by_count in found.values()])
    low, high = (float(shown.quantile(share)) for share in (0.001, 0.995))
    bins = torch.linspace(low, high, 90).tolist()
    for name, by_count in found.items():
        each = ESTIMATORS[name]
        style = {"color": each.colour, "linewidth": 1.8}
        left.hist(by_count[SHOWN].numpy(), bins=bins, density=True, histtype="step", **style)
        left.plot([], [], label=name, **style)  # a line instead of a box in the legend
        counts = each.counts()
        exact = [each.variance(theta, count) for count in counts]
        right.plot(counts, exact, **style)
        measured = [float(by_count[count].var()) for count in counts]
        right.plot(counts, measured, "o", color=each.colour, markersize=6)
    right.plot([], [], color="0.3", label="exact variance")
    right.plot([], [], "o", color="0.3", markersize=6, label="measured variance")
    left.axvline(2 * theta, color="0.3", linestyle=":", linewidth=1.2)
    left.annotate(
        f"2θ = {2 * theta:g}", (2 * theta, 0.98), xycoords=("data", "axes fraction"), color="0.3",
        xytext=(6, 0), textcoords="offset points", va="top",
    )  # fmt: skip
    left.set_xlim(low, high)
    left.margins(y=0.12)
    left.set_xlabel(f"estimate of the gradient, from {SHOWN} draws")
    left.set_ylabel("density of the estimates")
    right.set_xscale("log")
    right.set_yscale("log")
    right.set_xticks(COUNTS, labels=[str(count) for count in COUNTS])
    right.minorticks_off()
    right.set_xlabel("draws of each estimate")
    right.set_ylabel("variance of the estimate")
    for axes in (left, right):
        axes.grid(color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
    figure.suptitle(f"Gradient in θ of E[x²] under N(θ, 1) at θ = {theta:g}")
    figure.legend(loc="outside lower center", ncols=5, frameon=False)
    plots.write_figure(path, figure)


if __name__ == "__main__":
    main()
