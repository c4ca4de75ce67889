"""Outlier detection by a model of the rows, for scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, OutlierMixin, clone
from sklearn.utils.validation import check_is_fitted, validate_data

from pyro_dvae import checks
from pyro_dvae.errors import InputError
from pyro_dvae.models import fit_table
from pyro_dvae.sklearn.training import FLOATS, seed_of
from pyro_dvae.sklearn.vae import DenoisingVAE


class DenoisingDetector(OutlierMixin, BaseEstimator):
    """Detects outliers, the rows with the lowest scores under a fitted model; gaps (NaN) are allowed.

    :param estimator: a :class:`DenoisingVAE`, which is cloned; its scores are log p(x_observed) in the units
        of X (nats). None uses the model of :func:`pyro_dvae.fit_table`, which needs no tuning; the score is
        minus its ``anomaly_score``.
    :param contamination: share of outliers in the training rows, above 0 and at most 0.5.
    :param random_state: seed or generator; None uses the estimator's own.

    After ``fit``: ``model_``, the fitted estimator or table; ``offset_``, the quantile ``contamination`` of
    the scores of the training rows; ``n_features_in_``, ``feature_names_in_``.
    """

    def __init__(
        self,
        estimator: DenoisingVAE | None = None,
        *,
        contamination: float = 0.1,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.contamination = contamination
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> DenoisingDetector:  # noqa: N803 - scikit-learn's name
        """Fit to rows ``X`` [N, D], with NaN in gaps; ``y`` is not used."""
        x = self._rows(X, reset=True)
        share = checks.number("contamination", self.contamination, 0.0, 0.5)
        if share == 0:
            raise InputError("contamination: expected a share above 0 and at most 0.5, got 0")
        checks.optional(_vae, "estimator", self.estimator)
        self.model_: Any
        if self.estimator is None:
            self.model_ = fit_table(torch.tensor(x), seed=seed_of(self.random_state), progress=False)
        else:
            made = clone(self.estimator)
            own = made.random_state if self.random_state is None else self.random_state
            self.model_ = made.set_params(random_state=own).fit(x)
        self.offset_ = float(np.quantile(self._scores(x), share))
        return self

    def score_samples(self, X: Any) -> np.ndarray:  # noqa: N803
        """Return the score of each row, [N]: lower is more unusual."""
        check_is_fitted(self)
        return self._scores(self._rows(X))

    def decision_function(self, X: Any) -> np.ndarray:  # noqa: N803
        """Return ``score_samples(X) - offset_``, [N]: negative for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """Return 1 for inliers and -1 for outliers, [N]."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def _scores(self, x: np.ndarray) -> np.ndarray:
        if self.estimator is not None:
            return self.model_.score_samples(x)
        return -self.model_.anomaly_score(torch.tensor(x)).numpy()

    def _rows(self, x: Any, reset: bool = False) -> np.ndarray:
        found: np.ndarray = validate_data(self, x, reset=reset, dtype=FLOATS, ensure_all_finite="allow-nan")
        return found

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


def _vae(argument: str, value: Any) -> Any:
    return checks.instance(argument, value, DenoisingVAE, "a DenoisingVAE")
