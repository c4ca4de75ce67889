"""What several declarations of the catalogue have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pyro_dvae.experiments.declaration import Case, Published

FREY: dict[str, Any] = {"dataset": "frey", "binarisation": "none", "likelihood": "gaussian-per-pixel"}
MNIST_AND_FREY: dict[str, dict[str, Any]] = {"MNIST": {"dataset": "mnist"}, "Frey": {**FREY, "epochs": 1000}}
"""Options by column: the Frey faces, of which there are few, in more epochs."""

DVAE: dict[str, Any] = {"bound": "dvae"}
DIWAE: dict[str, Any] = {"bound": "diwae", "particles": 5, "activation": "tanh"}
"""As Im et al. (2017) train: K = 5 latents, and tanh in place of softplus."""

_METHODS = {"DVAE, K = 1": DVAE, "DVAE, K = 5": {**DVAE, "particles": 5}, "DIWAE, K = 5": DIWAE}
Figures = Sequence[tuple[float, float]]


def by_method_and_noise(
    published: Mapping[tuple[str, int], Figures], noise: Sequence[float], column: Callable[[float], str]
) -> tuple[Case, ...]:
    """Return the cases of Tables 1 and 2 of Im et al. (2017).

    :param published: by method and layers of the encoder, the mean and deviation at each level of noise.
    :param column: the label of a level.
    """
    return tuple(
        Case(
            f"{method}, {layers} layer{'s' if layers > 1 else ''}",
            column(level),
            {**_METHODS[method], "hidden_layers": layers, "noise": level},
            Published(*figure),
        )
        for (method, layers), figures in published.items()
        for level, figure in zip(noise, figures, strict=True)
    )
