"""Autoencoders beside VAEs by the squared error, on a small and on the whole training set."""

from typing import Any

from pyro_dvae.jobs.experiments.declaration import Case, Claim, Experiment, Table

SIZES = (2, 5, 10, 20)
TRAINED_ON: dict[str, tuple[int | None, dict[str, Any]]] = {
    "1,000 images": (1_000, {"epochs": 500}),
    "50,000 images": (None, {}),
}

EXPERIMENT = Experiment(
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
        for images, (size, options) in TRAINED_ON.items()
        for title, program in (("autoencoder", "autoencoder"), ("VAE", "dvae"))
        for latents in SIZES
    ),
    table=Table(
        "squared error of a pixel, mean code",
        figure="squared_error_mean_code",
        corner="size of the latent space",
        digits=4,
    ),
    epochs=50,
    seeds=3,
    options={
        "dataset": "mnist",
        "binarisation": "none",
        "likelihood": "gaussian",
        "noise": 0.0,
        "width": 500,
        "decoder_layers": 1,
        "activation": "tanh",
        "validate_every": 5,
    },
    measures=("reconstruction",),
    note=(
        "Encoder and decoder have one layer of 500 tanh units each. The Gaussian decoder has one scale for "
        "all pixels, learned. There is no penalty of the weights, where the report has one for both. Sampled "
        "codes: the error of one draw, averaged over draws. The bound of an autoencoder is no bound of "
        "log p(x)."
    ),
    core_hours=2.0,
    claims=(
        *(
            Claim(
                f"{images}, {latents} latents: a VAE has a lower squared error than an autoencoder",
                (f"VAE, {images}", str(latents)),
                (f"autoencoder, {images}", str(latents)),
                lower=True,
            )
            for images in TRAINED_ON
            for latents in SIZES
        ),
    ),
)
