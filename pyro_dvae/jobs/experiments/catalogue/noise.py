"""Corruptions that are not in the paper: learned, scheduled, and proportional to the mean image."""

from typing import Any

from pyro_dvae.jobs.experiments.declaration import FREY, Case, Claim, Experiment, Table

# A learned level of noise, by the denoising bound and by the semi-implicit one.

LEARNED_NOISE = Experiment(
    name="learned-noise",
    title="Frey faces: the scale of Gaussian noise learned by L_dvae and by the semi-implicit bound, J = 10",
    source="suggested by Im et al. (2017) and the VAE report; no published values",
    cases=tuple(
        Case(title, f"from {noise:g}", {"bound": bound, "noise": noise})
        for title, bound in (("L_dvae", "dvae"), ("semi-implicit", "semi-implicit"))
        for noise in (0.025, 0.05, 0.1)
    ),
    table=Table("learned scale", figure="noise", corner="start", digits=4),
    epochs=500,
    options={
        **FREY,
        "noise_kind": "gaussian",
        "learn_noise": True,
        "validate_every": 5,
    },
    measures=("noise", "training", "bounds", "likelihood"),
    note=(
        "The level is that of the best epoch by validation; its lower limit is 0.001. L_dvae is linear in "
        "the distribution of the corruption, so it drives the noise down; the semi-implicit bound can have "
        "its optimum above the limit."
    ),
    core_hours=0.10,
)


# Noise that changes over training.

SCHEDULED_NOISE_SCHEDULES: dict[str, dict[str, Any]] = {
    "constant, 5 %": {"noise": 0.05},
    "constant, 10 %": {"noise": 0.1},
    "10 % falling to 0": {"noise": 0.1, "noise_schedule": "linear"},
    "20 % falling to 0": {"noise": 0.2, "noise_schedule": "linear"},
    "10 %, from halfway on 0": {"noise": 0.1, "noise_schedule": "step"},
    "0 rising to 10 %": {"noise": 0.0, "noise_end": 0.1, "noise_schedule": "linear"},
}

SCHEDULED_NOISE = Experiment(
    name="scheduled-noise",
    title="MNIST: levels of salt and pepper that change over training",
    source="Geras and Sutton (2015), for autoencoders; no published values for VAEs",
    cases=tuple(Case(title, "MNIST", options) for title, options in SCHEDULED_NOISE_SCHEDULES.items()),
    table=Table("\N{MINUS SIGN}bound, nats", sign=-1),
    epochs=500,
    options={"dataset": "mnist", "salt": "rate", "validate_every": 5},
    measures=("training", "bounds", "likelihood"),
    picture="curves",
    core_hours=1.2,
    claims=(
        Claim(
            "10 % falling to 0 beats constant 5 %", ("10 % falling to 0", "MNIST"), ("constant, 5 %", "MNIST")
        ),
        Claim(
            "10 % falling to 0 beats constant 5 % in log p(x)",
            ("10 % falling to 0", "MNIST"),
            ("constant, 5 %", "MNIST"),
            "log_likelihood",
        ),
    ),
    of_source=False,
)


# A rate of each pixel proportional to the mean image, so that pixels which vary get noise.

MEAN_IMAGE = Experiment(
    name="mean-image",
    title="MNIST: salt and pepper at one rate for all pixels, or in proportion to the mean image",
    source="suggested by Im et al. (2017) as another form of corruption; no published values",
    cases=tuple(
        Case(pattern, f"{100 * noise:g} %", {"noise": noise, "noise_pattern": value})
        for pattern, value in (("one rate", "uniform"), ("mean image", "mean-image"))
        for noise in (0.05, 0.1, 0.15)
    ),
    table=Table("\N{MINUS SIGN}bound, nats", sign=-1, corner="average noise"),
    epochs=500,
    options={"dataset": "mnist", "salt": "rate", "validate_every": 5},
    measures=("training", "bounds", "likelihood"),
    core_hours=1.7,
    claims=tuple(
        Claim("one rate beats the mean image", ("one rate", noise), ("mean image", noise), setting=noise)
        for noise in ("5 %", "10 %", "15 %")
    ),
    of_source=False,
)

EXPERIMENTS = (
    LEARNED_NOISE,
    SCHEDULED_NOISE,
    MEAN_IMAGE,
)
