"""The report on auto-encoding variational Bayes, after Kingma and Welling (2014): VAEs alone."""

import dataclasses

from pyro_dvae.jobs.experiments.declaration import FREY, MNIST_AND_FREY, Case, Claim, Experiment, Table

ONE_LAYER = {"dataset": "mnist", "noise": 0.0, "width": 500, "decoder_layers": 1, "validate_every": 5}
"""The networks of the report."""


def layers(count: int) -> str:
    """Return a number of layers in words."""
    return f"{count} layer{'s' if count > 1 else ''}"


# Pictures of two-dimensional latent spaces.

MANIFOLDS = Experiment(
    name="manifolds",
    title="Images decoded over a two-dimensional latent space, at quantiles of the prior",
    source="Kingma and Welling (2014), Figure 4; the VAE report; pictures without values",
    cases=tuple(Case("VAE", name, options) for name, options in MNIST_AND_FREY.items()),
    table=Table("bound, nats", corner="data"),
    epochs=100,
    options={"noise": 0.0, "latent_size": 2, "validate_every": 5},
    measures=("training", "manifold"),
    picture="manifolds",
    core_hours=0.03,
)

# Number of hidden layers.

DEPTH = Experiment(
    name="depth",
    title="Bounds by number of hidden layers of encoder and decoder",
    source="the VAE report; values not available",
    cases=tuple(
        Case(f"{layers(n)} each", name, {**options, "hidden_layers": n, "decoder_layers": n})
        for n in range(1, 5)
        for name, options in MNIST_AND_FREY.items()
    ),
    table=Table("bound, nats", corner="data"),
    epochs=100,
    options={"noise": 0.0, "validate_every": 5},
    measures=("training", "units"),
    picture="curves",
    core_hours=0.18,
    claims=tuple(
        Claim(
            f"{layers(n)} each beat 1", (f"{layers(n)} each", name), (f"{layers(1)} each", name), setting=name
        )
        for name in MNIST_AND_FREY
        for n in (2, 3, 4)
    ),
    of_source=False,
)

# Number of hidden layers of the encoder, with one of the decoder, as in the report.

ENCODER_DEPTH = Experiment(
    name="encoder-depth",
    title="Bounds by number of hidden layers of the encoder: 500 units, 10 latents, one decoder layer",
    source="the VAE report, Figure 4; curves",
    cases=tuple(Case(layers(n), "MNIST", {"hidden_layers": n}) for n in range(1, 5)),
    table=Table("bound, nats", corner="encoder"),
    epochs=100,
    seeds=3,
    options={**ONE_LAYER, "latent_size": 10},
    measures=("training", "units"),
    picture="curves",
    core_hours=1.0,
    claims=tuple(
        Claim(f"{n} encoder layers beat 1", (layers(n), "MNIST"), (layers(1), "MNIST")) for n in (2, 3, 4)
    ),
)

# Activations.

TEN_LATENTS = "MNIST, 10 latents"
ACTIVATIONS_COLUMNS = {**MNIST_AND_FREY, TEN_LATENTS: {**ONE_LAYER, "latent_size": 10}}
"""The last is the report's own setting, with 500 units."""

ACTIVATIONS = Experiment(
    name="activations",
    title="Bounds by activation of encoder and decoder",
    source="the VAE report, Figure 6; curves",
    cases=tuple(
        Case(activation, name, {**options, "activation": activation})
        for activation in ("softplus", "tanh", "relu", "sigmoid")
        for name, options in ACTIVATIONS_COLUMNS.items()
    ),
    table=Table("bound, nats", corner="data"),
    epochs=100,
    options={"noise": 0.0, "validate_every": 5},
    measures=("training", "units"),
    picture="curves",
    core_hours=0.3,
    claims=tuple(
        Claim(f"{better} beats {worse}", (better, TEN_LATENTS), (worse, TEN_LATENTS), setting="10 latents")
        for better, worse in (("relu", "sigmoid"), ("tanh", "sigmoid"), ("relu", "tanh"))
    ),
)

# The two estimators of the bound: log q sampled (A), or the divergence to the prior in closed form (B).

ESTIMATORS = Experiment(
    name="estimators",
    title="MNIST: trained with the sampled divergence (A) and with its closed form (B)",
    source="the VAE report, section 4.4, after Kingma and Welling (2014); curves",
    cases=tuple(
        Case(title, f"{size} latents", {"bound": bound, "latent_size": size})
        for title, bound in (("L^A, sampled", "dvae"), ("L^B, closed form", "mean-field"))
        for size in (2, 10, 50)
    ),
    table=Table("\N{MINUS SIGN}bound, nats", sign=-1, corner="size of the latent space"),
    epochs=100,
    options={"dataset": "mnist", "noise": 0.0, "validate_every": 5},
    measures=("training", "units"),
    picture="curves",
    core_hours=0.10,
    claims=tuple(
        Claim(
            "the closed form beats the sampled divergence",
            ("L^B, closed form", f"{size} latents"),
            ("L^A, sampled", f"{size} latents"),
            setting=f"{size} latents",
        )
        for size in (2, 10, 50)
    ),
)

# Number of latents of each row, against the size of a batch.


def by_batch(step: int) -> tuple[Case, ...]:
    """Return the cases of 1 to 8 latents and batches of 20 to 140."""
    return tuple(
        Case(f"L = {count}", str(size), {"particles": count, "batch_size": size})
        for count in range(1, 9)
        for size in range(20, 141, step)
    )


ONE_LATENT_IS_ENOUGH = tuple(
    Claim(
        "L = 1 is as good as L = 8, within 10 nats",
        ("L = 1", str(size)),
        ("L = 8", str(size)),
        margin=10.0,
        setting=f"batch {size}",
    )
    for size in (20, 100)
)


SAMPLES_BY_BATCH = Experiment(
    name="samples-by-batch",
    title="Frey faces: bounds by number of latent draws L and batch size",
    source="the VAE report, after section 2.3 of Kingma and Welling (2014); a picture",
    cases=by_batch(20),
    table=Table("bound of a density, nats", corner="batch", digits=0),
    epochs=100,
    options={**FREY, "noise": 0.0, "latent_size": 10, "validate_every": 5},
    picture="heat-map",
    note="All cells have equal epochs, so batches of 20 take seven times as many steps as batches of 140.",
    core_hours=0.46,
)

# The same with the report's epochs and batch sizes.

SAMPLES_BY_BATCH_LONG = dataclasses.replace(
    SAMPLES_BY_BATCH,
    name="samples-by-batch-long",
    title="Frey faces: bounds by number of latent draws L and batch size, 2,000 epochs",
    source="the VAE report, Figure 3; a picture",
    cases=by_batch(40),
    epochs=2000,
    measures=("training",),
    core_hours=4.0,
    claims=ONE_LATENT_IS_ENOUGH,
)

EXPERIMENTS = (
    MANIFOLDS,
    DEPTH,
    ENCODER_DEPTH,
    ACTIVATIONS,
    ESTIMATORS,
    SAMPLES_BY_BATCH,
    SAMPLES_BY_BATCH_LONG,
)
