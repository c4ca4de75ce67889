"""How many hidden layers the encoder has, the decoder one: the report's own setting."""

from pyro_dvae.jobs.experiments.declaration import Case, Claim, Experiment, Table

EXPERIMENT = Experiment(
    name="encoder-depth",
    title="Bounds by the hidden layers of the encoder: 500 units, 10 latents, a decoder of one layer",
    source="the VAE report, Figure 4; curves",
    cases=tuple(
        Case(f"{layers} layer{'s' if layers > 1 else ''}", "MNIST", {"hidden_layers": layers})
        for layers in range(1, 5)
    ),
    table=Table("bound, nats", corner="encoder"),
    epochs=100,
    seeds=3,
    options={
        "dataset": "mnist",
        "noise": 0.0,
        "width": 500,
        "decoder_layers": 1,
        "latent_size": 10,
        "validate_every": 5,
    },
    measures=("training", "units"),
    picture="curves",
    core_hours=0.8,
    claims=tuple(
        Claim(f"{layers} encoder layers beat 1", (f"{layers} layers", "MNIST"), ("1 layer", "MNIST"))
        for layers in (2, 3, 4)
    ),
)
