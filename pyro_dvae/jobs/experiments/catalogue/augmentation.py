"""Data augmentation by fresh binarisation, which Im et al. (2017) set beside corruption."""

from typing import Any

from pyro_dvae.jobs.experiments.declaration import DIWAE, DVAE, Case, Claim, Experiment, Published, Table

# Drawn once, with 5 % noise (both of Table 1, one encoder layer), and drawn anew.
PUBLISHED = {
    "VAE": ((96.14, 0.09), (95.52, 0.12), (93.88, 0.08)),
    "IWAE, K = 5": ((94.36, 0.07), (93.67, 0.10), (92.51, 0.07)),
}
COLUMNS: dict[str, dict[str, Any]] = {
    "drawn once": {"noise": 0.0},
    "drawn once, 5 % noise": {"noise": 0.05},
    "drawn anew": {"noise": 0.0, "binarisation": "dynamic"},
}
OPTIONS = {"VAE": DVAE, "IWAE, K = 5": DIWAE}

EXPERIMENT = Experiment(
    name="augmentation",
    title="MNIST: pixels drawn anew at each visit, beside pixels drawn once without and with corruption",
    source="Im et al. (2017), the comparison with data augmentation",
    cases=tuple(
        Case(method, column, {**OPTIONS[method], **options}, Published(*figure))
        for method, figures in PUBLISHED.items()
        for (column, options), figure in zip(COLUMNS.items(), figures, strict=True)
    ),
    table=Table("\N{MINUS SIGN}bound, nats", sign=-1, corner="training pixels"),
    epochs=500,
    options={"dataset": "mnist", "salt": "rate", "validate_every": 5},
    measures=("training", "bounds", "likelihood"),
    note="One encoder layer. The test pixels are drawn once, by the seed, in all cases.",
    core_hours=1.3,
    claims=tuple(
        Claim(f"{row}: pixels drawn anew beat 5 % noise", (row, "drawn anew"), (row, "drawn once, 5 % noise"))
        for row in PUBLISHED
    ),
)
