"""Figure 1 of Im et al. (2017): how many corruptions of a datum."""

from pyro_dvae.jobs.experiments.declaration import DIWAE, DVAE, Case, Claim, Experiment, Published, Table

PUBLISHED = {"DVAE": (94.97, 94.44, 94.39), "DIWAE": (93.17, 92.89, 92.85)}
OPTIONS = {"DVAE": DVAE, "DIWAE": DIWAE}

EXPERIMENT = Experiment(
    name="figure1",
    title="MNIST: bounds by the number M of corruptions of each image, 5 % salt and pepper",
    source="Im et al. (2017), Figure 1",
    cases=tuple(
        Case(method, f"M = {count}", {**OPTIONS[method], "corruptions": count}, Published(figure))
        for method, figures in PUBLISHED.items()
        for count, figure in zip((1, 5, 10), figures, strict=True)
    ),
    table=Table("\N{MINUS SIGN}bound, nats", sign=-1, corner="corruptions"),
    epochs=50,
    options={"dataset": "mnist", "salt": "rate", "noise": 0.05, "validate_every": 5},
    measures=("training", "bounds", "likelihood"),
    picture="log-curves-by-row",
    note=(
        "Ours: one encoder layer, K = 1 latent of each corruption for DVAE and K = 5 for DIWAE; which the "
        "figure has, the paper does not say."
    ),
    core_hours=0.54,
    claims=tuple(
        Claim(f"{row}: {more} corruptions beat {less}", (row, f"M = {more}"), (row, f"M = {less}"))
        for row in ("DVAE", "DIWAE")
        for more, less in ((5, 1), (10, 5))
    ),
)
