"""A small experiment on the digits, and rows of results as its runs would write them."""

from pyro_dvae.jobs.experiments import Case, Experiment, Published, Table

SMALL = Experiment(
    name="small",
    title="Small",
    source="a test",
    cases=(
        Case("VAE", "0 %", {"noise": 0.0}, Published(90.0, 0.5)),
        Case("VAE", "5 %", {"noise": 0.05}, Published(89.0)),
        Case("VAE, K = 2", "5 %", {"noise": 0.05, "particles": 2}),
    ),
    table=Table("\N{MINUS SIGN}bound, nats", sign=-1, corner="noise"),
    epochs=3,
    seeds=2,
    options={"dataset": "digits", "width": 16, "latent_size": 3, "validate_every": 2},
    measures=("training",),
)


def row_of(planned, mean, error=0.1, **figures):
    """Return a row such as a run of ``planned`` with this bound leaves."""
    case = planned.case
    return {
        "experiment": planned.experiment,
        "key": planned.key,
        "row": case.row,
        "column": case.column,
        "seed": planned.options.seed,
        "program": case.program,
        "options": planned.options.as_dict(),
        "data": {"name": planned.options.dataset, "sizes": [10, 5, 5], "trained_on": 10},
        "measures": sorted(planned.measures),
        "epochs": planned.options.epochs,
        "best_epoch": 2,
        "figures": {
            "bound": {"mean": mean, "standard_error": error},
            **{name: {"mean": value, "standard_error": 0.2} for name, value in figures.items()},
        },
        "curve": {"epoch": [1, 2, 3], "train": [-3.0, -2.0, -1.0], "validation": [-4.0, -3.0, -3.5]},
        "seconds": {"steps": 1.0, "training": 1800.0, "compilation": 0.0, "measuring": 0.0},
        "threads": 1,
        "device": "cpu",
        "versions": {"torch": "2.0"},
    }
