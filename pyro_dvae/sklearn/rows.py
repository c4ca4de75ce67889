"""What the estimators share: the types of rows that they keep, and seeds."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import check_random_state

FLOATS = (np.float64, np.float32)


def seed_of(random_state: Any) -> int:
    """Return a seed drawn from a seed, a generator, or numpy's global stream (None)."""
    return int(check_random_state(random_state).randint(2**31 - 1))
