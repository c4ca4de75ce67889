"""A distribution of the decoder's weights, where data are few."""

from pyro_dvae.jobs.experiments.declaration import Case, Claim, Experiment, Table

PROGRAMS = {
    "VAE": "dvae",
    "full Bayes": "full-bayes",
    "full Bayes, prior of scale 0.1": "full-bayes-narrow-prior",
    "full Bayes, from a trained VAE": "full-bayes-from-trained",
}

EXPERIMENT = Experiment(
    name="full-bayes",
    title="MNIST: a point estimate or a distribution of the decoder's weights, by the training images",
    source="the VAE report, section 6, after Kingma and Welling (2014), appendix F; no figures at hand",
    cases=tuple(
        Case(title, f"{size:,} images", program=program, train_size=size)
        for title, program in PROGRAMS.items()
        for size in (1_000, 10_000)
    ),
    table=Table("\N{MINUS SIGN}bound, nats", sign=-1, corner="training images"),
    epochs=300,
    options={"dataset": "mnist", "noise": 0.0, "validate_every": 5},
    measures=("training", "likelihood"),
    note=(
        "The bound is of a new datum under weights drawn from their distribution. A run from a trained VAE "
        "has trained that for as many epochs before."
    ),
    core_hours=0.23,
    claims=tuple(
        Claim(
            f"{size} images: {row} beats a point estimate",
            (row, f"{size} images"),
            ("VAE", f"{size} images"),
        )
        for size in ("1,000", "10,000")
        for row in list(PROGRAMS)[1:]
    ),
)
