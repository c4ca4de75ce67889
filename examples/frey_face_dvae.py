"""The second experiment of Im et al. (2017): a denoising variational autoencoder on the Frey faces.

    python examples/frey_face_dvae.py --noise 0.05

Grey pixels with a Gaussian decoder and a scale for each pixel, so the bound is one of a density, and larger
is better. The encoder sees x̃ ~ N(x, noise²). The network is the paper's; that of its published script is
``--latent-size 10 --width 100``. The paper's other rows: ``--hidden-layers 2``, ``--particles 5``, ``--bound
diwae --particles 5``.
"""

import click
import pyro
import pyro.distributions as dist
from torch import Tensor

import pyro_dvae as dv
from pyro_dvae.jobs.click_options import training_options
from pyro_dvae.jobs.command import Command
from pyro_dvae.jobs.options import TrainRequest
from pyro_dvae.jobs.train import TrainingRun

BOUNDS = {
    "dvae": dv.TraceDenoising_ELBO,
    "mean-field": dv.TraceMeanFieldDenoising_ELBO,
    "diwae": dv.TraceDenoisingIWAE_ELBO,
    "semi-implicit": dv.TraceSemiImplicit_ELBO,
}
DEFAULTS = {
    "dataset": "frey",
    "binarisation": "none",
    "likelihood": "gaussian-per-pixel",
    "noise_kind": "gaussian",
    "epochs": 1000,
}


@click.command(cls=Command, context_settings={"default_map": DEFAULTS})
@training_options
def main(request: TrainRequest) -> None:
    """Train a denoising VAE on the Frey faces and evaluate it."""
    run = TrainingRun(request)
    options = run.options

    def model(x: Tensor) -> None:
        pyro.module("decoder", run.decoder)
        with pyro.plate("data", x.shape[0]):
            prior = dist.Normal(x.new_zeros(options.latent_size), 1.0).to_event(1)
            z = pyro.sample("z", prior)
            pyro.sample("x", run.decoder(z), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", run.encoder)
        with pyro.plate("data", x.shape[0]):
            x_tilde = dv.corrupt("x_tilde", run.corruption, x)
            loc, scale = run.encoder(x_tilde)
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    bound = BOUNDS[options.bound](
        num_corruptions=options.corruptions, num_particles=options.particles, max_plate_nesting=1
    )

    trainer = run.trainer(model, guide, bound)
    for epoch in trainer:  # after each: validation, checkpoint, progress
        for x in epoch:
            trainer.step(x)
    run.finish(trainer)


if __name__ == "__main__":
    main()
