"""Burda, Grosse and Salakhutdinov (2016): importance weighting in their networks, with and without noise."""

from typing import Any

from pyro_dvae.jobs.experiments.declaration import Case, Claim, Experiment, Published, Table

NETWORKS: dict[str, Any] = {"hidden_layers": 2, "activation": "tanh", "salt": "rate", "validate_every": 5}
"""Two hidden layers of 200 tanh units in encoder and decoder, 50 latents."""

METHODS: dict[str, dict[str, Any]] = {
    "VAE": {"bound": "dvae"},
    "IWAE, K = 5": {"bound": "diwae", "particles": 5},
}
PUBLISHED = {"VAE": Published(-86.76), "IWAE, K = 5": Published(-85.54)}
NOISE = (0.0, 0.05, 0.1)
LIKELIHOOD = Table("log p(x) of 1,000 test images, nats", figure="refined_log_likelihood", corner="noise")


def _cases(published: dict[str, Published]) -> tuple[Case, ...]:
    return tuple(
        Case(
            method,
            f"{100 * noise:g} %",
            {**options, "noise": noise},
            None if noise else published.get(method),
        )
        for method, options in METHODS.items()
        for noise in NOISE
    )


CLAIMS = (
    *(
        Claim(f"{noise} noise beats none in log p(x)", (method, noise), (method, "0 %"), setting=method)
        for method in METHODS
        for noise in ("5 %", "10 %")
    ),
    Claim("K = 5 beats K = 1 in log p(x)", ("IWAE, K = 5", "0 %"), ("VAE", "0 %")),
)


IMPORTANCE_WEIGHTING = Experiment(
    name="importance-weighting",
    title="MNIST, pixels drawn anew: log p(x) by method and level of salt and pepper",
    source="Burda et al. (2016), Table 1",
    cases=_cases(PUBLISHED),
    table=LIKELIHOOD,
    epochs=2000,
    options={**NETWORKS, "dataset": "mnist", "binarisation": "dynamic"},
    measures=("training", "refined-likelihood"),
    picture="log-curves-by-row",
    note=(
        "Published: all 10,000 test images, 9.8 million steps with batches of 20. Ours: 1 million steps with "
        "batches of 100; the proposal of each image with a bad Pareto k is refined."
    ),
    core_hours=9.0,
    claims=CLAIMS,
)

SILHOUETTES = Experiment(
    name="silhouettes",
    title="Caltech-101 silhouettes, 4,100 for training: log p(x) by method and level of salt and pepper",
    source="suggested by Im et al. (2017): noise on small data sets; no published values",
    cases=_cases({}),
    table=LIKELIHOOD,
    epochs=500,
    seeds=3,
    options={**NETWORKS, "dataset": "caltech101-silhouettes"},
    measures=("training", "likelihood", "refined-likelihood"),
    picture="lines",
    core_hours=1.6,
    claims=CLAIMS,
    of_source=False,
)

EXPERIMENTS = (IMPORTANCE_WEIGHTING, SILHOUETTES)
