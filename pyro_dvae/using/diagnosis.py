"""The result of ``diagnose``: measures with verdicts and remedies, as a table and as data."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pyro_dvae import checks
from pyro_dvae.evaluation.estimates import finite

_VERDICTS = {True: "good", False: "not good", None: "-"}
_WIDTH = 54


@dataclass(frozen=True)
class Finding:
    """One measure of a fit.

    :param name: such as ``"amortisation gap"``.
    :param value: in ``unit``.
    :param error: its standard error; NaN if it has none.
    :param unit: ``"nats"`` (of a row) or ``"share"``.
    :param text: the value in words.
    :param good: whether it is good enough; None if other measures decide.
    :param remedy: what to do if it is not.
    """

    name: str
    value: float
    error: float
    unit: str
    text: str
    good: bool | None
    remedy: str = ""

    @property
    def verdict(self) -> str:
        """``"good"``, ``"not good"`` or ``"-"``."""
        return _VERDICTS[self.good]


@dataclass(frozen=True)
class Diagnosis:
    """The result of :func:`diagnose`; ``print`` shows a table, ``diagnosis["calibration"]`` one finding.

    :param findings: the measures in order.
    :param left_out: measures that do not exist for this model and guide, with the reason.
    :param num_data: number of rows.
    :param seed: seed of the random streams.
    """

    findings: tuple[Finding, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    num_data: int = 0
    seed: int = 0

    def __getitem__(self, name: str) -> Finding:
        """Return the finding with this name."""
        found = {each.name: each for each in self.findings}
        return found[checks.known("name", name, found)]

    def __str__(self) -> str:
        return self.table()

    @property
    def good(self) -> bool:
        """Whether no measure is flagged."""
        return not self.flagged

    @property
    def flagged(self) -> tuple[str, ...]:
        """The names of the measures that are not good."""
        return tuple(each.name for each in self.findings if each.good is False)

    @property
    def summary(self) -> str:
        """The verdict in one line."""
        judged = sum(each.good is not None for each in self.findings)
        found = f"{', '.join(self.flagged)}: not good" if self.flagged else "all good"
        return f"{self.num_data:,} rows, {judged} measures judged, {found}"

    def table(self) -> str:
        """Return the measures as aligned columns (value, verdict, remedy), then what was left out."""
        rows = [("", "value", "verdict", "remedy")]
        rows += [(each.name, each.text, each.verdict, each.remedy) for each in self.findings]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [self.summary]
        for row in rows:
            start = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False))
            remedy = textwrap.wrap(row[3], _WIDTH) or [""]
            indent = " " * (len(start) + 2)
            lines.append(f"{start}  {remedy[0]}".rstrip())
            lines += [indent + each for each in remedy[1:]]
        return "\n".join([*lines, *(f"left out: {name}: {why}" for name, why in self.left_out.items())])

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON-able values; non-finite numbers are None."""
        return {
            "num_data": self.num_data,
            "seed": self.seed,
            "good": self.good,
            "findings": [
                asdict(each) | {"value": finite(each.value), "error": finite(each.error)}
                for each in self.findings
            ],
            "left_out": dict(self.left_out),
        }
