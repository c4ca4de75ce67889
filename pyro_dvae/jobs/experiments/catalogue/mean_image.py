"""Noise where the pixels vary: a rate of each pixel in proportion to the mean image."""

from pyro_dvae.jobs.experiments.declaration import Case, Experiment, Table

EXPERIMENT = Experiment(
    name="mean-image",
    title="MNIST: salt and pepper at one rate for all pixels, and in proportion to the mean image",
    source="asked for by Im et al. (2017) as other forms of corruption; no figures published",
    cases=tuple(
        Case(pattern, f"{100 * noise:g} %", {"noise": noise, "noise_pattern": value})
        for pattern, value in (("one rate", "uniform"), ("mean image", "mean-image"))
        for noise in (0.05, 0.1, 0.15)
    ),
    table=Table("\N{MINUS SIGN}bound, nats", sign=-1, corner="average noise"),
    epochs=500,
    options={"dataset": "mnist", "salt": "rate", "validate_every": 5},
    measures=("training", "bounds", "likelihood"),
    core_hours=0.70,
)
