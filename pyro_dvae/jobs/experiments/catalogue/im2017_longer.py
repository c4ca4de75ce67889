"""Im, Ahn, Memisevic and Bengio (2017): longer runs of cells that 500 epochs leave open, and equal time."""

from typing import Any

from pyro_dvae.jobs.experiments.catalogue.im2017 import (
    FIGURE1,
    MEASURES,
    MNIST,
    TABLE1,
    TABLE1_NAMES,
    TABLE1_NOISE,
    TABLE1_ROWS,
    TABLE2,
    TABLE2_NOISE,
    TABLE2_ROWS,
    percent,
)
from pyro_dvae.jobs.experiments.declaration import DIWAE, DVAE, Case, Claim, Experiment, by_method_and_noise

REFINED = "refined_log_likelihood"

# The first row of Table 1 with the learning rates and the length of training of the paper's code.

ONE_LAYER = TABLE1_NAMES[0]

TABLE1_LONG = Experiment(
    name="table1-long",
    title="MNIST: the one-layer DVAE of Table 1 in 3,000 epochs, at the learning rates of the paper's code",
    source="Im et al. (2017), Table 1; 10 runs",
    cases=by_method_and_noise(dict(list(TABLE1_ROWS.items())[:1]), TABLE1_NOISE, percent),
    table=TABLE1.table,
    epochs=3000,
    seeds=3,
    options={**MNIST, "rate_schedule": "paper"},
    measures=(*MEASURES, "refined-likelihood"),
    picture="log-curves-by-row",
    core_hours=7.5,
    claims=(
        *(
            Claim(text, (ONE_LAYER, better), (ONE_LAYER, worse), margin=margin)
            for text, better, worse, margin in (
                ("5 % noise beats none", "5 %", "0 %", 0.0),
                ("10 % is as good as none, within 0.5 nats", "10 %", "0 %", 0.5),
                ("15 % is worse than none", "0 %", "15 %", 0.0),
            )
        ),
        *(
            Claim(f"{noise} noise beats none in log p(x)", (ONE_LAYER, noise), (ONE_LAYER, "0 %"), REFINED)
            for noise in ("5 %", "10 %", "15 %")
        ),
    ),
)

# The rows of two-layer DVAEs of Table 2, which are far from convergence after 500 epochs of 16 steps.

TWO_LAYERS = {key: TABLE2_ROWS[key] for key in [("DVAE, K = 1", 2), ("DVAE, K = 5", 2)]}

TABLE2_LONG = Experiment(
    name="table2-long",
    title="Frey faces: the two-layer DVAE rows of Table 2 over 3,000 epochs",
    source="Im et al. (2017), Table 2; 10 runs",
    cases=by_method_and_noise(TWO_LAYERS, TABLE2_NOISE, "{:g}".format),
    table=TABLE2.table,
    epochs=3000,
    seeds=3,
    options=TABLE2.options,
    measures=(*MEASURES, "refined-likelihood"),
    picture="lines",
    core_hours=2.9,
    claims=(
        *(
            Claim(text, (row, better), (row, worse), setting=row)
            for text, better, worse in (
                ("noise of 0.025 beats none", "0.025", "0"),
                ("noise of 0.05 beats none", "0.05", "0"),
                ("noise of 0.075 is worse than none", "0", "0.075"),
            )
            for row in ("DVAE, K = 1, 2 layers", "DVAE, K = 5, 2 layers")
        ),
        *(
            Claim(f"noise of {noise} beats none in log p(x)", (row, noise), (row, "0"), REFINED, setting=row)
            for row in ("DVAE, K = 1, 2 layers", "DVAE, K = 5, 2 layers")
            for noise in ("0.025", "0.05", "0.075")
        ),
    ),
)

# Figure 1 with equal processor time, that of 50 epochs with M = 10.

EQUAL_ROWS: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    "DVAE": (DVAE, (290, 88, 50)),
    "DIWAE": (DIWAE, (370, 99, 50)),
    "VAE": ({**DVAE, "noise": 0.0}, (290, 88, 50)),
    "IWAE": ({**DIWAE, "noise": 0.0}, (370, 99, 50)),
}

FIGURE1_EQUAL = Experiment(
    name="figure1-equal",
    title="MNIST: bounds by number M of corruptions of each image, in equal processor time",
    source="after Im et al. (2017), Figure 1, which has equal epochs",
    cases=tuple(
        Case(method, f"M = {count}", {**options, "corruptions": count, "epochs": epochs})
        for method, (options, lengths) in EQUAL_ROWS.items()
        for count, epochs in zip((1, 5, 10), lengths, strict=True)
    ),
    table=FIGURE1.table,
    epochs=50,
    options=FIGURE1.options,
    measures=MEASURES,
    picture="log-curves-by-row",
    note="VAE and IWAE have no noise: M is then the number of groups of latents.",
    core_hours=4.0,
    claims=tuple(
        Claim("M = 10 beats M = 1 in equal time", (row, "M = 10"), (row, "M = 1"), setting=row)
        for row in EQUAL_ROWS
    ),
)

EXPERIMENTS = (TABLE1_LONG, TABLE2_LONG, FIGURE1_EQUAL)
