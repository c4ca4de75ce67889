"""What :func:`~pyro_dvae.evaluation.measures.reconstruction.reconstruction_error` found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyro_dvae.evaluation.estimates import Estimate
from pyro_dvae.evaluation.values import estimate_values, plus_minus


@dataclass(frozen=True, eq=False)  # compared by identity: == of tensors has no single truth value
class DecodingError:
    """The error of the data decoded from one kind of code, per datum [N].

    :param squared: mean over the D elements of (x − E[x|z])², in the square of the unit of the data.
    :param cross_entropy: −Σ x log p + (1 − x) log(1 − p) over the elements (nats), for a Bernoulli
        likelihood; None for another.
    """

    squared: Estimate
    cross_entropy: Estimate | None


@dataclass(frozen=True, eq=False)
class ReconstructionError:
    """What :func:`reconstruction_error` found.

    :param from_mean: decoded from the mean code; None where the distribution of a latent has no mean.
    :param from_samples: decoded from sampled codes; the average over the draws of their errors.
    :param num_samples: draws of each datum's code.
    """

    from_mean: DecodingError | None
    from_samples: DecodingError
    num_samples: int

    def __str__(self) -> str:
        return self.table()

    def _kinds(self) -> dict[str, DecodingError]:
        found = {"from_mean": self.from_mean, "from_samples": self.from_samples}
        return {name: error for name, error in found.items() if error is not None}

    def table(self) -> str:
        """Return the errors as aligned text, mean ± standard error over the data."""
        count = len(self.from_samples.squared.per_datum)
        lines = [f"reconstruction error of {count} data, {self.num_samples} sampled codes of each"]
        for name, error in self._kinds().items():
            entropy = error.cross_entropy
            more = (
                ""
                if entropy is None
                else f"   cross-entropy {plus_minus(entropy.mean, entropy.standard_error)} nats"
            )
            squared = plus_minus(error.squared.mean, error.squared.standard_error, digits=5)
            lines.append(f"{name.replace('_', ' '):<12}  squared {squared}{more}")
        return "\n".join(lines)

    def to_dict(self, per_datum: bool = False) -> dict[str, Any]:
        """Return the record as JSON-able values; what is not a finite number is None."""
        found: dict[str, Any] = {"num_samples": self.num_samples, "from_mean": None}
        for name, error in self._kinds().items():
            entropy = error.cross_entropy
            found[name] = {
                "squared": estimate_values(error.squared, per_datum),
                "cross_entropy": None if entropy is None else estimate_values(entropy, per_datum),
            }
        return found
