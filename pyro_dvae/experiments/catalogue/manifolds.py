"""Pictures of two-dimensional latent spaces."""

from typing import Any

from pyro_dvae.experiments.declaration import Case, Experiment, Table

DATA: dict[str, dict[str, Any]] = {
    "MNIST": {"dataset": "mnist", "epochs": 100},
    "Frey": {"dataset": "frey", "binarisation": "none", "likelihood": "gaussian-per-pixel", "epochs": 1000},
}

EXPERIMENT = Experiment(
    name="manifolds",
    title="Images decoded over a two-dimensional latent space, at quantiles of the prior",
    source="Kingma and Welling (2014), Figure 4; the VAE report; pictures, no figures",
    cases=tuple(Case("VAE", name, options) for name, options in DATA.items()),
    table=Table("bound, nats", corner="data"),
    epochs=100,
    options={"noise": 0.0, "latent_size": 2, "validate_every": 5},
    measures=("training", "manifold"),
    picture="manifolds",
    core_hours=0.03,
)
