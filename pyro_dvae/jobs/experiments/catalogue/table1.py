"""Table 1 of Im et al. (2017): bounds of MNIST by bound, depth of the encoder and level of the noise."""

from pyro_dvae.jobs.experiments.declaration import Claim, Experiment, Table, by_method_and_noise

NOISE = (0.0, 0.05, 0.1, 0.15)
ROWS = {
    ("DVAE, K = 1", 1): ((96.14, 0.09), (95.52, 0.12), (96.12, 0.06), (96.83, 0.17)),
    ("DVAE, K = 1", 2): ((95.90, 0.23), (95.34, 0.17), (95.65, 0.14), (96.17, 0.17)),
    ("DVAE, K = 5", 1): ((95.20, 0.07), (95.01, 0.04), (95.55, 0.07), (96.41, 0.11)),
    ("DVAE, K = 5", 2): ((95.01, 0.07), (94.71, 0.13), (94.90, 0.22), (96.41, 0.17)),
    ("DIWAE, K = 5", 1): ((94.36, 0.07), (93.67, 0.10), (93.97, 0.07), (94.35, 0.08)),
    ("DIWAE, K = 5", 2): ((94.31, 0.07), (93.08, 0.08), (93.35, 0.13), (93.71, 0.07)),
}
NAMES = [f"{method}, {layers} layer{'s' if layers > 1 else ''}" for method, layers in ROWS]

EXPERIMENT = Experiment(
    name="table1",
    title="MNIST: bounds by method, layers of the encoder and level of salt and pepper",
    source="Im et al. (2017), Table 1; 10 runs",
    cases=by_method_and_noise(ROWS, NOISE, lambda noise: f"{100 * noise:g} %"),
    table=Table("\N{MINUS SIGN}bound, nats", sign=-1, corner="noise"),
    epochs=500,
    seeds=3,
    options={"dataset": "mnist", "salt": "rate", "validate_every": 5},
    measures=("training", "bounds", "likelihood"),
    core_hours=16.0,
    claims=(
        *(Claim(f"{row}: 5 % noise beats none", (row, "5 %"), (row, "0 %")) for row in NAMES),
        *(
            Claim(f"{row}: 10 % is as good as none, within 0.5 nats", (row, "10 %"), (row, "0 %"), margin=0.5)
            for row in NAMES
        ),
        *(Claim(f"{row}: 15 % is worse than none", (row, "0 %"), (row, "15 %")) for row in NAMES[:4]),
        *(
            Claim(
                f"Without noise, {layers}: K = 5 beats K = 1",
                (f"DVAE, K = 5, {layers}", "0 %"),
                (f"DVAE, K = 1, {layers}", "0 %"),
            )
            for layers in ("1 layer", "2 layers")
        ),
        *(
            Claim(
                f"{method}, 5 %: two encoder layers beat one",
                (f"{method}, 2 layers", "5 %"),
                (f"{method}, 1 layer", "5 %"),
            )
            for method in ("DVAE, K = 1", "DVAE, K = 5", "DIWAE, K = 5")
        ),
    ),
)
