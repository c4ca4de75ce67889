"""How many hidden layers."""

from typing import Any

from pyro_dvae.experiments.declaration import Case, Experiment, Table

DATA: dict[str, dict[str, Any]] = {
    "MNIST": {"dataset": "mnist"},
    "Frey": {"dataset": "frey", "binarisation": "none", "likelihood": "gaussian-per-pixel", "epochs": 1000},
}

EXPERIMENT = Experiment(
    name="depth",
    title="Bounds by the hidden layers of encoder and decoder",
    source="the VAE report; no figures at hand",
    cases=tuple(
        Case(
            f"{layers} layer{'s' if layers > 1 else ''} each",
            name,
            {**options, "hidden_layers": layers, "decoder_layers": layers},
        )
        for layers in range(1, 5)
        for name, options in DATA.items()
    ),
    table=Table("bound, nats", corner="data"),
    epochs=100,
    options={"noise": 0.0, "validate_every": 5},
    measures=("training", "units"),
    picture="curves",
)
