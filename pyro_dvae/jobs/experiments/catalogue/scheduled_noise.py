"""Noise that changes over training."""

from typing import Any

from pyro_dvae.jobs.experiments.declaration import Case, Experiment, Table

SCHEDULES: dict[str, dict[str, Any]] = {
    "constant, 5 %": {"noise": 0.05},
    "constant, 10 %": {"noise": 0.1},
    "10 % falling to 0": {"noise": 0.1, "noise_schedule": "linear"},
    "20 % falling to 0": {"noise": 0.2, "noise_schedule": "linear"},
    "10 %, from halfway on 0": {"noise": 0.1, "noise_schedule": "step"},
    "0 rising to 10 %": {"noise": 0.0, "noise_end": 0.1, "noise_schedule": "linear"},
}

EXPERIMENT = Experiment(
    name="scheduled-noise",
    title="MNIST: levels of salt and pepper that change over training",
    source="Geras and Sutton (2015), for autoencoders; no figures published for VAEs",
    cases=tuple(Case(title, "MNIST", options) for title, options in SCHEDULES.items()),
    table=Table("\N{MINUS SIGN}bound, nats", sign=-1),
    epochs=500,
    options={"dataset": "mnist", "salt": "rate", "validate_every": 5},
    measures=("training", "bounds", "likelihood"),
    picture="curves",
    core_hours=1.2,
)
