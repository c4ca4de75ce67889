"""Results as JSON-able values and as text."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from pyro_dvae.evaluation.estimates import Estimate


def finite(value: Any) -> Any:
    """Return a number, or lists of them, with None for NaN and infinity."""
    if isinstance(value, list):
        return [finite(element) for element in value]
    return value if math.isfinite(value) else None


def estimate_values(estimate: Estimate, per_datum: bool) -> dict[str, Any]:
    """Return mean and standard error, and on request the value of each datum."""
    found = {"mean": finite(estimate.mean), "standard_error": finite(estimate.standard_error)}
    if per_datum:
        found["per_datum"] = finite(estimate.per_datum.tolist())
    return found


def error_of_mean(errors: Tensor) -> float:
    """Return the standard error of the mean of independent values [N] with these standard errors."""
    return float(errors.square().sum().sqrt()) / len(errors)


def plus_minus(value: float, error: float, digits: int = 3) -> str:
    """Return a value ± its standard error as text."""
    return f"{value:.{digits}f} ± {f'{error:.{digits}f}' if math.isfinite(error) else 'n/a'}"
