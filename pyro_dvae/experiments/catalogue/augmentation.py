"""Data augmentation by fresh binarisation, which Im et al. (2017) set beside corruption."""

from pyro_dvae.experiments.declaration import Case, Experiment, Published, Table
from pyro_dvae.experiments.shared import DIWAE, DVAE

PUBLISHED = {"VAE": (93.88, 0.08), "IWAE, K = 5": (92.51, 0.07)}
OPTIONS = {"VAE": DVAE, "IWAE, K = 5": DIWAE}

EXPERIMENT = Experiment(
    name="augmentation",
    title="MNIST: pixels drawn anew at each visit, beside pixels drawn once without and with corruption",
    source="Im et al. (2017), the comparison with data augmentation",
    cases=tuple(
        Case(method, column, {**OPTIONS[method], **options}, published)
        for method, figure in PUBLISHED.items()
        for column, options, published in (
            ("drawn once", {"noise": 0.0}, None),
            ("drawn once, 5 % noise", {"noise": 0.05}, None),
            ("drawn anew", {"noise": 0.0, "binarisation": "dynamic"}, Published(*figure)),
        )
    ),
    table=Table("\N{MINUS SIGN}bound, nats", sign=-1, corner="training pixels"),
    epochs=500,
    options={"dataset": "mnist", "salt": "rate", "validate_every": 5},
    measures=("training", "bounds", "likelihood"),
    note="One encoder layer. The test pixels are drawn once, by the seed, in all cases.",
)
