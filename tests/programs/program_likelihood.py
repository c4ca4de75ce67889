"""The held-out likelihood of a random program, compared with quadrature over the prior."""

from __future__ import annotations

import dataclasses
import random
import warnings

import pyro
from program_check import Outcome
from program_pyro import Form, data, numbers
from program_slow import Slow
from program_sources import Grid, GridTooLargeError
from program_spec import ROWS, Program

import pyro_dvae as dv
from pyro_dvae.errors import InputError

TRUSTED = 0.5  # Pareto k above which an estimate's error says nothing


def of_likelihood(program: Program) -> Program:
    """Return the program without what a likelihood of rows has no meaning for."""
    return dataclasses.replace(
        program,
        scales={},
        masks={},
        guide_factor=False,
        subsampling=1.0,
        careless=None,
        dropout=False,
    )


def likelihood_outcome(program: Program, samples: int = 2000) -> Outcome:
    """Estimate the likelihood of a program with some proposal and compare it."""
    rng, program = random.Random(program.seed), of_likelihood(program)
    options = {
        "proposal": rng.choice(("clean", "corrupted", "mixture")),
        "num_corruptions": 3,
        "defensive": rng.choice((0.0, 0.0, 0.3)),
        "widen": rng.choice((1.0, 1.0, 1.5)),
    }
    with warnings.catch_warnings(), pyro.validation_enabled(program.validation):
        warnings.simplefilter("ignore")
        try:
            for count in (samples, 16 * samples):  # what is too far is looked at again
                problem, compared = _distance(program, count, options)
                if problem is None:
                    return Outcome("equal", "", ("likelihood",) * bool(compared))
        except InputError as error:
            return Outcome("refused", str(error))
        except Exception as error:
            return Outcome("fails", f"{type(error).__name__}: {error} {options}")
    return Outcome("differs", f"{problem}; {options}")


def _distance(program: Program, samples: int, options: dict) -> tuple[str | None, int]:
    """Return what is too far from the exact value, and how many rows were compared."""
    pyro.clear_param_store()
    form, compared = Form(program), 0
    found = dv.log_likelihood(
        form.model, form.guide, data(program), num_samples=samples, seed=samples, compile=False, **options
    )
    for row in range(ROWS):
        exact = _evidence(program, row)
        if exact is None or float(found.pareto_k[row]) > TRUSTED:
            continue
        compared += 1
        got, error = float(found.log_likelihood[row]), float(found.standard_error[row])
        if abs(got - exact) > 5 * error + 1e-6:
            return f"row {row}: {got:.6g} ± {error:.2g}, expected {exact:.6g}", compared
    return None, compared


def _evidence(program: Program, row: int) -> float | None:
    found = []
    for nodes in (60, 40):
        slow, grid = Slow(program, numbers(program), data(program)), Grid(nodes, 300_000)
        try:
            values = slow.prior(grid, [row])
        except GridTooLargeError:
            return None
        priors = {latent.name for latent in program.latents}
        likelihood = sum(term.value for term in slow.model_terms(values, [row]) if term.site not in priors)
        found.append(float((grid.weight * likelihood.exp()).sum().log().detach()))
    return found[0] if abs(found[0] - found[1]) < 1e-6 else None
