"""How well a linear classifier predicts labels from the codes."""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.errors import InputError, warn
from pyro_dvae.evaluation.measures.means import stream_means
from pyro_dvae.evaluation.measures.passes import Program, first_chunk, measuring
from pyro_dvae.programs.parameters import float_type
from pyro_dvae.rows import Data


@dataclass(frozen=True)
class LinearProbe:
    """Accuracies of logistic regression on the codes, between 0 and 1.

    :param train_accuracy: accuracy on the training rows that were used.
    :param test_accuracy: accuracy on the test rows.
    :param majority_accuracy: share of test rows in the most frequent training class: the baseline.
    :param num_classes: classes in the training data.
    :param num_features: elements of a code.
    :param num_train: training rows used.
    :param num_test: test rows.
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


def linear_probe(
    model: Program,
    guide: Program,
    train_x: Any,
    train_labels: Tensor,
    test_x: Any,
    test_labels: Tensor,
    *,
    c: float = 1.0,
    max_iter: int = 1000,
    max_train: int | None = 10_000,
    num_samples: int = 100,
    clean: bool = True,
    seed: int | None = None,
    batch_size: int | None = None,
    **kwargs: Any,
) -> LinearProbe:
    """Fit a multinomial logistic regression of the labels on the codes of the training rows, and test it.

    The code of an observation is the posterior means of all latents, flattened and concatenated
    (:func:`~pyro_dvae.evaluation.measures.latent_means`), with each element standardised by the training
    rows. The fit is scikit-learn's ``LogisticRegression``, with an L2 penalty. A class that only the test
    data have counts as an error.

    :param model: Pyro model of a batch, with one data plate.
    :param guide: Pyro guide of a batch.
    :param train_x: rows to fit [N, ...], from any source; a tuple for a model of several data arguments.
    :param train_labels: their classes, whole numbers, shape [N].
    :param test_x: rows to test [T, ...], likewise.
    :param test_labels: their classes, shape [T].
    :param kwargs: further arguments of model and guide, passed unchanged.
    :param c: inverse strength of the penalty, scikit-learn's ``C``.
    :param max_iter: maximum number of steps of the fit; ``converged`` of the result says if they were enough.
    :param max_train: maximum number of training rows, drawn at random; None takes all.
    :param num_samples: runs of the guide if one is not enough.
    :param clean: give the guide clean input; otherwise corrupt it.
    :param seed: seed of a separate random stream; None uses the global one.
    :param batch_size: rows of data at a time; by default 2,000.
    :raises InputError: data or labels are invalid, there is a single class, or scikit-learn is missing.
    """
    floats = float_type(model, guide)
    training = Data.opened("train_x", train_x if isinstance(train_x, tuple) else (train_x,), kwargs, floats)
    testing = Data.opened("test_x", test_x if isinstance(test_x, tuple) else (test_x,), kwargs, floats)
    _check_labels("train_labels", train_labels, len(training))
    _check_labels("test_labels", test_labels, len(testing))
    shape, other = training[:1].x.shape[1:], testing[:1].x.shape[1:]
    if shape != other:
        raise InputError(f"test_x: expected data of shape {tuple(shape)} as in train_x, got {tuple(other)}")
    checks.positive("c", c)
    max_iter = checks.count("max_iter", max_iter)
    num_samples = checks.count("num_samples", num_samples)
    largest = len(training) if max_train is None else checks.count("max_train", max_train, minimum=2)
    with measuring(model, guide, first_chunk(testing, batch_size), clean, seed):
        if largest < len(training):
            rows = torch.randperm(len(training))[:largest].sort().values
            training, train_labels = training.chosen(rows), train_labels[rows.to(train_labels.device)]
        if len(train_labels.unique()) < 2:
            raise InputError(f"train_labels: expected at least 2 classes, got {int(train_labels[0])} alone")
        train = _codes(model, guide, training, num_samples, batch_size)
        test = _codes(model, guide, testing, num_samples, batch_size)
    return _fit(train, train_labels.cpu().numpy(), test, test_labels.cpu().numpy(), c, max_iter)


def _check_labels(argument: str, labels: Any, count: int) -> None:
    if not isinstance(labels, Tensor):
        raise InputError(f"{argument}: expected a tensor, got {type(labels).__name__}")
    if labels.is_floating_point() or labels.is_complex():
        raise InputError(f"{argument}: expected whole numbers, got {labels.dtype} (try .long())")
    if labels.shape != (count,):
        raise InputError(
            f"{argument}: expected one label for each of {count} rows, got {tuple(labels.shape)}"
        )


def _codes(
    model: Program, guide: Program, data: Data, num_samples: int, batch_size: int | None
) -> np.ndarray:
    """Return the concatenated means of all latents, float64 [N, features]."""
    parts = []
    for codes in stream_means(model, guide, data, num_samples, batch_size):
        flat = [code.mean.reshape(len(code.mean), -1).to("cpu", torch.float64) for code in codes.values()]
        parts.append(torch.cat(flat, 1))
    return torch.cat(parts).numpy()


def _fit(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    c: float,
    max_iter: int,
) -> LinearProbe:
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise InputError(
            f"linear_probe: needs the package scikit-learn ({error}); run `pip install scikit-learn`"
        ) from error
    scaler = StandardScaler().fit(train)
    classifier = LogisticRegression(C=c, max_iter=max_iter)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", ConvergenceWarning)
        classifier.fit(scaler.transform(train), train_labels)
    for warning in seen:
        if not issubclass(warning.category, ConvergenceWarning):
            warn(warning.message)
    classes, counts = np.unique(train_labels, return_counts=True)
    return LinearProbe(
        train_accuracy=float(classifier.score(scaler.transform(train), train_labels)),
        test_accuracy=float(classifier.score(scaler.transform(test), test_labels)),
        majority_accuracy=float((test_labels == classes[counts.argmax()]).mean()),
        num_classes=len(classes),
        num_features=train.shape[1],
        num_train=len(train),
        num_test=len(test),
        converged=not any(issubclass(warning.category, ConvergenceWarning) for warning in seen),
    )
