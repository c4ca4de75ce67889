"""The report on auto-encoding variational Bayes: VAEs, autoencoders and full Bayes."""

from typing import Any

from pyro_dvae.jobs.experiments.catalogue.vae_report import ONE_LAYER
from pyro_dvae.jobs.experiments.declaration import Case, Claim, Experiment, Table

# Autoencoders and VAEs with the same networks: the error of the reconstruction.

AUTOENCODER_SYSTEMS: dict[str, tuple[str, dict[str, Any]]] = {
    "autoencoder": ("autoencoder", {"noise": 0.0}),
    "denoising autoencoder, 5 %": ("autoencoder", {"noise": 0.05}),
    "VAE": ("dvae", {"noise": 0.0}),
    "DVAE, 5 %": ("dvae", {"noise": 0.05}),
}

AUTOENCODER = Experiment(
    name="autoencoder",
    title="MNIST: reconstruction error from the mean code by size of the latent space",
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
        "An autoencoder has no prior: its 'bound' in the second table is its negative cross-entropy, not a "
        "bound of log p(x). Mean code: the posterior mean of a VAE."
    ),
    core_hours=0.23,
    claims=tuple(
        Claim(
            "a VAE has a lower cross-entropy than an autoencoder",
            ("VAE", size),
            ("autoencoder", size),
            lower=True,
            setting=f"{size} latents",
        )
        for size in ("2", "5", "10", "20", "50")
    ),
    of_source=False,
)

# Squared error of autoencoders and VAEs, on a small and on the whole training set.

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
    measures=("reconstruction", "training-error"),
    picture="lines-and-digits",
    note=(
        "Encoder and decoder have one layer of 500 tanh units each. The Gaussian decoder learns one scale "
        "for all pixels. The l2 penalty is a prior N(0, 1) of every weight of both networks; the report does "
        "not state its strength. Mean code: the posterior mean. Sampled codes: the error of one draw, "
        "averaged over draws. The 'bound' of an autoencoder does not bound log p(x)."
    ),
    core_hours=2.0,
    claims=tuple(
        Claim(
            f"{images}: a VAE has a lower squared error than an autoencoder",
            (f"VAE{rest}, {images}", str(latents)),
            (f"autoencoder{rest}, {images}", str(latents)),
            lower=True,
            setting=f"{latents} latents{rest}",
        )
        for images in RECONSTRUCTION_TRAINED_ON
        for rest in ("", ", no penalty")
        for latents in RECONSTRUCTION_SIZES
    ),
)

# A distribution of the decoder's weights, on small training sets.

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
    title="MNIST: point estimate or distribution of the decoder's weights, by number of training images",
    source="the VAE report, section 6, after Kingma and Welling (2014), appendix F; values not available",
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
        "The bound is that of a new image under weights drawn from their variational posterior. 'From a "
        "trained VAE' first trains the VAE for as many epochs. Scale mixture: equal shares of N(0, 1) and "
        "N(0, exp(-6)^2) (Blundell et al. 2015). Prior of the scale: an inverse-gamma prior of each weight's "
        "variance, so each weight has a Student-t prior with 2 degrees of freedom and scale 0.1."
    ),
    core_hours=1.1,
    claims=tuple(
        Claim(
            "a distribution of the decoder's weights beats a point estimate",
            (row, images),
            ("VAE", images),
            setting=f"{images}, {row}",
        )
        for images in ("1,000 images", "10,000 images")
        for row in list(FULL_BAYES_PROGRAMS)[1:]
    ),
)

EXPERIMENTS = (AUTOENCODER, RECONSTRUCTION, FULL_BAYES)
