"""Categories of any number of rows."""

from __future__ import annotations

from typing import ClassVar

import pyro.distributions as dist
from pyro.distributions import constraints


class Categorical(dist.Categorical):
    """Pyro's categories, ``P(x = k) = softmax(logits)_k``, also of no rows, which PyTorch refuses."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {"logits": constraints.real}
