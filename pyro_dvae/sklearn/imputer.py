"""Imputation by a model of the rows, as a scikit-learn transformer."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.impute import MissingIndicator
from sklearn.utils.validation import check_is_fitted, validate_data

from pyro_dvae import checks
from pyro_dvae.errors import InputError, shown
from pyro_dvae.models import fit_table
from pyro_dvae.sklearn.training import FLOATS, seed_of


class DenoisingImputer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Fills the gaps of rows with their conditional means E(x_missing | x_observed) under a fitted model.

    The interface is that of scikit-learn's ``KNNImputer``. The model is that of :func:`pyro_dvae.fit_table`,
    chosen on held-out cells. Cells must be missing at random given the observed ones.

    :param missing_values: value of missing cells: a number, or NaN, None or pandas.NA, which are the same.
    :param add_indicator: append the columns of a ``MissingIndicator`` to the result.
    :param keep_empty_features: fill columns without any observed cell with 0; otherwise leave them out.
    :param verbose: show the progress of ``fit``.
    :param random_state: seed or generator of everything random in ``fit``.

    After ``fit``: ``table_``, the model of the columns with observed cells; ``indicator_``;
    ``n_features_in_``, ``feature_names_in_``.
    """

    def __init__(
        self,
        *,
        missing_values: Any = math.nan,
        add_indicator: bool = False,
        keep_empty_features: bool = False,
        verbose: bool = False,
        random_state: Any = None,
    ) -> None:
        self.missing_values = missing_values
        self.add_indicator = add_indicator
        self.keep_empty_features = keep_empty_features
        self.verbose = verbose
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> DenoisingImputer:  # noqa: N803 - scikit-learn's name
        """Train on rows ``X`` [N, D] with ``missing_values`` in gaps; ``y`` is not used."""
        for name in ("add_indicator", "keep_empty_features", "verbose"):
            checks.flag(name, getattr(self, name))
        x = self._rows(X, reset=True)
        self.indicator_ = None
        if self.add_indicator:
            self.indicator_ = MissingIndicator(error_on_new=False).fit(x)
        self._observed = ~np.isnan(x).all(0)
        self.table_ = None
        if self._observed.any():
            rows = torch.tensor(x[:, self._observed])
            self.table_ = fit_table(rows, seed=seed_of(self.random_state), progress=self.verbose)
        return self

    def transform(self, X: Any) -> np.ndarray:  # noqa: N803
        """Return the rows with their gaps filled, [N, D'], and the indicator's columns if requested."""
        check_is_fitted(self)
        x = self._rows(X)
        filled = np.where(self._observed, x, 0.0).astype(x.dtype)
        rows = np.isnan(filled).any(1)
        if rows.any() and self.table_ is not None:
            given = torch.tensor(filled[rows][:, self._observed])
            filled[np.ix_(rows, self._observed)] = self.table_.impute(given, seed=0, num_draws=1).numpy()
        parts = [filled[:, self._kept()]]
        if self.indicator_ is not None:
            parts.append(self.indicator_.transform(x))
        return np.hstack(parts)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return the names of the columns of :meth:`transform`, of dtype object."""
        check_is_fitted(self)
        names: np.ndarray = super().get_feature_names_out(input_features)
        own = names[self._kept()]
        if self.indicator_ is None:
            return own
        return np.concatenate([own, self.indicator_.get_feature_names_out(names)])

    def _kept(self) -> np.ndarray:
        return self._observed | self.keep_empty_features

    def _rows(self, x: Any, reset: bool = False) -> np.ndarray:
        nan = self._gaps_are_nan()
        gap = math.nan if nan else _number(self.missing_values)
        found: np.ndarray = validate_data(
            self, x, reset=reset, dtype=FLOATS, ensure_all_finite="allow-nan" if nan else True, copy=not nan
        )
        if not nan:
            found[found == gap] = np.nan
        return found

    def _gaps_are_nan(self) -> bool:
        value = self.missing_values
        is_na = value is None or type(value).__name__ == "NAType"  # pandas.NA equals nothing, not even itself
        return is_na or (isinstance(value, Real) and bool(value != value))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self._gaps_are_nan()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _number(missing: Any) -> float:
    if isinstance(missing, str):
        raise InputError(
            f"missing_values: expected a number, NaN, None or pandas.NA, got {shown(missing)}; replace "
            "texts in the rows first (frame.replace(text, numpy.nan).astype(float))"
        )
    return checks.number("missing_values", missing)
