"""The report on auto-encoding variational Bayes, after Kingma and Welling (2014)."""

from typing import Any

from pyro_dvae.jobs.experiments.declaration import FREY, MNIST_AND_FREY, Case, Claim, Experiment, Table

ONE_LAYER = {"dataset": "mnist", "noise": 0.0, "width": 500, "decoder_layers": 1, "validate_every": 5}
"""The report's own networks."""


# Pictures of two-dimensional latent spaces.

MANIFOLDS = Experiment(
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


# How many hidden layers.

DEPTH = Experiment(
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


# How many hidden layers the encoder has, the decoder one: the report's own setting.

ENCODER_DEPTH = Experiment(
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
    options={**ONE_LAYER, "latent_size": 10},
    measures=("training", "units"),
    picture="curves",
    core_hours=0.8,
    claims=tuple(
        Claim(f"{layers} encoder layers beat 1", (f"{layers} layers", "MNIST"), ("1 layer", "MNIST"))
        for layers in (2, 3, 4)
    ),
)


# Which activation.

ACTIVATIONS_COLUMNS = {**MNIST_AND_FREY, "MNIST, 10 latents": {"dataset": "mnist", "latent_size": 10}}
"""The last is the report's own setting."""

ACTIVATIONS = Experiment(
    name="activations",
    title="Bounds by the activation of encoder and decoder",
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
    core_hours=0.14,
    claims=tuple(
        Claim(
            f"10 latents: {better} beats {worse}", (better, "MNIST, 10 latents"), (worse, "MNIST, 10 latents")
        )
        for better, worse in (("relu", "sigmoid"), ("tanh", "sigmoid"), ("relu", "tanh"))
    ),
)


# The two estimators of the bound: log q sampled (A), or the divergence to the prior in closed form (B).

ESTIMATORS = Experiment(
    name="estimators",
    title="MNIST: trained by the sampled bound (A) and with the divergence in closed form (B)",
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
            f"{size} latents: the closed form beats the sampled divergence",
            ("L^B, closed form", f"{size} latents"),
            ("L^A, sampled", f"{size} latents"),
        )
        for size in (2, 10, 50)
    ),
)


# How many latents of each datum, against how many data in a batch.

SAMPLES_BY_BATCH = Experiment(
    name="samples-by-batch",
    title="Frey faces: bounds by latents L of each datum and size of the batch",
    source="the VAE report, after section 2.3 of Kingma and Welling (2014); a picture",
    cases=tuple(
        Case(f"L = {count}", str(size), {"particles": count, "batch_size": size})
        for count in range(1, 9)
        for size in range(20, 141, 20)
    ),
    table=Table("bound of a density, nats", corner="batch", digits=0),
    epochs=100,
    options={**FREY, "noise": 0.0, "latent_size": 10, "validate_every": 5},
    picture="heat-map",
    note="The epochs are the same everywhere, so a batch of 20 makes seven times the steps of one of 140.",
    core_hours=0.46,
    claims=tuple(
        Claim(
            f"Frey, batch {size}: L = 1 is as good as L = 8, within 10 nats",
            ("L = 1", str(size)),
            ("L = 8", str(size)),
            margin=10.0,
        )
        for size in (20, 100)
    ),
)


# The same for as long as in the report, at its sizes of the batch.

SAMPLES_BY_BATCH_LONG = Experiment(
    name="samples-by-batch-long",
    title="Frey faces: bounds by latents L of each datum and size of the batch, 2,000 epochs",
    source="the VAE report, Figure 3; a picture",
    cases=tuple(
        Case(f"L = {count}", str(size), {"particles": count, "batch_size": size})
        for count in range(1, 9)
        for size in range(20, 141, 40)
    ),
    table=SAMPLES_BY_BATCH.table,
    epochs=2000,
    options=SAMPLES_BY_BATCH.options,
    measures=("training",),
    picture="heat-map",
    note=SAMPLES_BY_BATCH.note,
    core_hours=4.0,
    claims=tuple(
        Claim(
            f"Frey, 2,000 epochs, batch {size}: L = 1 is as good as L = 8, within 10 nats",
            ("L = 1", str(size)),
            ("L = 8", str(size)),
            margin=10.0,
        )
        for size in (20, 100)
    ),
)


# Autoencoders beside VAEs of the same networks: how well the data come back.

AUTOENCODER_SYSTEMS: dict[str, tuple[str, dict[str, Any]]] = {
    "autoencoder": ("autoencoder", {"noise": 0.0}),
    "denoising autoencoder, 5 %": ("autoencoder", {"noise": 0.05}),
    "VAE": ("dvae", {"noise": 0.0}),
    "DVAE, 5 %": ("dvae", {"noise": 0.05}),
}

