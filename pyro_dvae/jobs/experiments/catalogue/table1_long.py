"""Rows of Table 1 of Im et al. (2017) in six times as many epochs: does 10 % of noise gain with length?"""

from pyro_dvae.jobs.experiments.catalogue.table1 import NOISE, ROWS
from pyro_dvae.jobs.experiments.declaration import Claim, Experiment, Table, by_method_and_noise

ROW = ("DVAE, K = 1", 1)
NAME = "DVAE, K = 1, 1 layer"

EXPERIMENT = Experiment(
    name="table1-long",
    title="MNIST: a row of Table 1 in 3,000 epochs, with the learning rates of the paper's code",
    source="Im et al. (2017), Table 1; 10 runs of up to 5,000 epochs",
    cases=by_method_and_noise({ROW: ROWS[ROW]}, NOISE, lambda noise: f"{100 * noise:g} %"),
    table=Table("\N{MINUS SIGN}bound, nats", sign=-1, corner="noise"),
    epochs=3000,
    seeds=1,
    options={"dataset": "mnist", "salt": "rate", "rate_schedule": "paper", "validate_every": 10},
    measures=("training", "bounds", "likelihood"),
    claims=(
        Claim(f"{NAME}, 3,000 epochs: 5 % noise beats none", (NAME, "5 %"), (NAME, "0 %")),
        Claim(
            f"{NAME}, 3,000 epochs: 10 % is as good as none, within 0.5 nats",
            (NAME, "10 %"),
            (NAME, "0 %"),
            margin=0.5,
        ),
        Claim(f"{NAME}, 3,000 epochs: 15 % is worse than none", (NAME, "0 %"), (NAME, "15 %")),
    ),
)
