"""Which latents Hamiltonian dynamics can move, and the map from unconstrained space to their support."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
from pyro.distributions import constraints
from torch.distributions import biject_to
from torch.distributions.transforms import Transform

from pyro_dvae.errors import InputError


def to_support(fn: Any) -> Transform | None:
    """Return the bijection from unconstrained space to the support of ``fn``; None where it is all of it."""
    support = fn.support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return None if support is constraints.real else biject_to(fn.support)


def check_continuous(program: str, site: dict[str, Any]) -> None:
    """Refuse a latent without a density over a continuous space."""
    name, fn = site["name"], site["fn"]
    if site["infer"].get("enumerate"):
        what = "asks for enumeration"
    elif _is_delta(fn):
        what = "is a point mass (Delta)"
    elif _is_discrete(fn):
        what = "is discrete"
    else:
        return
    raise InputError(
        f"{program}: latent {name!r} {what}, and annealing moves latents along gradients of their density; "
        "use pyro_dvae.log_likelihood, which draws them from the guide, or (for a latent of the guide alone) "
        "leave the guide out to start at the prior"
    )


def _is_delta(fn: Any) -> bool:
    while not isinstance(fn, dist.Delta):
        fn = getattr(fn, "base_dist", None)
        if fn is None:
            return False
    return True


def _is_discrete(fn: Any) -> bool:
    try:
        support = fn.support
        if fn.has_enumerate_support or support.is_discrete:
            return True
        biject_to(support)
    except NotImplementedError:  # no support, or none that a bijection leads to
        return True
    return False
