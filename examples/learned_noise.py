"""Learn the level of a corruption, under the denoising bound and under a semi-implicit one.

    python examples/learned_noise.py

In a linear-Gaussian model, every bound is known exactly. The guide has the right mean but too small a
variance. The denoising bound L_dvae is linear in the corruption p(x̃|x): for any guide it falls with the
noise scale, so learning drives the scale to its lower limit. The semi-implicit bound L_J and its limit
L_cvae, the bound of the marginal guide, reward noise that makes up for the missing variance: they have an
optimum above that limit. The picture shows the bounds against the scale, and the scale during learning.
"""

import math
from pathlib import Path

import click
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI
from pyro.optim import ClippedAdam
from torch import Tensor

import pyro_dvae as dv
from pyro_dvae import plots
from pyro_dvae.jobs.command import Command

WEIGHT = torch.tensor([[1.0, 0.3], [-0.5, 0.9], [0.4, -0.7], [0.8, 0.5], [-0.3, 0.6]])
LIKELIHOOD_SCALE = 0.7
PRECISION = torch.eye(2) + WEIGHT.T @ WEIGHT / LIKELIHOOD_SCALE**2
ENCODE = (
    torch.linalg.solve(PRECISION, WEIGHT.T) / LIKELIHOOD_SCALE**2
)  # the exact posterior mean is ENCODE @ x


def model(x: Tensor) -> None:
    """z ~ N(0, I), x ~ N(Wz, s²I)."""
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ WEIGHT.T, LIKELIHOOD_SCALE).to_event(1), obs=x)


def exact_bounds(x: Tensor, noise: float, variance: float) -> tuple[float, float]:
    """Return L_dvae and L_cvae, mean over the data (nats), in closed form."""
    marginal = noise**2 * ENCODE @ ENCODE.T + variance * torch.eye(2)
    mean = x @ ENCODE.T
    error = ((x - mean @ WEIGHT.T) ** 2).sum(-1) + (WEIGHT @ marginal @ WEIGHT.T).trace()
    common = -0.5 * WEIGHT.shape[0] * math.log(2 * math.pi * LIKELIHOOD_SCALE**2)
    common = common - error / (2 * LIKELIHOOD_SCALE**2)
    common = common - math.log(2 * math.pi) - 0.5 * ((mean**2).sum(-1) + marginal.trace())
    joint = float(common.mean())
    entropy = [0.5 * torch.logdet(2 * math.pi * math.e * s) for s in (variance * torch.eye(2), marginal)]
    return joint + float(entropy[0]), joint + float(entropy[1])


def learn(
    x: Tensor, bound: dv.TraceSemiImplicit_ELBO, start: float, limit: float, variance: float, steps: int
) -> list[float]:
    """Learn only the noise scale under ``bound``; return it after each step."""
    pyro.clear_param_store()
    noise = dv.GaussianNoise(start, learnable=True, minimum=limit)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            x_tilde = dv.corrupt("x_tilde", noise, x)
            pyro.sample("z", dist.Normal(x_tilde @ ENCODE.T, math.sqrt(variance)).to_event(1))

    svi = SVI(model, guide, ClippedAdam({"lr": 0.1, "lrd": 0.05 ** (1 / steps)}), bound)
    scales = []
    for _ in range(steps):
        svi.step(x)
        scales.append(float(noise.scale().detach()))
    return scales


@click.command(cls=Command)
@click.option("--noise", default=0.5, show_default=True, help="Scale at the start.")
@click.option("--limit", default=0.02, show_default=True, help="Lower limit of the scale.")
@click.option("--mixture", default=50, show_default=True, help="J of the semi-implicit bound.")
@click.option(
    "--variance", default=0.05, show_default=True, help="Variance of the guide; the posterior's is larger."
)
@click.option("--data", default=200, show_default=True, help="Number of observations.")
@click.option("--steps", default=400, show_default=True, help="Steps of learning.")
@click.option("--seed", default=0, show_default=True, help="Seed.")
@click.option("--output", default="learned_noise.png", show_default=True, help="The picture.")
def main(
    noise: float, limit: float, mixture: int, variance: float, data: int, steps: int, seed: int, output: str
) -> None:
    """Learn a noise scale under two bounds and draw what happens."""
    pyro.set_rng_seed(seed)
    z = torch.randn(data, 2)
    x = z @ WEIGHT.T + LIKELIHOOD_SCALE * torch.randn(data, WEIGHT.shape[0])
    learned = {
        "L_dvae": learn(x, dv.TraceSemiImplicit_ELBO(num_mixture=0), noise, limit, variance, steps),
        f"L_{mixture}": learn(
            x,
            dv.TraceSemiImplicit_ELBO(num_mixture=mixture, max_plate_nesting=1),
            noise,
            limit,
            variance,
            steps,
        ),
    }
    grid = torch.linspace(limit, 2.5 * noise, 120).tolist()
    exact = [exact_bounds(x, level, variance) for level in grid]
    best = grid[max(range(len(grid)), key=lambda i: exact[i][1])]
    for name, scales in learned.items():
        print(f"learned under {name:<7} {noise:.3f} -> {scales[-1]:.3f}")
    print(f"optimum of L_cvae     {best:.3f};  lower limit {limit:.3f}")
    draw(Path(output), grid, exact, learned, best, limit)
    print(f"picture: {output}")


def draw(
    path: Path,
    grid: list[float],
    exact: list[tuple[float, float]],
    learned: dict[str, list[float]],
    best: float,
    limit: float,
) -> None:
    """Draw the bounds against the scale, and the scale against the step."""
    figure = plots.new_figure(9.0, 4.0, layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(grid, [pair[0] for pair in exact], label="L_dvae (exact)", color="#0b6fb8")
    left.plot(grid, [pair[1] for pair in exact], label="L_cvae (exact)", color="#d1600a")
    left.axvline(best, color="0.4", linestyle="--", linewidth=1, label="optimum of L_cvae")
    left.set_xlabel("noise scale")
    left.set_ylabel("bound (nats per observation)")
    left.legend(frameon=False)
    for (name, scales), colour in zip(learned.items(), ("#0b6fb8", "#d1600a"), strict=True):
        right.plot(range(1, len(scales) + 1), scales, label=f"learned under {name}", color=colour)
    right.axhline(best, color="0.4", linestyle="--", linewidth=1)
    right.axhline(limit, color="0.4", linestyle=":", linewidth=1, label="lower limit")
    right.set_xlabel("step")
    right.set_ylabel("noise scale")
    right.legend(frameon=False)
    plots.write_figure(path, figure)


if __name__ == "__main__":
    main()
