"""Effect handlers that set the latents and add up log-densities per row, in one run."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask, sum_rightmost
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_dvae.evaluation.annealing.structure import Structure, to_support
from pyro_dvae.programs.plates import DrawPlate, is_deterministic, unmasked
from pyro_dvae.sites import Auxiliary


class ChainPlate(DrawPlate):
    """A plate of independent chains. It does not expand corruptions (off here): one encoder run per row."""

    def __init__(self, size: int, dim: int) -> None:
        super().__init__("_num_chains", size, dim, latents_only=False)

    def _process_message(self, msg: dict[str, Any]) -> None:
        if not isinstance(msg["fn"], Auxiliary):
            super()._process_message(msg)


class FixedSites(Messenger):
    """Fixes sites at given values: the rows of a subsampled plate, auxiliary draws."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self.values and not msg["is_observed"]:
            msg["value"], msg["done"] = self.values[msg["name"]], True


def first_values(structure: Structure, chains: int, rows: int) -> list[FixedSites]:
    """Return the handler that fixes discrete latents at their first values, in runs where any would do."""
    index = torch.zeros(chains, rows, dtype=torch.long)
    return [FixedSites(structure.placed(index))] if structure.discrete else []


class _Placing(Messenger):
    """Sets the value of some latents of the model, given by name."""

    def __init__(self, structure: Structure, given: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.structure = structure
        self.given = given

    @abstractmethod
    def _place(self, name: str, fn: Any) -> Tensor:
        """Return the value of the latent ``name`` with distribution ``fn``."""

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self.given:
            msg["value"], msg["done"] = self._place(msg["name"], msg["fn"]), True


class _Scoring(_Placing):
    """Adds up the log-densities of the latents and of the observations, each [C, N] (nats)."""

    def __init__(self, structure: Structure, given: Mapping[str, Tensor]) -> None:
        super().__init__(structure, given)
        self.latents: Tensor | float = 0.0
        self.observed: Tensor | float = 0.0

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if site_is_subsample(msg) or is_deterministic(msg):
            return
        if msg["infer"].get("is_auxiliary") and not msg["is_observed"]:
            return  # fixed at its draw: given it, the path starts at a density
        fn, mask = msg["fn"], msg["mask"]
        if not msg["is_observed"] and mask is not False:
            # A masked latent (of a padded sequence) has its prior, because a flat density has no integral.
            fn, mask = unmasked(fn), None
        log_prob = fn.log_prob(msg["value"], *msg["args"], **msg["kwargs"])
        value = self.structure.per_datum(scale_and_mask(log_prob, mask=mask)).double()
        if msg["is_observed"]:
            self.observed = self.observed + value
        else:
            self.latents = self.latents + value


class GivenScores(_Scoring):
    """Scores latents at given values, in their constrained space.

    :param given: latents by name, each [C, *plates, *event].
    """

    def _place(self, name: str, fn: Any) -> Tensor:
        return self.given[name]


class UnconstrainedScores(_Scoring):
    """Scores latents at points of unconstrained space.

    It visits the sites in order, so the support of one may depend on the value of another. Afterwards
    ``values`` holds the constrained latents and ``jacobian`` is log |∂z/∂u|, [C, N] (nats).

    :param given: unconstrained latents by name, each [C, *plates, *unconstrained event].
    """

    def __init__(self, structure: Structure, given: Mapping[str, Tensor]) -> None:
        super().__init__(structure, given)
        self.values: dict[str, Tensor] = {}
        self.jacobian: Tensor | float = 0.0

    def _place(self, name: str, fn: Any) -> Tensor:
        point = self.given[name]
        transform = to_support(fn)
        if transform is None:
            self.values[name] = point
            return point
        value = transform(point)
        density = transform.log_abs_det_jacobian(point, value)
        # Dimensions right of the plates belong to one event.
        event = density.dim() - self.structure.nesting - 1
        self.jacobian = self.jacobian + self.structure.per_datum(sum_rightmost(density, event)).double()
        self.values[name] = value
        return value


class Unconstraining(_Placing):
    """Sets the latents to given values and keeps their unconstrained points.

    :param given: latents by name, each [C, *plates, *event].
    """

    def __init__(self, structure: Structure, given: Mapping[str, Tensor]) -> None:
        super().__init__(structure, given)
        self.points: dict[str, Tensor] = {}

    def _place(self, name: str, fn: Any) -> Tensor:
        value, transform = self.given[name], to_support(fn)
        # The inverse of a bijection to an interval would map outside values to its ends.
        if transform is None:
            self.points[name] = value
        else:
            inside = bool(fn.support.check(value).all())
            self.points[name] = transform.inv(value) if inside else value * torch.nan
        return value


def total(value: Tensor | float, like: Tensor, combinations: int = 1) -> Tensor:
    """Return a sum of log-densities in float64 over the full [K, C, N], for ``like`` [C, N, D].

    :param value: of K · C chains, all of a combination of discrete latents in a row.
    :param combinations: K.
    """
    chains, rows = like.shape[:2]
    full = torch.as_tensor(value, dtype=torch.float64, device=like.device).expand(combinations * chains, rows)
    return full.unflatten(0, (combinations, chains))
