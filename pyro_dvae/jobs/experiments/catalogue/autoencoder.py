"""Autoencoders beside VAEs of the same networks: how well the data come back."""

from typing import Any

from pyro_dvae.jobs.experiments.declaration import Case, Experiment, Table

SYSTEMS: dict[str, tuple[str, dict[str, Any]]] = {
    "autoencoder": ("autoencoder", {"noise": 0.0}),
    "denoising autoencoder, 5 %": ("autoencoder", {"noise": 0.05}),
    "VAE": ("dvae", {"noise": 0.0}),
    "DVAE, 5 %": ("dvae", {"noise": 0.05}),
}

EXPERIMENT = Experiment(
    name="autoencoder",
    title="MNIST: reconstruction error from the mean code against the size of the latent space",
    source="the VAE report; a picture",
    cases=tuple(
        Case(title, str(size), {**options, "latent_size": size}, program=program)
        for title, (program, options) in SYSTEMS.items()
        for size in (2, 5, 10, 20, 50)
    ),
    table=Table(
        "cross-entropy of the test images, mean code, nats",
        figure="cross_entropy_mean_code",
        corner="size of the latent space",
    ),
    epochs=50,
    options={"dataset": "mnist", "salt": "rate", "validate_every": 5},
    measures=("reconstruction",),
    note=(
        "The bound of an autoencoder in the second table is the negative of its cross-entropy: it has no "
        "prior, and is no bound of log p(x)."
    ),
    core_hours=0.23,
)