AUTOENCODER = Experiment(
    name="autoencoder",
    title="MNIST: reconstruction error from the mean code against the size of the latent space",
    source="the VAE report; a picture",
    cases=tuple(
        Case(title, str(size), {**options, "latent_size": size}, program=program)
        for title, (program, options) in AUTOENCODER_SYSTEMS.items()
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


# Autoencoders beside VAEs by the squared error, on a small and on the whole training set.

RECONSTRUCTION_SIZES = (2, 5, 10, 20)
RECONSTRUCTION_TRAINED_ON: dict[str, tuple[int | None, dict[str, Any]]] = {
    "1,000 images": (1_000, {"epochs": 500}),
    "50,000 images": (None, {}),
}
RECONSTRUCTION_SYSTEMS = {
    "autoencoder": "autoencoder-penalised",
    "VAE": "dvae-penalised",
    "autoencoder, no penalty": "autoencoder",
    "VAE, no penalty": "dvae",
}

RECONSTRUCTION = Experiment(
    name="reconstruction",
    title="MNIST, grey pixels: squared error of the test images by system, training images and latents",
    source="the VAE report, Figures 7 and 8; pictures",
    cases=tuple(
        Case(
            f"{title}, {images}",
            str(latents),
            {**options, "latent_size": latents},
            program=program,
            train_size=size,
        )
        for images, (size, options) in RECONSTRUCTION_TRAINED_ON.items()
        for latents in RECONSTRUCTION_SIZES
        for title, program in RECONSTRUCTION_SYSTEMS.items()
    ),
    table=Table(
        "squared error of a pixel, mean code",
        figure="squared_error_mean_code",
        corner="size of the latent space",
        digits=4,
    ),
    epochs=50,
    seeds=3,
    options={**ONE_LAYER, "binarisation": "none", "likelihood": "gaussian", "activation": "tanh"},
    measures=("reconstruction",),
    picture="lines-and-digits",
    note=(
        "Encoder and decoder have one layer of 500 tanh units each. The Gaussian decoder has one scale for "
        "all pixels, learned. The l2 penalty is a prior N(0, 1) of every weight of both networks; which "
        "strength the report has is not known here. Sampled codes: the error of one draw, averaged over "
        "draws. The bound of an autoencoder is no bound of log p(x)."
    ),
    core_hours=2.0,
    claims=tuple(
        Claim(
            f"{images}, {latents} latents{rest}: a VAE has a lower squared error than an autoencoder",
            (f"VAE{rest}, {images}", str(latents)),
            (f"autoencoder{rest}, {images}", str(latents)),
            lower=True,
        )
        for images in RECONSTRUCTION_TRAINED_ON
        for rest in ("", ", no penalty")
        for latents in RECONSTRUCTION_SIZES
    ),
)


# A distribution of the decoder's weights, where data are few.

FULL_BAYES_PROGRAMS = {
    "VAE": "dvae",
    "full Bayes": "full-bayes",
    "full Bayes, prior of scale 0.1": "full-bayes-narrow-prior",
    "full Bayes, scale mixture": "full-bayes-scale-mixture",
    "full Bayes, prior of the scale": "full-bayes-scale-prior",
    "full Bayes, local reparameterisation": "full-bayes-local",
    "full Bayes, from a trained VAE": "full-bayes-from-trained",
}

FULL_BAYES = Experiment(
    name="full-bayes",
    title="MNIST: a point estimate or a distribution of the decoder's weights, by the training images",
    source="the VAE report, section 6, after Kingma and Welling (2014), appendix F; no figures at hand",
    cases=tuple(
        Case(title, f"{size:,} images", program=program, train_size=size)
        for title, program in FULL_BAYES_PROGRAMS.items()
        for size in (1_000, 10_000)
    ),
    table=Table("\N{MINUS SIGN}bound, nats", sign=-1, corner="training images"),
    epochs=300,
    options={"dataset": "mnist", "noise": 0.0, "validate_every": 5},
    measures=("training", "likelihood"),
    note=(
        "The bound is of a new datum under weights drawn from their distribution. A run from a trained VAE "
        "has trained that for as many epochs before. Scale mixture: equal shares of N(0, 1) and N(0, "
        "exp(-6)^2) (Blundell et al. 2015). Prior of the scale: of each weight's variance, inverse gamma, "
        "which is a Student t with 2 degrees of freedom and scale 0.1 of the weight."
    ),
    core_hours=0.23,
    claims=tuple(
        Claim(
            f"{size} images: {row} beats a point estimate", (row, f"{size} images"), ("VAE", f"{size} images")
        )
        for size in ("1,000", "10,000")
        for row in list(FULL_BAYES_PROGRAMS)[1:]
    ),
)

EXPERIMENTS = (
    MANIFOLDS,
    DEPTH,
    ENCODER_DEPTH,
    ACTIVATIONS,
    ESTIMATORS,
    SAMPLES_BY_BATCH,
    SAMPLES_BY_BATCH_LONG,
    AUTOENCODER,
    RECONSTRUCTION,
    FULL_BAYES,
)
