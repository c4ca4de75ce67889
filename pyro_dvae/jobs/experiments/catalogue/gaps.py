"""When does denoising pay? The gaps of inference with and without noise, by the number of training rows."""

from __future__ import annotations

from typing import Any

from pyro_dvae.jobs.experiments.declaration import Case, Claim, Experiment, Table

STOPPED = "{}, early stopping"
REFITTED = "VAE, 0 %, reverse half-asleep"
CONSISTENT = "VAE, 5 %, consistency"
LOG = "test_log_likelihood"
_METHODS: dict[str, dict[str, Any]] = {
    "VAE": {"bound": "dvae"},
    "IWAE, K = 5": {"bound": "diwae", "particles": 5},
}
_NOISE = (0.0, 0.05, 0.1)
_DATA: dict[str, tuple[str, int | None, int]] = {
    "MNIST, 1,000": ("mnist", 1_000, 1_000),
    "MNIST, 5,000": ("mnist", 5_000, 400),
    "MNIST, 50,000": ("mnist", None, 40),
    "silhouettes": ("caltech101-silhouettes", None, 400),
}
"""Data set, training rows and epochs: 10,000 to 20,000 steps each."""


def _case(row: str, column: str, options: dict[str, Any], program: str = "dvae", stop: bool = False) -> Case:
    dataset, rows, epochs = _DATA[column]
    # With a single validation, of the last epoch, the last weights are used; else the best of fifty epochs.
    every = epochs // 50 or 1 if stop else epochs
    given = {"dataset": dataset, "epochs": epochs, "validate_every": every, **options}
    return Case(row, column, given, program=program, train_size=rows)


def _row(method: str, noise: float) -> str:
    return f"{method}, {100 * noise:g} %"


def _cases() -> tuple[Case, ...]:
    found = []
    for column in _DATA:
        for method, options in _METHODS.items():
            found += [_case(_row(method, noise), column, {**options, "noise": noise}) for noise in _NOISE]
        for noise in _NOISE:
            row = STOPPED.format(_row("VAE", noise))
            found.append(_case(row, column, {"noise": noise}, stop=True))
        found.append(_case(REFITTED, column, {"noise": 0.0}, "dvae-refitted"))
        found.append(_case(CONSISTENT, column, {"noise": 0.05}, "dvae-consistent"))
    return tuple(found)


def _claims() -> tuple[Claim, ...]:
    pairs = {
        ("VAE, 5 %", "VAE, 0 %"): "both",
        ("IWAE, K = 5, 5 %", "IWAE, K = 5, 0 %"): "both",
        ("VAE, 5 %", STOPPED.format("VAE, 0 %")): "both",
        (STOPPED.format("VAE, 5 %"), STOPPED.format("VAE, 0 %")): "both",
        ("VAE, 5 %", REFITTED): "gap",
        (CONSISTENT, "VAE, 5 %"): "both",
    }
    found = []
    for column in _DATA:
        for (better, worse), kind in pairs.items():
            cells, words = ((better, column), (worse, column)), f"than {worse}"
            gap = f"{better} has a smaller amortisation gap {words}"
            found.append(Claim(gap, *cells, "test_amortisation_gap", lower=True, setting=column))
            if kind == "both":
                found.append(Claim(f"{better} has a higher log p(x) {words}", *cells, LOG, setting=column))
    return tuple(found)


GAPS = Experiment(
    name="gaps",
    title="Inference gaps by method, level of salt and pepper, and number of training images",
    source="the gaps of Cremer et al. (2018); noise after Shu et al. (2018); no published values",
    cases=_cases(),
    table=Table(
        "amortisation gap of 100 test images, nats", figure="test_amortisation_gap", corner="method, noise"
    ),
    epochs=400,
    seeds=3,
    measures=("training", "inference-gaps"),
    picture="gaps",
    core_hours=3.0,
    note=(
        "A replaced pixel is black or white with equal probability, a stronger corruption than in the other "
        "experiments, where it is white at the noise's rate. "
        "Runs with early stopping keep the best of fifty epochs by validation, all others the last epoch. "
        "The approximation gap lies between log p(x) and the bound with the best diagonal Gaussian for each "
        "image, the amortisation gap between this bound and the encoder's, always with K = 1. Reverse "
        "half-asleep (Zhang et al. 2022) trains the encoder again for as many epochs, on equal shares of "
        "training images and draws from the decoder. Consistency (Sinha and Dieng 2021) adds "
        "KL(q(z|x̃) ‖ q(z|x)) with weight 1, not tuned."
    ),
    claims=_claims(),
    of_source=False,
)

EXPERIMENTS = (GAPS,)
