"""The record of ``bounds_report``, as a table, as data, and as a plot with error bars."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_dvae import checks, plots
from pyro_dvae.evaluation.estimates import Estimate, error_of_mean, finite, plus_minus

LOG_LIKELIHOOD = "log_likelihood"
# A row whose importance-sampled log p(x) has a larger error (nats) is left out of the order check.
UNRELIABLE = 0.5


@dataclass(frozen=True)
class BoundsEntry:
    """One bound of a report.

    :param name: a key, such as ``"semi_implicit_10"``.
    :param label: for tables and pictures.
    :param definition: the expectation that it estimates.
    :param kind: ``"lower"`` (of log p(x)), ``"upper"`` (of L_cvae, not of log p(x)) or ``"estimate"``.
    :param estimate: its value for each observation, mean and standard error (nats).
    :param note: a remark for the reader.
    :param sampling_error: standard error of the sampling alone for each observation [N] (nats), if known.
    """

    name: str
    label: str
    definition: str
    kind: str
    estimate: Estimate
    note: str = ""
    sampling_error: Tensor | None = None


@dataclass(frozen=True)
class OrderViolation:
    """A pair of bounds in the wrong order.

    :param lower: name of the entry that should be the lower one.
    :param upper: name of the other.
    :param excess: mean over the data of lower − upper (nats), after subtracting the bias of an estimate.
    :param standard_error: of ``excess``.
    """

    lower: str
    upper: str
    excess: float
    standard_error: float

    def __str__(self) -> str:
        return f"{self.lower} exceeds {self.upper} by {self.excess:.3g} ± {self.standard_error:.2g} nats"


@dataclass(frozen=True)
class BoundsReport:
    """The result of :func:`bounds_report`; ``report["dvae"]`` is the entry of that name.

    :param entries: the bounds, in the order that they must have.
    :param orders: pairs of names (lower, upper) that must have this order in expectation.
    """

    entries: tuple[BoundsEntry, ...]
    orders: tuple[tuple[str, str], ...]

    def __getitem__(self, name: str) -> BoundsEntry:
        found = {entry.name: entry for entry in self.entries}
        return found[checks.known("name", name, found)]

    def __str__(self) -> str:
        return self.table()

    def violations(self, errors: float = 4.0) -> list[OrderViolation]:
        """Return the orders that fail by more than ``errors`` standard errors of the paired difference.

        The difference is taken for each observation. Importance sampling underestimates log p(x) by about
        half its squared error; the comparison allows for this bias, and leaves out observations with a
        sampling error above 0.5 nats or without a finite value. A single observation has no standard error,
        so it shows no violation.
        """
        checks.positive("errors", errors)
        found = (self._compare(lower, upper) for lower, upper in self.orders)
        return [v for v, rounding in found if v.excess > errors * v.standard_error + rounding]

    def table(self) -> str:
        """Return the report as aligned text: label, mean ± standard error, difference to log p(x), note."""
        rows = [("", "mean ± s.e.", "above log p(x)", "")]
        for entry in self.entries:
            gap = "" if entry.name == LOG_LIKELIHOOD else plus_minus(*self._gap(entry))
            value = plus_minus(entry.estimate.mean, entry.estimate.standard_error)
            rows.append((entry.label, value, gap, entry.note))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [
            f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {note}".rstrip() for a, b, c, note in rows
        ]
        count = len(self.entries[0].estimate.per_datum)
        lines.insert(0, f"bounds of {count} rows, nats per observation")
        return "\n".join([*lines, *self._order_lines()])

    def to_dict(self, per_datum: bool = False) -> dict[str, Any]:
        """Return the report as JSON-able values; non-finite numbers are None.

        :param per_datum: include the values of each observation.
        """
        entries = []
        for entry in self.entries:
            values: dict[str, Any] = {
                "name": entry.name,
                "label": entry.label,
                "definition": entry.definition,
                "kind": entry.kind,
                "mean": finite(entry.estimate.mean),
                "standard_error": finite(entry.estimate.standard_error),
                "note": entry.note,
            }
            if entry.sampling_error is not None:
                values["sampling_error"] = finite(error_of_mean(entry.sampling_error))
            if per_datum:
                values["per_datum"] = [finite(value) for value in entry.estimate.per_datum.tolist()]
                if entry.sampling_error is not None:
                    values["per_datum_sampling_error"] = [finite(v) for v in entry.sampling_error.tolist()]
            entries.append(values)
        violations = [
            {"lower": v.lower, "upper": v.upper, "excess": v.excess, "standard_error": v.standard_error}
            for v in self.violations()
        ]
        return {
            "num_data": len(self.entries[0].estimate.per_datum),
            "unit": "nats per observation",
            "entries": entries,
            "violations": violations,
        }

    def plot(self, *, title: str | None = None, ax: Any = None) -> Any:
        """Draw the bounds in order, with their standard errors; return the axes."""
        inner = []
        for entry in self.entries:
            if entry.sampling_error is not None:
                inner.append(error_of_mean(entry.sampling_error))
            else:
                inner.append(self._gap(entry)[1])
        return plots.bounds(
            [entry.label for entry in self.entries],
            [entry.estimate.mean for entry in self.entries],
            [entry.estimate.standard_error for entry in self.entries],
            inner,
            [entry.kind for entry in self.entries],
            title=title,
            ax=ax,
        )

    def _gap(self, entry: BoundsEntry) -> tuple[float, float]:
        """Return the mean of the difference to log p(x) and its standard error."""
        difference = Estimate(entry.estimate.per_datum - self[LOG_LIKELIHOOD].estimate.per_datum)
        return difference.mean, difference.standard_error

    def _compare(self, lower: str, upper: str) -> tuple[OrderViolation, float]:
        """Return by how much ``lower`` exceeds ``upper``, and how much may be rounding (nats)."""
        low, high = self[lower].estimate.per_datum, self[upper].estimate.per_datum
        # With constant weights, the terms of log p(x, z) cancel only up to rounding.
        rounding = 10 * max(
            torch.finfo(v.dtype).eps * float(v[torch.isfinite(v)].abs().mean()) for v in (low, high)
        )
        difference = low.double() - high.double()
        sampling_error = self[upper].sampling_error
        if sampling_error is not None:
            allowed = sampling_error.double().square() / 2
            difference = torch.where(sampling_error <= UNRELIABLE, difference - allowed, math.nan)
        excess = Estimate(difference[torch.isfinite(difference)])
        return OrderViolation(lower, upper, excess.mean, excess.standard_error), rounding

    def _order_lines(self) -> list[str]:
        violations = self.violations()
        if not violations:
            return ["order: as it must be"]
        return [
            f"order violated: {self[v.lower].label} exceeds {self[v.upper].label} by "
            f"{plus_minus(v.excess, v.standard_error)}"
            for v in violations
        ]
