"""What :func:`~pyro_dvae.evaluation.measures.probe.linear_probe` found."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class LinearProbe:
    """Accuracies of logistic regression on the codes, between 0 and 1.

    :param train_accuracy: share of the train data it was fitted to that it gets right.
    :param test_accuracy: share of the test data that it gets right.
    :param majority_accuracy: share of the test data in the commonest class of the train data: the baseline.
    :param num_classes: classes in the train data.
    :param num_features: elements of a code.
    :param num_train: train data used.
    :param num_test: test data.
    :param converged: whether the fit reached its tolerance within ``max_iter`` steps.
    """

    train_accuracy: float
    test_accuracy: float
    majority_accuracy: float
    num_classes: int
    num_features: int
    num_train: int
    num_test: int
    converged: bool

    @property
    def train_standard_error(self) -> float:
        """Binomial standard error of ``train_accuracy``."""
        return _binomial_error(self.train_accuracy, self.num_train)

    @property
    def test_standard_error(self) -> float:
        """Binomial standard error of ``test_accuracy``."""
        return _binomial_error(self.test_accuracy, self.num_test)

    def __str__(self) -> str:
        warning = "" if self.converged else "; the fit did not converge"
        return (
            f"linear probe of {self.num_features} features, {self.num_classes} classes: test accuracy "
            f"{self.test_accuracy:.4f} ± {self.test_standard_error:.4f} of {self.num_test} (majority class "
            f"{self.majority_accuracy:.4f}), train {self.train_accuracy:.4f} ± "
            f"{self.train_standard_error:.4f} of {self.num_train}{warning}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON-able values."""
        errors = {
            "train_standard_error": self.train_standard_error,
            "test_standard_error": self.test_standard_error,
        }
        return {**asdict(self), **errors}


def _binomial_error(share: float, count: int) -> float:
    return math.sqrt(share * (1 - share) / count)
