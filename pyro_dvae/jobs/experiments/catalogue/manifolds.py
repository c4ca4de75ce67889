"""Pictures of two-dimensional latent spaces."""

from pyro_dvae.jobs.experiments.declaration import MNIST_AND_FREY, Case, Experiment, Table

EXPERIMENT = Experiment(
    name="manifolds",
    title="Images decoded over a two-dimensional latent space, at quantiles of the prior",
    source="Kingma and Welling (2014), Figure 4; the VAE report; pictures, no figures",
    cases=tuple(Case("VAE", name, options) for name, options in MNIST_AND_FREY.items()),
    table=Table("bound, nats", corner="data"),
    epochs=100,
    options={"noise": 0.0, "latent_size": 2, "validate_every": 5},
    measures=("training", "manifold"),
    picture="manifolds",
    core_hours=0.03,
)
