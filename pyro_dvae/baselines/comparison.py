"""Systems side by side: how well each gives the data back, from its mean code and from sampled codes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.measures import ReconstructionError, reconstruction_error
from pyro_dvae.evaluation.measures.decoding import DecodingError
from pyro_dvae.evaluation.values import plus_minus

Program = Callable[..., Any]


@dataclass(frozen=True, eq=False)  # compared by identity: == of tensors has no single truth value
class Reconstructions:
    """What :func:`compare_reconstructions` found.

    :param errors: the reconstruction errors of each system, by its name.
    """

    errors: Mapping[str, ReconstructionError]

    def __str__(self) -> str:
        return self.table()

    def table(self) -> str:
        """Return a line of aligned text for each system: errors ± standard error over the data."""
        width = max(len("system"), *(len(name) for name in self.errors))
        heads = ("squared, mean code", "sampled codes", "cross-entropy, mean code", "sampled codes")
        lines = ["  ".join([f"{'system':<{width}}", *(f"{head:>24}" for head in heads)])]
        for name, error in self.errors.items():
            kinds = (error.from_mean, error.from_samples)
            cells = [*map(_squared, kinds), *map(_cross_entropy, kinds)]
            lines.append("  ".join([f"{name:<{width}}", *(f"{cell:>24}" for cell in cells)]))
        return "\n".join(lines)

    def to_dict(self, per_datum: bool = False) -> dict[str, Any]:
        """Return the errors as JSON-able values, by system."""
        return {name: error.to_dict(per_datum) for name, error in self.errors.items()}


def compare_reconstructions(
    systems: Mapping[str, tuple[Program, Program]], x: Tensor, **settings: Any
) -> Reconstructions:
    """Measure :func:`~pyro_dvae.evaluation.reconstruction_error` of several systems on the same data.

    An autoencoder has one code for a datum, so its two columns are equal; those of a VAE differ by what the
    spread of its codes costs.

    :param systems: a model and a guide by name.
    :param x: data [N, ...].
    :param settings: the keyword arguments of ``reconstruction_error``, the same for all.
    :raises InputError: there is no system, or one cannot be measured.
    """
    if not systems:
        raise InputError("systems: expected at least one pair of a model and a guide, got none")
    found = {}
    for name, (model, guide) in systems.items():
        found[name] = reconstruction_error(model, guide, x, **settings)
    return Reconstructions(found)


def _squared(error: DecodingError | None) -> str:
    if error is None:
        return "-"
    return plus_minus(error.squared.mean, error.squared.standard_error, digits=5)


def _cross_entropy(error: DecodingError | None) -> str:
    if error is None or error.cross_entropy is None:
        return "-"
    return plus_minus(error.cross_entropy.mean, error.cross_entropy.standard_error)
