"""Which activation."""

from pyro_dvae.jobs.experiments.declaration import MNIST_AND_FREY, Case, Claim, Experiment, Table

COLUMNS = {**MNIST_AND_FREY, "MNIST, 10 latents": {"dataset": "mnist", "latent_size": 10}}
"""The last is the report's own setting."""

EXPERIMENT = Experiment(
    name="activations",
    title="Bounds by the activation of encoder and decoder",
    source="the VAE report, Figure 6; curves",
    cases=tuple(
        Case(activation, name, {**options, "activation": activation})
        for activation in ("softplus", "tanh", "relu", "sigmoid")
        for name, options in COLUMNS.items()
    ),
    table=Table("bound, nats", corner="data"),
    epochs=100,
    options={"noise": 0.0, "validate_every": 5},
    measures=("training", "units"),
    picture="curves",
    core_hours=0.14,
    claims=tuple(
        Claim(
            f"10 latents: {better} beats {worse}", (better, "MNIST, 10 latents"), (worse, "MNIST, 10 latents")
        )
        for better, worse in (("relu", "sigmoid"), ("tanh", "sigmoid"), ("relu", "tanh"))
    ),
)
