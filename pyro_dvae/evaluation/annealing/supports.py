"""Which latents Hamiltonian dynamics can move, and the map from unconstrained space to their support."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
from pyro.distributions import constraints
from pyro.poutine.messenger import Messenger
from torch.distributions import biject_to
from torch.distributions.mixture_same_family import MixtureSameFamilyConstraint
from torch.distributions.transforms import Transform

from pyro_dvae.errors import InputError


def to_support(fn: Any) -> Transform | None:
    """Return the bijection from unconstrained space to the support of ``fn``; None where it is all of it."""
    support = _plain(fn.support)
    inner = support
    while isinstance(inner, constraints.independent):
        inner = inner.base_constraint
    return None if inner is constraints.real else biject_to(support)


def _plain(support: Any) -> Any:
    """Return a support with that of the components for the support of a mixture."""
    if isinstance(support, constraints.independent):
        return constraints.independent(_plain(support.base_constraint), support.reinterpreted_batch_ndims)
    if isinstance(support, MixtureSameFamilyConstraint):
        return _plain(support.base_constraint)
    return support


class ProperLatents(Messenger):
    """Refuses latents that no draw can be made of: a chain has to start somewhere."""

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if not msg["is_observed"] and _is_a(dist.ImproperUniform, msg["fn"]):
            raise InputError(
                f"model: latent {msg['name']!r} has an improper prior (ImproperUniform), which has no draws "
                "to start from and leaves p(x) without a scale; give it a proper one, or use "
                "pyro_dvae.log_likelihood, which draws it from the guide"
            )


def check_continuous(program: str, site: dict[str, Any]) -> None:
    """Refuse a latent without a density over a continuous space."""
    name, fn = site["name"], site["fn"]
    remedy = "use pyro_dvae.log_likelihood, which draws them from the guide"
    if site["infer"].get("enumerate"):
        what = "asks for enumeration"
    elif _is_a(dist.Delta, fn):
        what = "is a point mass (Delta)"
    elif _is_discrete(fn):
        what = "is discrete"
    elif not _has_bijection(fn):
        what = f"has a support ({fn.support}) that no bijection leads to"
    else:
        return
    raise InputError(
        f"{program}: latent {name!r} {what}, and annealing moves latents along gradients of their density "
        f"over unconstrained space; {remedy}"
    )


def _is_a(kind: type, fn: Any) -> bool:
    while not isinstance(fn, kind):
        fn = getattr(fn, "base_dist", None)
        if fn is None:
            return False
    return True


def _is_discrete(fn: Any) -> bool:
    try:
        return bool(fn.has_enumerate_support or fn.support.is_discrete)
    except NotImplementedError:  # it has no support at all
        return False


def _has_bijection(fn: Any) -> bool:
    try:
        biject_to(_plain(fn.support))
    except NotImplementedError:
        return False
    return True
