"""Which activation."""

from typing import Any

from pyro_dvae.experiments.declaration import Case, Experiment, Table

DATA: dict[str, dict[str, Any]] = {
    "MNIST": {"dataset": "mnist"},
    "Frey": {"dataset": "frey", "binarisation": "none", "likelihood": "gaussian-per-pixel", "epochs": 1000},
}

EXPERIMENT = Experiment(
    name="activations",
    title="Bounds by the activation of encoder and decoder",
    source="the VAE report; no figures at hand",
    cases=tuple(
        Case(activation, name, {**options, "activation": activation})
        for activation in ("softplus", "tanh", "relu", "sigmoid")
        for name, options in DATA.items()
    ),
    table=Table("bound, nats", corner="data"),
    epochs=100,
    options={"noise": 0.0, "validate_every": 5},
    measures=("training", "units"),
    picture="curves",
)
