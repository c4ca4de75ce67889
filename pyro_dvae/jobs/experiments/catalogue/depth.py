"""How many hidden layers."""

from pyro_dvae.jobs.experiments.declaration import MNIST_AND_FREY, Case, Experiment, Table

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
        for name, options in MNIST_AND_FREY.items()
    ),
    table=Table("bound, nats", corner="data"),
    epochs=100,
    options={"noise": 0.0, "validate_every": 5},
    measures=("training", "units"),
    picture="curves",
    core_hours=0.18,
)
