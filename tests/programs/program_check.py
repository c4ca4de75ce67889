"""One random program: its bound compared with the slow implementation."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

import pyro
import torch
from program_draws import recorded_draws
from program_pyro import Form, data, numbers
from program_slow import Slow
from program_sources import Given, Grid, GridTooLargeError
from program_spec import Program, draw_program
from torch import Tensor

import pyro_dvae as dv
from pyro_dvae.errors import InputError

BOUNDS = {
    "mean": dv.TraceDenoising_ELBO,
    "mean field": dv.TraceMeanFieldDenoising_ELBO,
    "average": dv.TraceDenoisingIWAE_ELBO,
    "pooled": dv.TraceDenoisingIWAE_ELBO,
    "mixture": dv.TraceDenoisingIWAE_ELBO,
    "semi-implicit": dv.TraceSemiImplicit_ELBO,
}
ERRORS = 4.5  # standard errors; what is beyond is looked at again with sixteen times the copies


class Outcome(NamedTuple):
    """The result of a program.

    :param status: ``equal``, ``refused``, ``differs`` or ``fails``.
    :param detail: the message, or what differs.
    :param checks: what was compared: ``value``, ``gradient`` (from the same draws), ``expectation``.
    """

    status: str
    detail: str = ""
    checks: tuple[str, ...] = ()


class DifferenceError(Exception):
    """A value is not as expected."""


def make_bound(program: Program):
    """Return the bound of a program."""
    options = dict(program.options)
    if program.bound in ("average", "pooled", "mixture"):
        options["combine"] = program.bound
    return BOUNDS[program.bound](**options)


def outcome(program: Program, copies: int = 1500, points: int = 60_000) -> Outcome:
    """Run a program and compare it."""
    checks: list[str] = []
    with warnings.catch_warnings(), pyro.validation_enabled(program.validation):
        warnings.simplefilter("ignore")
        try:
            _compare_draws(program, checks)
            if _has_copies(program):
                _compare_expectation(program, copies, points, checks)
        except InputError as error:
            return Outcome("refused", str(error), tuple(checks))
        except DifferenceError as error:
            return Outcome("differs", str(error), tuple(checks))
        except Exception as error:
            return Outcome("fails", f"{type(error).__name__}: {error}", tuple(checks))
    return Outcome("equal", "", tuple(checks))


def _has_copies(program: Program) -> bool:
    """Whether the program runs in many copies, and its expectation is known."""
    if program.careless is not None or (program.noise is not None and program.noise.place == "all"):
        return False
    # Which draws share a mask of dropout differs between one pass and a loop.
    return not program.dropout or program.bound in ("mean", "mean field")


def normalised(message: str) -> str:
    """Return a refusal without the names and numbers of the program."""
    message = message.splitlines()[0]  # Pyro adds the shapes of the trace below
    message = re.sub(r"\(\d[\d, ]*\)|\[[\d, ]*\]", "(...)", message)
    return re.sub(r"-?\d+(\.\d+)?(e-?\d+)?|'[^']*'", "_", message)


def _compare_draws(program: Program, checks: list[str]) -> None:
    """Compare the estimate, and its gradient where the draws carry it, with that from the same draws."""
    pyro.clear_param_store()
    form, x, bound = Form(program), data(program), make_bound(program)
    pyro.set_rng_seed(program.seed)
    bound.loss(form.model, form.guide, x)  # the first run of a pair is followed by looks at it
    form.runs.clear()
    form.clear()
    pyro.set_rng_seed(program.seed)
    loss = bound.loss_and_grads(form.model, form.guide, x)
    recorded, gradients = recorded_draws(form), form.gradients()
    for other in (bound.loss, bound.differentiable_loss):
        pyro.set_rng_seed(program.seed)
        again = float(other(form.model, form.guide, x))
        if abs(again - loss) > 1e-9 * (1 + abs(loss)):
            raise DifferenceError(f"{other.__name__} {again:.9g}, loss_and_grads {loss:.9g}")
    if program.bound == "mean field":
        return
    slow, source = Slow(program, form.numbers, x), Given(recorded)
    expected = slow.bound(lambda: source, expected=False)
    if abs(float(expected) + loss) > 1e-9 * (1 + abs(loss)):
        raise DifferenceError(f"value from the same draws: {-loss:.9g}, expected {float(expected):.9g}")
    checks.append("value")
    _compare_rows(program, bound, form, slow.per_row(source))
    expected.backward()
    pathwise = not source.scores and program.option("gradient", "pathwise") == "pathwise"
    compared = 0
    for name, parameter in slow.p.items():
        of_model = name.split(".")[-1] in ("a", "b", "s")
        if not pathwise and (not of_model or name == "u.s"):
            continue
        wanted = torch.zeros(()) if parameter.grad is None else parameter.grad
        got = -gradients[name]
        if not torch.allclose(got, wanted, rtol=1e-7, atol=1e-8):
            raise DifferenceError(
                f"gradient of {name} from the same draws: {float(got):.9g}, expected {float(wanted):.9g}"
            )
        compared += 1
    if compared:
        checks.append("gradient")


def _compare_rows(program: Program, bound, form: Form, wanted: list[Tensor]) -> None:
    """Compare the estimates per row, without the scale of the plate."""
    pyro.set_rng_seed(program.seed)
    try:
        got = bound.per_datum(form.model, form.guide, data(program))
    except InputError as error:
        if program.model_factor == "outside" and "none of them" in str(error):
            return
        raise
    wanted = torch.stack([value.detach() for value in wanted])
    if program.bound == "mean" and got.dim() == 2:  # all is in the inner plate too: a figure for each element
        got = got.sum(0)
    if got.numel() != wanted.numel() or not torch.allclose(got.flatten(), wanted, rtol=1e-9, atol=1e-9):
        raise DifferenceError(f"per_datum from the same draws: {got.tolist()}, expected {wanted.tolist()}")


def _compare_expectation(program: Program, copies: int, points: int, checks: list[str]) -> None:
    """Compare the mean gradient of many copies with that of the expectation, by enumeration."""
    exact = _exact(program, points)
    if exact is None:
        return
    for attempt, count in enumerate((copies, 16 * copies)):
        problem = _distance(program, count, *exact, seed=1000 + attempt)
        if problem is None:
            checks.append("expectation")
            return
    raise DifferenceError(problem)


def _exact(program: Program, points: int) -> tuple[dict[str, float], dict[str, float]] | None:
    """Return the bound ("value") and its gradient by quadrature, and how far two grids differ."""
    found: list[dict[str, float]] = []
    for nodes in (40, 28, 20, 14, 10):
        slow = Slow(program, numbers(program), data(program))
        try:
            value = slow.bound(lambda nodes=nodes: Grid(nodes, points), expected=True)
        except GridTooLargeError:
            continue
        value.backward()
        gradient = {n: 0.0 if p.grad is None else float(p.grad) for n, p in slow.p.items()}
        found.append({"value": float(value), **gradient})
        if len(found) == 2:
            break
    if len(found) < 2:
        return None
    rough = {name: abs(found[0][name] - found[1][name]) for name in found[0]}
    if any(error > 0.02 * (1 + abs(found[0][name])) for name, error in rough.items()):
        return None
    return found[0], rough


def _distance(program, copies, exact, rough, seed) -> str | None:
    """Return what is too far from its expectation."""
    pyro.clear_param_store()
    form, x, bound = Form(program, copies), data(program), make_bound(program)
    pyro.set_rng_seed(seed)
    losses = [bound.loss_and_grads(form.model, form.guide, x) / copies]
    for name, got in form.gradients().items():
        mean, error = -got.mean(), got.std() / copies**0.5
        wanted = exact[name]
        if abs(float(mean) - wanted) > ERRORS * float(error) + 2 * rough[name] + 1e-6 * (1 + abs(wanted)):
            return f"mean gradient of {name}: {float(mean):.5g} ± {float(error):.2g}, expected {wanted:.5g}"
    if program.bound == "mean field":  # whose value from given draws is not compared
        losses += [bound.loss(form.model, form.guide, x) / copies for _ in range(11)]
        mean, error = -sum(losses) / 12, torch.tensor(losses).std() / 12**0.5
        wanted = exact["value"]
        if abs(mean - wanted) > 1.5 * ERRORS * float(error) + 2 * rough["value"] + 1e-6 * (1 + abs(wanted)):
            return f"mean value: {mean:.5g} ± {float(error):.2g}, expected {wanted:.5g}"
    return None


def survey(
    seeds: Iterable[int], run: Callable[[Program], Outcome] = outcome
) -> tuple[dict[str, Counter], list[tuple[int, Outcome]]]:
    """Run many programs; return how often each thing came out, and what must not."""
    counts: dict[str, Counter] = {name: Counter() for name in ("status", "checks", "refusals", "bounds")}
    wrong = []
    for seed in seeds:
        program = draw_program(seed)
        found = run(program)
        counts["status"][found.status] += 1
        counts["checks"].update(found.checks)
        counts["bounds"][program.bound, found.status] += 1
        if found.status == "refused":
            counts["refusals"][normalised(found.detail)] += 1
        if found.status in ("differs", "fails"):
            wrong.append((seed, found))
    return counts, wrong
