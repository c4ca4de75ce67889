"""Every program of ``features`` under every bound: what works, what is refused, and the table of both.

python tests/programs/matrix.py     writes the table into docs/programs.md
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyro
import torch
from features import FEATURES
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO

import pyro_dvae as dv

PAGE = Path(__file__).parents[2] / "docs" / "programs.md"
TABLES = "<!-- table of features: begin -->", "<!-- table of features: end -->"
CHECK = "<!-- check: begin -->", "<!-- check: end -->"
BOUNDS: dict[str, Callable[..., dv.TraceDenoising_ELBO]] = {
    "L_dvae": dv.TraceDenoising_ELBO,
    "… stl": lambda **counts: dv.TraceDenoising_ELBO(gradient="stl", **counts),
    "closed form": dv.TraceMeanFieldDenoising_ELBO,
    "IWAE": dv.TraceDenoisingIWAE_ELBO,
    "… pooled": lambda **counts: dv.TraceDenoisingIWAE_ELBO(combine="pooled", **counts),
    "… mixture": lambda **counts: dv.TraceDenoisingIWAE_ELBO(combine="mixture", **counts),
    "… dreg": lambda **counts: dv.TraceDenoisingIWAE_ELBO(gradient="dreg", **counts),
    "L_J": lambda **counts: dv.TraceSemiImplicit_ELBO(num_mixture=2, **counts),
}
DRAWS = ((1, 1), (1, 3), (2, 1), (2, 2))  # M, K


@dataclass(frozen=True)
class Outcome:
    """What a bound did with a program.

    :param loss: the loss; None where it raised.
    :param gradients: by the parameter's name.
    :param error: what it raised.
    :param doubts: Pyro's warnings that model and guide do not match.
    """

    loss: float | None
    gradients: dict[str, torch.Tensor | None]
    error: Exception | None = None
    doubts: int = 0


def evaluate(elbo: Any, name: str) -> Outcome:
    """Return loss and gradients of a program, from one random state."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model, guide, args = FEATURES[name].build()
        pyro.set_rng_seed(3)
        try:
            with poutine.trace(param_only=True) as capture:
                loss = elbo.loss_and_grads(model, guide, *args)
        except Exception as error:
            return Outcome(None, {}, error)
    gradients = {}
    for key, site in capture.trace.nodes.items():
        leaf = site["value"]
        gradients[key] = (leaf.unconstrained() if hasattr(leaf, "unconstrained") else leaf).grad
    return Outcome(loss, gradients, None, sum("Found" in str(warning.message) for warning in caught))


@cache
def outcome(name: str, bound: str, corruptions: int, particles: int, vectorised: bool = True) -> Outcome:
    """Return what happens in one cell."""
    counts = {"num_corruptions": corruptions, "num_particles": particles, "vectorize_particles": vectorised}
    return evaluate(BOUNDS[bound](**counts), name)


@cache
def stock(name: str) -> Outcome:
    """Return what Pyro's own bound does with a program."""
    return evaluate(Trace_ELBO(), name)


@cache
def with_enumeration(name: str) -> Outcome:
    """Return what Pyro's own bound with enumeration does with a program."""
    return evaluate(TraceEnum_ELBO(max_plate_nesting=2, strict_enumeration_warning=False), name)


def note(error: Exception) -> tuple[str, str]:
    """Return a refusal without the names and figures of one program, and with them."""
    text = re.sub(r"-?\d+\.\d+(e-?\d+)?", "…", str(error)).replace("|", "\\|")
    return re.sub(r"\d+|'\w+'", "", text), text


def cell(name: str, bound: str) -> tuple[str, Exception | None]:
    """Return a cell of the table, and the refusal that it needs a note for."""
    errors = {draws: outcome(name, bound, *draws).error for draws in DRAWS}
    failed = [error for error in errors.values() if error is not None]
    if not failed:
        return "✓", None
    if not isinstance(failed[0], dv.InputError):
        return "as in Pyro", None
    if outcome(name, bound, 2, 2, vectorised=False).error is None:
        return "loop", failed[0]
    return ("single" if errors[1, 1] is None else "✗"), failed[0]


def enumerated(name: str) -> str:
    """Return the cell of Pyro's bound with enumeration."""
    found = with_enumeration(name)
    if found.error is not None:
        return "✗"
    return "warns" if found.doubts else "✓"


def section(group: str) -> str:
    """Return the table of a group of programs under all bounds, with its notes."""
    header = ["", *BOUNDS, "`TraceEnum_ELBO`"]
    lines = [f"### {group}", "", f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    notes: dict[str, tuple[int, str]] = {}
    for name in (name for name, feature in FEATURES.items() if feature.group == group):
        row = [name]
        for bound in BOUNDS:
            mark, error = cell(name, bound)
            if error is not None:
                key, text = note(error)
                mark += f" ({notes.setdefault(key, (len(notes) + 1, text))[0]})"
            row.append(mark)
        lines.append(f"| {' | '.join([*row, enumerated(name)])} |")
    lines += ["", *(f"{number}. {text}" for number, text in notes.values())]
    return "\n".join(lines).strip()


def groups() -> list[str]:
    """Return the groups in their order."""
    return list(dict.fromkeys(feature.group for feature in FEATURES.values()))


def example() -> str:
    """Return what ``dv.check`` shows of one program, as the page has it."""
    model, guide, args = FEATURES["salt and pepper, learned"].build()
    found = dv.check(model, guide, *args, num_data=40, loss=dv.TraceDenoising_ELBO())
    return "\n".join(f"    {line}".rstrip() for line in str(found).splitlines())


def written(markers: tuple[str, str] = TABLES) -> str:
    """Return what the page has between two markers."""
    return PAGE.read_text().split(markers[0])[1].split(markers[1])[0].strip("\n")


def write() -> None:
    """Put the tables and the example into the page."""
    tables = "\n\n".join(section(group) for group in groups())
    for (begin, end), text in ((TABLES, tables), (CHECK, example())):
        before, rest = PAGE.read_text().split(begin)
        PAGE.write_text(f"{before}{begin}\n\n{text}\n\n{end}{rest.split(end)[1]}")


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    pyro.enable_validation(True)
    pyro.settings.set(module_local_params=False)
    write()
