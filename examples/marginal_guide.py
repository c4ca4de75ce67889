"""The marginal guide of a denoising autoencoder, drawn: several modes from a Gaussian recognition network.

    python examples/marginal_guide.py

The model is z ~ N(0, 1), x ~ N(z², s²): each posterior p(z|x) has two modes, about ±√x. A recognition network
q(z|x̃) = N(m(x̃), v(x̃)²) has one. But its input is corrupted, x̃ ~ N(x, σ²), so the marginal guide of an
observation is the mixture

    q̃(z|x) = ∫ N(x̃; x, σ²) N(z; m(x̃), v(x̃)²) dx̃ ,

which can have any number of modes if the network is non-linear. The same network is trained three times on
three rows: without a corruption, by the denoising bound L_dvae, and by the semi-implicit bound L_J. L_dvae is
the mean of the bounds of the components, so different components do not help, and each guide settles on one
mode. L_J rewards a mixture that covers both modes if they are far enough apart.

In one dimension, a grid computes the bounds to many digits. The script prints
L_dvae ≤ L_1 ≤ L_J ≤ L_cvae ≤ log p(x), each summed over the data; only L_J is a mean over draws.
"""

import math
from dataclasses import dataclass
from functools import partial
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
from pyro_dvae.networks import GaussianEncoder

DATA = torch.tensor([[1.5], [3.0], [4.5]])
LIKELIHOOD_SCALE = 1.0  # s
LATENTS = torch.linspace(-4.0, 4.0, 1601, dtype=torch.float64)  # the grid of z
STEP = float(LATENTS[1] - LATENTS[0])
NOISES = 241  # points of the grid of x̃


def model(x: Tensor, scale: float) -> None:
    """z ~ N(0, 1), x ~ N(z², scale²)."""
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z**2, scale).to_event(1), obs=x)


def log_joint(x: Tensor) -> Tensor:
    """Return log p(x, z) of a row on the grid of z, in closed form (nats)."""
    prior = dist.Normal(torch.zeros((), dtype=torch.float64), 1.0).log_prob(LATENTS)
    return prior + dist.Normal(LATENTS**2, LIKELIHOOD_SCALE).log_prob(x.double())


@dataclass(frozen=True)
class Exact:
    """A guide for one row by quadrature: its components on the grid of x̃, and its bounds (nats).

    :param weights: weights of the grid of x̃, [G]; they sum to 1.
    :param components: log q(z|x̃), [G, Z].
    :param joint: log p(x, z), [Z].
    """

    weights: Tensor
    components: Tensor
    joint: Tensor

    @property
    def marginal(self) -> Tensor:
        """log q̃(z|x) [Z]."""
        return torch.logsumexp(self.components + self.weights.log().unsqueeze(-1), 0)

    @property
    def evidence(self) -> float:
        """log p(x)."""
        return float(torch.logsumexp(self.joint, 0)) + math.log(STEP)

    def bounds(self) -> list[float]:
        """Return L_dvae, L_1, L_cvae and log p(x)."""
        q = self.components.exp() * self.weights.unsqueeze(-1) * STEP  # of the pair (x̃, z); sums to 1
        dvae = float((q * (self.joint - self.components)).sum())
        cvae = float((q * (self.joint - self.marginal)).sum())
        pairs = 0.0  # E log of the mixture with one further component x̃_1
        for weight, other in zip(self.weights, self.components, strict=True):
            mixture = torch.logaddexp(self.components, other) - math.log(2)
            pairs += float(weight * (q * mixture).sum())
        return [dvae, float((q * self.joint).sum()) - pairs, cvae, self.evidence]


@torch.no_grad()
def exact(guide: dv.GaussianGuide, noise: float, x: Tensor) -> Exact:
    """Put a trained guide on the grids, for one row."""
    joint = log_joint(x)
    if isinstance(guide.corruption, dv.NoCorruption):
        points, weights = x.reshape(1, 1), torch.ones(1, dtype=torch.float64)
    else:
        points = (x + noise * torch.linspace(-5.0, 5.0, NOISES)).reshape(-1, 1)
        weights = torch.softmax(-0.5 * ((points.double() - x) / noise).squeeze(-1) ** 2, 0)
    loc, scale = (each.double() for each in guide.encoder(points))
    return Exact(weights, dist.Normal(loc, scale).log_prob(LATENTS), joint)


