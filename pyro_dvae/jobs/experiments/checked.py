"""Refuses a declaration whose parts do not fit together, before anything is trained."""

from __future__ import annotations

from pyro_dvae import checks
from pyro_dvae.errors import InputError
from pyro_dvae.jobs.experiments.declaration import Experiment
from pyro_dvae.jobs.experiments.measures import MEASURES
from pyro_dvae.jobs.experiments.one_run import PROGRAMS
from pyro_dvae.jobs.experiments.pictures import PICTURES


def require_sound(experiment: Experiment) -> None:
    """Refuse names that do not exist, a value that no measure gives, and a claim or picture without basis.

    :raises InputError: a part of the experiment is missing, or is there twice.
    """
    if len(experiment.cells) < len(experiment.cases):
        raise InputError(f"cases: expected each row and column of {experiment.name} once, got one twice")
    for case in experiment.cases:
        checks.known("program", case.program, PROGRAMS)
    measures = ["bound", *experiment.measures]
    for each in measures:
        checks.known("measures", each, MEASURES)
    given = {figure for each in measures for figure in MEASURES[each].figures}
    checks.known("table", experiment.table.figure, given)
    for claim in experiment.claims:
        if claim.figure is not None:
            checks.known("claims", claim.figure, given)
        if missing := {claim.better, claim.worse} - experiment.cells.keys():
            raise InputError(f"claims: {experiment.name} has no cell {', '.join(min(missing))}")
    needed = PICTURES[checks.known("picture", experiment.picture, PICTURES)].needs
    if needed is not None and needed not in measures:
        raise InputError(
            f"picture: {experiment.picture} needs the measure {needed}, which {experiment.name} lacks"
        )
