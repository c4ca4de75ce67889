"""Results as JSON-able values: what is not a finite number is None."""

from __future__ import annotations

import math
from typing import Any

from pyro_dvae.evaluation.estimates import Estimate


def finite(value: Any) -> Any:
    """Return a number, or a list of lists of them, with None for NaN and infinity."""
    if isinstance(value, list):
        return [finite(element) for element in value]
    return value if math.isfinite(value) else None


def estimate_values(estimate: Estimate, per_datum: bool) -> dict[str, Any]:
    """Return mean and standard error, and on request the value of each datum."""
    found = {"mean": finite(estimate.mean), "standard_error": finite(estimate.standard_error)}
    if per_datum:
        found["per_datum"] = finite(estimate.per_datum.tolist())
    return found


def plus_minus(estimate: Estimate) -> str:
    """Return mean ± standard error over the data as text."""
    error = estimate.standard_error
    return f"{estimate.mean:.4g} ± {f'{error:.2g}' if math.isfinite(error) else 'n/a'}"
