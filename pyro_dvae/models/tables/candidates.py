"""The candidate models of a table: Gaussian mixtures of several sizes, each with decreasing noise."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from pyro_dvae.distributions.gaussian_mixture import GaussianMixture
from pyro_dvae.models.tables.em import gaussian_mixture

COMPONENTS = (1, 3, 8, 20, 50)
RIDGES = (0.1, 0.01, 0.001)  # variances of the noise; each fit starts from the previous one
_STEPS = 24  # of expectation-maximisation; half as many from a previous fit
_WORK = 1e8  # per step: components · columns² · (columns · patterns of gaps + 3 · rows)
_ROWS_OF_A_COMPONENT, _FEWEST_ROWS = 20, 500


def sizes(x: Tensor) -> list[tuple[int, int]]:
    """Return the numbers of components for a table [N, D], and the number of rows to fit each on."""
    rows, columns = x.shape
    work = columns**2 * (columns * len(x.isnan().unique(dim=0)) + 3 * rows)
    found = []
    for components in COMPONENTS:
        affordable = min(rows, int(rows * _WORK / (components * work)))
        if affordable >= _ROWS_OF_A_COMPONENT * components or components == 1:
            found.append((components, max(affordable, min(rows, _FEWEST_ROWS))))
    return found


def name_of(components: int, ridge: float) -> str:
    """Return the name of a candidate."""
    return f"{components} Gaussian{'s' if components > 1 else ''}, noise {ridge:g}"


def fitted_mixtures(
    x: Tensor,
    paths: list[tuple[int, int]],
    starts: Mapping[str, GaussianMixture] | None = None,
    wanted: Collection[str] | None = None,
    ridges: Sequence[float] = RIDGES,
) -> Iterator[tuple[str, GaussianMixture]]:
    """Yield the name and fit of each candidate in order, or only of wanted ones.

    :param x: standardised rows with NaN in gaps, [N, D].
    :param paths: numbers of components, and of the rows to fit each on.
    :param starts: earlier fits to start from, by name.
    :param ridges: variances of the noise.
    """
    for components, count in paths:
        last = None
        few = x[torch.randperm(len(x))[:count]] if count < len(x) else x
        for ridge in ridges:
            name = name_of(components, ridge)
            if wanted is None or name in wanted:
                start = (starts or {}).get(name, last)
                steps = _STEPS if start is None else _STEPS // 2
                last = gaussian_mixture(few, components, ridge=ridge, start=start, num_steps=steps)
                yield name, last
