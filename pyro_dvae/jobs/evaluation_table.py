"""The closing table of an evaluation, from the content of ``evaluation.json``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from pyro_dvae.datasets.array_scale import units_of
from pyro_dvae.evaluation import Proposal
from pyro_dvae.text import labelled

Row = tuple[str, str]
_LITTLE = 0.1  # nats of KL per active unit


def table(content: dict[str, Any]) -> str:
    """Return the values as aligned rows ``label  value``, then the files written."""
    return labelled([*rows(content), *_files(content)])


def rows(content: dict[str, Any]) -> list[Row]:
    """Return labels and values; a label that begins with spaces belongs to the one above."""
    parts = (_data, _likelihood, _annealed, _bidirectional, _bound, _measures, _samples)
    return [row for part in parts for row in part(content)]


def _data(content: dict[str, Any]) -> Iterator[Row]:
    data, settings = content["data"], content["settings"]
    yield "run", f"{content['run']}, {settings['which']} epoch ({content['epoch']})"
    size = f"{data['count']:,} of {data['sizes'][2]:,} test rows"
    yield "data", f"{data['name']}, {size}, binarisation: {data['binarisation']}"
    if data["substituted_for"]:
        yield "", f"NOT {data['substituted_for']}, which is not available"
    if content["log_p_is_of"] == "none":
        yield "", "grey pixels under a Bernoulli decoder: p(x) is not a density; do not compare it"
    elif content["log_p_is_of"] == "density":
        yield "", "p(x) is a density of the values as the model sees them"


def _likelihood(content: dict[str, Any]) -> Iterator[Row]:
    found = content["log_likelihood"]
    each, samples = found["per_datum"], found["num_samples"]
    over = _error(found["standard_error_of_mean"])
    yield "log p(x)", f"{_plus_minus(found['mean'], found['sampling_error'])} nats (± sampling)"
    if over:
        yield "", f"{over} nats (over rows)"
    factor = units_of(content["data"]).log_factor if content["log_p_is_of"] == "density" else 0.0
    if factor and found["mean"] is not None:
        yield (
            "  original units",
            f"{_number(found['mean'] - factor)} nats (minus the logarithms of the scales)",
        )
    drawn = {name: value for name, value in found["proposal"].items() if value is not None}
    yield "  by", f"{samples:,} samples per observation, proposal: {Proposal(**drawn)}"
    yield "  Pareto-smoothed", f"{_number(found['smoothed_mean'])} nats (not a lower bound)"
    ess = [value for value in each["ess"] if value is not None]
    yield "  effective samples", f"median {median(ess):,.0f}, smallest {min(ess):.1f}"
    k = [value for value in each["pareto_k"] if value is not None]
    share = f"{100 * found['share_unreliable']:.1f} % above {found['pareto_k_threshold']:.2f}"
    yield "  Pareto k", f"{share}; median {median(k):.2f}, largest {max(k):.2f}" if k else share
    if found["refined"] is not None:
        used = ", ".join(f"{name} {count}" for name, count in found["refined"]["rows_by_proposal"].items())
        before = 100 * found["refined"]["share_unreliable_before"]
        yield "  refined", f"{before:.1f} % were above it before; rows by proposal: {used}"
    if found["advice"]:
        yield "  advice", _as_options(found["advice"])
    bound = content["bound_parts"]["bound"]
    if found["mean"] is not None and bound["mean"] is not None and bound["mean"] > found["mean"]:
        lower = bound["mean"] - found["mean"]
        yield "  too low", f"{lower:.3f} nats below the bound of the same data; use another proposal"


def _as_options(advice: str) -> str:
    """Convert advice on arguments of ``log_likelihood`` to options of the command."""
    advice = re.sub(r"\b(proposal|widen|defensive)='?([\w.]+)'?", r"--\1 \2", advice)
    advice = advice.replace("a larger widen", "a larger --widen").replace("refine=True", "--refine")
    return advice.replace("annealed_log_likelihood on some of the rows", "annealing (--annealed N)")


def _annealed(content: dict[str, Any]) -> Iterator[Row]:
    found = content["annealed"]
    if found is None:
        return
    same, count = found["same_data"], found["num_data"]
    value = _plus_minus(same["annealed_mean"], same["annealed_sampling_error"])
    yield "annealed", f"{value} nats (± sampling) on the first {count}"
    path = found["settings"]
    yield "  by", f"{path['num_chains']} chains from the {path['start']}, {path['num_steps']} temperatures"
    value = _plus_minus(same["importance_mean"], same["importance_sampling_error"])
    yield "  importance", f"{value} nats on the same {count}"
    value = f"{same['difference']:+.3f} {_error(same['difference_standard_error'])}".strip()
    yield "  difference", f"{value} nats (row by row)"
    if found["num_unreliable"]:
        yield (
            "  not reliable",
            f"{found['num_unreliable']} of {count}: try more --chains or --annealing-steps",
        )


def _bidirectional(content: dict[str, Any]) -> Iterator[Row]:
    found = content["bidirectional"]
    if found is None:
        return
    low, high, gap = (found[name] for name in ("lower", "upper", "gap"))
    bounds = f"{_number(low['mean'])} to {_number(high['mean'])} nats"
    yield "bidirectional", f"log p(x) of {found['num_data']} rows drawn from the model: {bounds}"
    yield (
        "  gap",
        f"{_plus_minus(gap['mean'], gap['standard_error'])} nats: largest error of annealing on such data",
    )


def _bound(content: dict[str, Any]) -> Iterator[Row]:
    found = content["bound_parts"]
    for label, part in (("bound", found["bound"]), ("  reconstruction", found["reconstruction"])):
        how = "" if part["standard_error"] is None else " (± over rows)"
        yield label, f"{_plus_minus(part['mean'], part['standard_error'])} nats{how}"
    for site, part in found["kl"].items():
        yield f"  KL of {site}", f"{_plus_minus(part['mean'], part['standard_error'])} nats"


def _measures(content: dict[str, Any]) -> Iterator[Row]:
    active, bits = content["active_units"], content["bits_per_dimension"]
    if active is not None:
        count, kls = active["count"], [part["mean"] for part in content["bound_parts"]["kl"].values()]
        yield "active units", f"{count} of {active['total']} (variance above {active['threshold']:g})"
        if count and None not in kls and (each := sum(kls) / count) < _LITTLE:
            yield "", f"but they carry {each:.3f} nats of KL each on average: the code says almost nothing"
    if bits is not None:
        added = ""
        if bits["of"] == "density":
            steps = f"in steps of 1/{bits['steps']}" if bits["steps"] > 1 else "in the units of the data"
            added = f" (density of values {steps}: {bits['added']:.2f} bits added)"
        value = _plus_minus(bits["mean"], bits["standard_error"], 4)
        yield "bits per dimension", value + added
    errors = content["reconstruction_error"] or {"from_mean": None, "from_samples": None}
    for name, label in (("from_mean", "mean code"), ("from_samples", "sampled codes")):
        if errors[name] is not None:
            squared, entropy = errors[name]["squared"], errors[name]["cross_entropy"]
            more = "" if entropy is None else f", cross-entropy {_number(entropy['mean'])} nats"
            yield f"error, {label}", f"mean square of a pixel {squared['mean']:.5f}{more}"
    probe = content["linear_probe"]
    if probe is not None:
        accuracy = f"{100 * probe['test_accuracy']:.1f} ± {100 * probe['test_standard_error']:.1f} %"
        baseline = f"{100 * probe['majority_accuracy']:.1f} % for the most frequent class"
        trained = f"{probe['num_train']:,} training rows{'' if probe['converged'] else ', NOT CONVERGED'}"
        yield "linear probe", f"{accuracy} right, {baseline} ({trained})"


def _samples(content: dict[str, Any]) -> Iterator[Row]:
    found = content["sample_quality"]
    if found is None:
        return
    kinds = [found[name] for name in ("samples", "real", "independent")]
    count = f"{found['num_rows']:,} samples (training rows; independent columns), 1 is best"
    yield "samples", f"{count}, against {found['num_test']:,} test rows"
    labels = {
        "shape": "distributions of columns",
        "pairs": "pairs of columns",
        "accuracy": "accuracy learned from them",
        "r2": "R² learned from them",
    }
    for name, label in labels.items():
        if kinds[0][name] is not None:
            own, real, independent = (_number(kind[name]) for kind in kinds)
            yield f"  {label}", f"{own} ({real}; {independent})"


def _files(content: dict[str, Any]) -> Iterator[Row]:
    yield "time", f"{content['seconds']['total']:.0f} s"
    labels = {".json": "these results", ".nc": "for ArviZ"}
    for path in map(Path, content["files"]):
        yield labels.get(path.suffix, path.stem.replace("_", " ")), str(path)


def _number(value: float | None, digits: int = 3) -> str:
    return "not finite" if value is None else f"{value:.{digits}f}"


def _error(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"± {value:.{digits}f}"


def _plus_minus(value: float | None, error: float | None, digits: int = 3) -> str:
    return f"{_number(value, digits)} {_error(error, digits)}".strip()
