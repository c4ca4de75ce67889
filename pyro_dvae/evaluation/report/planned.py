"""The bounds of a report: what each is the estimate of, and which must not be above which."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from torch import Tensor

from pyro_dvae.bounds import (
    DenoisingELBO,
    TraceDenoising_ELBO,
    TraceDenoisingIWAE_ELBO,
    TraceSemiImplicit_ELBO,
)
from pyro_dvae.evaluation.report.result import LOG_LIKELIHOOD

# Inputs of the decoder or encoder, and densities of the latents, held at once.
_ROWS_AT_ONCE, _DENSITIES_AT_ONCE = 2000, 200_000


Planned = tuple[str, str, str, str, str, DenoisingELBO]


def planned_bounds(m: int, mixtures: list[int], particles: list[int], nesting: int | float) -> list[Planned]:
    """Return name, label, definition, kind, note and estimator of each bound, in their order."""
    options: dict[str, Any] = {"max_plate_nesting": nesting}
    most, lower = particles[-1], "lower bound"
    definition = "E_x̃ E_z log [p(x,z) / q(z|x̃)]"
    simple = TraceDenoising_ELBO(num_corruptions=m, num_particles=most, **options)
    planned: list[Planned] = [("dvae", "L_dvae", definition, "lower", lower, simple)]
    for j in mixtures:
        definition = f"E log [p(x,z) / (1/{j + 1} Σ_j=0..{j} q(z|x̃_j))], z ~ q(·|x̃_0)"
        bound = TraceSemiImplicit_ELBO(num_corruptions=m, num_particles=most, num_mixture=j, **options)
        planned.append((f"semi_implicit_{j}", f"L_J, J={j}", definition, "lower", lower, bound))
    j = mixtures[-1]
    definition = f"E log [p(x,z) / (1/{j} Σ_j=1..{j} q(z|x̃_j))], z ~ q(·|x̃_0)"
    bound = _UpperSandwich(num_corruptions=m, num_particles=most, num_mixture=j, **options)
    note = "above L_cvae; no bound of log p(x)"
    planned.append((f"upper_{j}", f"upper sandwich, J={j}", definition, "upper", note, bound))
    for k in particles:
        definition = f"1/M Σ_m E log 1/{k} Σ_k p(x,z_mk) / q(z_mk|x̃_m), M={m}"
        iwae = TraceDenoisingIWAE_ELBO(num_corruptions=m, num_particles=k, **options)
        planned.append((f"diwae_{k}", f"L_diwae, M={m}, K={k}", definition, "lower", lower, iwae))
    k = most
    for combine, density in (("pooled", "q(z_mk|x̃_m)"), ("mixture", f"(1/{m} Σ_m' q(z_mk|x̃_m'))")):
        definition = f"E log 1/{m * k} Σ_m Σ_k p(x,z_mk) / {density}, M={m}, K={k}"
        iwae = TraceDenoisingIWAE_ELBO(num_corruptions=m, num_particles=k, combine=combine, **options)
        planned.append((f"{combine}_{k}", f"{combine}, M={m}, K={k}", definition, "lower", lower, iwae))
    return planned


def orders(m: int, mixtures: list[int], particles: list[int]) -> tuple[tuple[str, str], ...]:
    """Return the pairs of names (lower, upper) that must be so ordered in expectation."""
    semi, diwae = [f"semi_implicit_{j}" for j in mixtures], [f"diwae_{k}" for k in particles]
    pooled, mixture = f"pooled_{particles[-1]}", f"mixture_{particles[-1]}"
    # By Jensen's inequality over its draws, the mixture over M corruptions is above L_J of J + 1 ≤ M.
    below = [name for name, j in zip(semi, mixtures, strict=True) if j < m]
    chains = [
        ["dvae", *semi, f"upper_{mixtures[-1]}"],
        ["dvae", *diwae, pooled, LOG_LIKELIHOOD],
        ["dvae", *below, mixture, LOG_LIKELIHOOD],
        *[[name, LOG_LIKELIHOOD] for name in semi],
    ]
    return tuple(dict.fromkeys(pair for chain in chains for pair in itertools.combinations(chain, 2)))


def rows_at_once(bound: DenoisingELBO) -> int:
    """Return the data of a chunk, as many as keep the inputs of the networks and the densities few."""
    draws = bound.num_corruptions * bound.num_particles
    if not isinstance(bound, TraceSemiImplicit_ELBO):
        return max(1, _ROWS_AT_ONCE // draws)
    inputs = bound.num_corruptions + bound.num_mixture
    return max(1, min(_ROWS_AT_ONCE // max(draws, inputs), _DENSITIES_AT_ONCE // (draws * bound.num_mixture)))


class _UpperSandwich(TraceSemiImplicit_ELBO):
    """The upper sandwich of L_cvae in the place of the bound of each datum."""

    def per_datum(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        return self.upper_per_datum(model, guide, *args, **kwargs)
