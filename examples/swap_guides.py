"""One model with many guides, compared in a plain SVI script.

    python examples/swap_guides.py --dataset digits

A generative network with a standard normal prior is trained with one guide after another. Only two things in
the script depend on the guide: the implicit guide, which contains noise, is trained by the semi-implicit
bound and gives a mixture as proposal, and a chain of stochastic layers needs a model with the same number of
layers. All guides but the first get corrupted data, with salt-and-pepper noise.

The script prints the bound on clean test data, and log p(x) by importance sampling with the trained guide as
proposal: the first shows the loss by the guide, the second what the model has learned with it.
"""

import time
from collections.abc import Callable
from functools import partial

import click
import pyro
import torch
from pyro.infer import SVI
from pyro.optim import Adam
from torch import nn

import pyro_dvae as dv
from pyro_dvae.engine import CompiledSVI
from pyro_dvae.guides import ChainGuide, FlowGuide, FullCovarianceGuide, ImplicitGuide, MixtureGuide
from pyro_dvae.guides.base import AmortisedGuide
from pyro_dvae.jobs.command import Command
from pyro_dvae.models import ChainModel
from pyro_dvae.networks import BernoulliDecoder

GUIDES: dict[str, Callable[..., AmortisedGuide]] = {
    "Gaussian, no noise": dv.GaussianGuide.of_sizes,
    "Gaussian": dv.GaussianGuide.of_sizes,
    "full covariance": FullCovarianceGuide.of_sizes,
    "planar flow": partial(FlowGuide.of_sizes, flow="planar"),
    "autoregressive flow": partial(FlowGuide.of_sizes, flow="iaf"),
    "mixture of five": MixtureGuide.of_sizes,
    "implicit": ImplicitGuide.of_sizes,
    "chain of two layers": ChainGuide.of_sizes,
}


def build_model(guide: AmortisedGuide, data_size: int, latent_size: int, width: int) -> nn.Module:
    """Return z ~ N(0, I), x ~ Bernoulli(decoder(z)); with two layers of latents for a chain of two."""
    if isinstance(guide, ChainGuide):
        return ChainModel.of_sizes(data_size, latent_size, (width, width))
    return dv.LatentVariableModel(BernoulliDecoder(data_size, latent_size, (width, width)))


@click.command(cls=Command)
@click.option("--dataset", default="digits", show_default=True, help="Data set; pixels are cut at 1/2.")
@click.option("--data-folder", default="data", show_default=True, help="Folder of the data.")
@click.option("--noise", default=0.05, show_default=True, help="Rate of salt-and-pepper noise.")
@click.option("--steps", default=3000, show_default=True, help="Steps of each training, of 100 data.")
@click.option("--latent-size", default=10, show_default=True, help="Size of the latent space.")
@click.option("--width", default=100, show_default=True, help="Units of each hidden layer.")
@click.option("--test", default=270, show_default=True, help="Test data, at most.")
@click.option("--samples", default=1000, show_default=True, help="Importance samples per observation.")
@click.option("--compile", "compiled", is_flag=True, help="Compile the steps: for long trainings.")
@click.option("--seed", default=0, show_default=True, help="Seed.")
def main(
    dataset: str,
    data_folder: str,
    noise: float,
    steps: int,
    latent_size: int,
    width: int,
    test: int,
    samples: int,
    compiled: bool,
    seed: int,
) -> None:
    """Train one model with each guide, and print a table of bounds and likelihoods."""
    data = dv.load_dataset(dataset, data_folder)
    train_x, test_x = data.train.round(), data.test[:test].round()
    print(f"{data.name}: {len(train_x):,} data for training, {len(test_x):,} for the test; {steps:,} steps")
    print(f"{'guide':<21}{'bound':>9}{'error':>7}{'log p(x)':>10}{'error':>7}{'bad k':>8}{'seconds':>9}")
    for name, guide_of_sizes in GUIDES.items():
        pyro.clear_param_store()
        pyro.set_rng_seed(seed)
        corruption = dv.NoCorruption() if name == "Gaussian, no noise" else dv.SaltAndPepper(noise)
        guide = guide_of_sizes(train_x.shape[1], latent_size, (width,), corruption=corruption)
        model = build_model(guide, train_x.shape[1], latent_size, width)
        bound = dv.TraceDenoising_ELBO(max_plate_nesting=1)
        if guide.semi_implicit:
            bound = dv.TraceSemiImplicit_ELBO(num_mixture=10, max_plate_nesting=1)

        svi = (CompiledSVI if compiled else SVI)(model, guide, Adam({"lr": 1e-3}), loss=bound)
        started = time.perf_counter()
        for _ in range(steps):
            svi.step(train_x[torch.randint(len(train_x), (100,))])
        seconds = time.perf_counter() - started

        held_out = dv.evaluate_bound(model, guide, test_x, loss=bound, seed=seed)
        found = dv.log_likelihood(
            model,
            guide,
            test_x,
            num_samples=samples,
            proposal="mixture" if guide.semi_implicit else "clean",
            seed=seed,
            max_plate_nesting=1,
        )
        print(
            f"{name:<21}{held_out.mean:>9.2f}{held_out.standard_error:>7.2f}"
            f"{found.mean:>10.2f}{found.standard_error_of_mean:>7.2f}"
            f"{found.share_unreliable:>8.0%}{seconds:>9.1f}",
            flush=True,
        )
    print("nats per observation; errors: of the draw of the test data; bad k: share that needs more samples")


if __name__ == "__main__":
    main()
