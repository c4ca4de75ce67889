"""Table 2 of Im et al. (2017): bounds of the Frey faces."""

from pyro_dvae.jobs.experiments.declaration import FREY, Claim, Experiment, Table, by_method_and_noise

NOISE = (0.0, 0.025, 0.05, 0.075)
ROWS = {
    ("DVAE, K = 1", 1): ((1304.79, 5.71), (1313.74, 3.64), (1314.48, 5.85), (1293.07, 5.03)),
    ("DVAE, K = 1", 2): ((1317.53, 3.93), (1322.40, 3.11), (1319.60, 3.30), (1306.07, 3.35)),
    ("DVAE, K = 5", 1): ((1306.45, 6.13), (1320.39, 4.17), (1313.14, 5.80), (1298.40, 4.74)),
    ("DVAE, K = 5", 2): ((1317.51, 3.81), (1324.13, 2.62), (1320.99, 3.49), (1317.56, 3.94)),
    ("DIWAE, K = 5", 1): ((1318.04, 2.83), (1320.18, 3.43), (1333.44, 2.74), (1305.38, 2.97)),
    ("DIWAE, K = 5", 2): ((1320.03, 1.67), (1334.77, 2.69), (1323.97, 4.15), (1309.30, 2.95)),
}
NAMES = [f"{method}, {layers} layer{'s' if layers > 1 else ''}" for method, layers in ROWS]

EXPERIMENT = Experiment(
    name="table2",
    title="Frey faces: bounds by method, layers of the encoder and scale of Gaussian noise",
    source="Im et al. (2017), Table 2; 10 runs",
    cases=by_method_and_noise(ROWS, NOISE, lambda noise: f"{noise:g}"),
    table=Table("bound of a density, nats", corner="noise", digits=1),
    epochs=500,
    seeds=3,
    options={
        **FREY,
        "noise_kind": "gaussian",
        "validate_every": 5,
    },
    measures=("training", "bounds", "likelihood"),
    note=(
        "The published script takes its validation and test images from the start of the array that it "
        "trains on, so the published figures are not of held-out images if it produced them. Ours are: the "
        "split is disjoint, 1,572 / 295 / 98 images. The deviations are over seeds; the 98 images themselves "
        "stand for a standard error of about 30 nats, the same images in every cell."
    ),
    core_hours=1.4,
    claims=(
        *(
            Claim(f"Frey, {row}: {noise} beats none", (row, noise), (row, "0"))
            for row in NAMES
            for noise in ("0.025", "0.05")
        ),
        *(Claim(f"Frey, {row}: 0.075 is worse than none", (row, "0"), (row, "0.075")) for row in NAMES),
    ),
)