def train(corruption: dv.Corruption, bound: pyro.infer.ELBO, blunt: float, steps: int) -> dv.GaussianGuide:
    """Train a new recognition network by SVI; ``blunt`` is the initial factor of s."""
    pyro.clear_param_store()
    encoder = GaussianEncoder(1, 1, (32, 32), "tanh")
    first = next(layer for layer in encoder.modules() if isinstance(layer, torch.nn.Linear))
    with torch.no_grad():  # start with features as narrow as the noise, over the whole range of the data
        centres = torch.empty(32).uniform_(float(DATA.min()) - 0.5, float(DATA.max()) + 0.5)
        first.weight.mul_(10.0)
        first.bias.copy_(-first.weight.squeeze(-1) * centres)
    guide = dv.GaussianGuide(encoder, corruption)
    optimiser = ClippedAdam({"lr": 0.01, "lrd": 0.02 ** (1 / steps)})
    svi = SVI(model, lambda x, scale: guide(x), optimiser, bound)
    for step in range(steps):
        share = min(1.0, step / (0.6 * steps))
        svi.step(DATA, LIKELIHOOD_SCALE * blunt ** (1 - share))
    return guide


@click.command(cls=Command)
@click.option("--noise", default=0.4, show_default=True, help="Standard deviation of the corruption.")
@click.option("--mixture", default=30, show_default=True, help="J of the semi-implicit bound.")
@click.option("--draws", default=15, show_default=True, help="Corruptions of each observation in a step.")
@click.option("--steps", default=1500, show_default=True, help="Steps of each training.")
@click.option("--seed", default=1, show_default=True, help="Seed.")
@click.option("--output", default="marginal_guide.png", show_default=True, help="The picture.")
def main(noise: float, mixture: int, draws: int, steps: int, seed: int, output: str) -> None:
    """Train one network under three criteria, and draw the guides that come out."""
    torch.set_num_threads(1)
    pyro.set_rng_seed(seed)
    # The semi-implicit guide starts from a blunt likelihood, so that the modes separate slowly; with two
    # sharp modes, a guide stays at the nearer one, which is also the best that the two other guides can do.
    trainings: dict[str, tuple[dv.Corruption, pyro.infer.ELBO, float]] = {
        "no corruption": (
            dv.NoCorruption(),
            dv.TraceDenoising_ELBO(num_corruptions=1, num_particles=draws, max_plate_nesting=1),
            1.0,
        ),
        "denoising bound": (
            dv.GaussianNoise(noise),
            dv.TraceDenoising_ELBO(num_corruptions=draws, max_plate_nesting=1),
            1.0,
        ),
        "semi-implicit bound": (
            dv.GaussianNoise(noise),
            dv.TraceSemiImplicit_ELBO(num_corruptions=draws, num_mixture=mixture, max_plate_nesting=1),
            4.0,
        ),
    }
    guides = {name: train(*each, steps) for name, each in trainings.items()}
    found = {name: [exact(guide, noise, x) for x in DATA] for name, guide in guides.items()}
    drawn = dv.TraceSemiImplicit_ELBO(num_corruptions=2000, num_mixture=mixture, max_plate_nesting=1)
    print(f"bounds of {len(DATA)} data together (nats)")
    drawn_name = f"L_{mixture}"
    print(
        f"{'trained with':<21}{'L_dvae':>9}{'L_1':>9}{drawn_name:>9}{'error':>7}{'L_cvae':>9}{'log p(x)':>10}"
    )
    for name, each in found.items():
        dvae, single, cvae, evidence = (sum(v) for v in zip(*[one.bounds() for one in each], strict=True))
        pyro.clear_param_store()  # it has the parameters of the last guide under the same names
        sharp = partial(model, scale=LIKELIHOOD_SCALE)
        semi = -torch.tensor([drawn.loss(sharp, guides[name], DATA) for _ in range(20)])
        error = float(semi.std()) / math.sqrt(len(semi))
        print(
            f"{name:<21}{dvae:>9.3f}{single:>9.3f}{float(semi.mean()):>9.3f}{error:>7.3f}"
            f"{cvae:>9.3f}{evidence:>10.3f}"
        )
    draw(Path(output), guides, found, noise)
    print(f"picture: {output}")


QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)
COLOURS = {"no corruption": "#0072B2", "denoising bound": "#E69F00", "semi-implicit bound": "#C0392B"}


@torch.no_grad()
def draw(
    path: Path, guides: dict[str, dv.GaussianGuide], found: dict[str, list[Exact]], noise: float
) -> None:
    """Draw the recognition networks over x̃, and for each row the guides and the posterior."""
    figure = plots.new_figure(12.0, 5.6, layout="constrained")
    grid = figure.add_gridspec(len(DATA), 2, width_ratios=[1.2, 1.0])
    left = figure.add_subplot(grid[:, 0])
    points = torch.linspace(float(DATA.min()) - 4 * noise, float(DATA.max()) + 4 * noise, 600).unsqueeze(-1)
    for name in ("denoising bound", "semi-implicit bound"):
        loc, scale = (each.squeeze(-1) for each in guides[name].encoder(points))
        x_tilde = points.squeeze(-1).numpy()
        left.plot(x_tilde, loc.numpy(), color=COLOURS[name], linewidth=1.6, label=f"q(z|x̃), {name}")
        band = {"color": COLOURS[name], "alpha": 0.25, "linewidth": 0}
        left.fill_between(x_tilde, (loc - scale).numpy(), (loc + scale).numpy(), **band)
    for sign in (-1, 1):
        label = "modes of the likelihood, ±√x" if sign > 0 else None
        left.plot(x_tilde, sign * points.clamp_min(0).sqrt().squeeze(-1), ":", color="0.3", label=label)
    for index, x in enumerate(DATA.squeeze(-1).tolist()):
        label = None if index else "x ± the noise"
        left.axvspan(x - noise, x + noise, color="0.93", zorder=0, label=label)
        left.axvline(x, color="0.6", linewidth=1, label=None if index else "data x")
    left.set_xlabel("corrupted datum x̃")
    left.set_ylabel("latent z")
    left.set_title("recognition networks: mean ± one standard deviation", fontsize=10)
    for row, x in enumerate(DATA.squeeze(-1).tolist()):
        axes = figure.add_subplot(grid[row, 1])
        joint = found["no corruption"][row].joint
        posterior = (joint - joint.logsumexp(0)).exp() / STEP
        z = LATENTS.numpy()
        axes.fill_between(z, posterior.numpy(), color="0.8", linewidth=0, label="posterior p(z|x)")
        for name, each in found.items():
            density = each[row].marginal.exp()
            axes.plot(z, density.numpy(), color=COLOURS[name], linewidth=1.6, label=f"q̃(z|x), {name}")
        mixture = found["semi-implicit bound"][row]
        for share in QUANTILES:
            index = int(torch.searchsorted(mixture.weights.cumsum(0), share))
            density = mixture.components[index].exp() / len(QUANTILES)
            label = None if share > QUANTILES[0] else "q(z|x̃) / 5 at five quantiles of x̃"
            style = {"color": COLOURS["semi-implicit bound"], "linewidth": 0.8, "linestyle": "--"}
            axes.plot(z, density.numpy(), label=label, **style)
        axes.set_xlim(-3.4, 3.4)
        axes.set_ylabel("density")
        if row == 0:
            axes.set_title("marginal guide and posterior of each observation", fontsize=10)
        axes.annotate(f"x = {x:g}", (0.02, 0.9), xycoords="axes fraction", va="top")
        if row < len(DATA) - 1:
            axes.tick_params(labelbottom=False)
    axes.set_xlabel("latent z")
    handles = [*left.get_legend_handles_labels()[0], *axes.get_legend_handles_labels()[0]]
    labels = [*left.get_legend_handles_labels()[1], *axes.get_legend_handles_labels()[1]]
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    plots.write_figure(path, figure)


if __name__ == "__main__":
    main()
