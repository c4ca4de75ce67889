"""Table 3 of Im et al. (2017): MNIST with a recurrent encoder."""

from pyro_dvae.jobs.experiments.declaration import DIWAE, DVAE, Case, Claim, Experiment, Published, Table

NOISE = (0.0, 0.05, 0.1, 0.15)
ROWS = {
    "DVAE": ((96.07, 0.17), (94.30, 0.09), (94.32, 0.12), (94.88, 0.11)),
    "DIWAE": ((93.94, 0.06), (93.13, 0.11), (92.84, 0.07), (93.03, 0.04)),
}
OPTIONS = {"DVAE": DVAE, "DIWAE": DIWAE}

EXPERIMENT = Experiment(
    name="table3",
    title="MNIST with a GRU encoder, one recurrent layer and five steps over the same input",
    source="Im et al. (2017), Table 3; 10 runs",
    cases=tuple(
        Case(method, f"{100 * noise:g} %", {**OPTIONS[method], "noise": noise}, Published(*figure))
        for method, figures in ROWS.items()
        for noise, figure in zip(NOISE, figures, strict=True)
    ),
    table=Table("\N{MINUS SIGN}bound, nats", sign=-1, corner="noise"),
    epochs=200,
    options={"dataset": "mnist", "salt": "rate", "encoder": "gru", "validate_every": 5},
    measures=("training", "bounds", "likelihood"),
    note="Ours: K = 1 for DVAE and K = 5 for DIWAE; the activation is that of the decoder.",
    core_hours=1.4,
    claims=tuple(
        Claim(f"GRU, {row}: {noise} noise beats none", (row, noise), (row, "0 %"))
        for row in ("DVAE", "DIWAE")
        for noise in ("5 %", "10 %")
    ),
)
