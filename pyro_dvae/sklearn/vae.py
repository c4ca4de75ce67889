"""The denoising VAE as a scikit-learn transformer and density estimator."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.importance.proposals import Pass, Proposal
from pyro_dvae.guides import GaussianGuide
from pyro_dvae.jobs.options import Options
from pyro_dvae.models import LatentVariableModel
from pyro_dvae.priors import StandardNormal
from pyro_dvae.random_state import forked
from pyro_dvae.sklearn.training import FLOATS, pair_of, require_values, rows_of, seed_of, train

_LATENTS_AT_ONCE = 20_000  # decoder inputs at once in score_samples


class DenoisingVAE(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Denoising variational autoencoder (Im et al. 2017) of the rows of a table.

    Rows may have gaps (NaN); the bound then counts observed cells only. Scales, likelihood and kind of noise
    are chosen by the values of X unless they are given, as in ``pyro-dvae train``. Training and results have
    the floating-point type of X.

    :param n_components: size of the latent space.
    :param noise: noise level of the encoder's input; 0: plain VAE.
    :param noise_kind: a kind of the command line, or ``"auto"``.
    :param likelihood: distribution of a value, a name of the command line, or ``"auto"``. Columns are
        standardised for ``"gaussian-columns"`` and ``"table"``; the others take values as they are.
    :param bound: ``"dvae"``, ``"mean-field"``, ``"diwae"`` or ``"semi-implicit"``.
    :param corruptions: M, corruptions of a row in a training step.
    :param particles: K, draws of the latents for each corruption.
    :param hidden_layers: hidden layers of the encoder.
    :param decoder_layers: hidden layers of the decoder.
    :param width: units of each hidden layer.
    :param activation: activation of the hidden layers.
    :param epochs: passes over the rows; None takes the default of ``pyro-dvae train``: 25,000 training steps,
        but at most 2,000 epochs.
    :param batch_size: rows in a training step.
    :param learning_rate: learning rate of Adam.
    :param validation_fraction: share of the rows that only choose the best epoch; 0 keeps the last epoch.
    :param num_samples: importance samples of each row, for ``score`` and ``score_samples``.
    :param device: ``"cpu"``, ``"cuda"``, or ``"auto"``.
    :param verbose: show the progress of training.
    :param random_state: seed or generator of everything random in ``fit`` and ``score_samples``.

    After ``fit``: ``fitted_`` has model, guide, history and all methods of :mod:`pyro_dvae.using` (on scaled
    rows), ``n_features_in_``, ``feature_names_in_``, and ``n_iter_``, the number of epochs.
    """

    def __init__(
        self,
        n_components: int = 10,
        *,
        noise: float = 0.05,
        noise_kind: str = "auto",
        likelihood: str = "auto",
        bound: str = "dvae",
        corruptions: int = 1,
        particles: int = 1,
        hidden_layers: int = 1,
        decoder_layers: int = 2,
        width: int = 200,
        activation: str = "softplus",
        epochs: int | None = None,
        batch_size: int = 100,
        learning_rate: float = 1e-3,
        validation_fraction: float = 0.1,
        num_samples: int = 500,
        device: str = "cpu",
        verbose: bool = False,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.noise = noise
        self.noise_kind = noise_kind
        self.likelihood = likelihood
        self.bound = bound
        self.corruptions = corruptions
        self.particles = particles
        self.hidden_layers = hidden_layers
        self.decoder_layers = decoder_layers
        self.width = width
        self.activation = activation
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.validation_fraction = validation_fraction
        self.num_samples = num_samples
        self.device = device
        self.verbose = verbose
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> DenoisingVAE:  # noqa: N803 - scikit-learn's name
        """Train on rows ``X`` [N, D], with NaN in gaps; ``y`` is not used."""
        x = self._rows(X, reset=True)
        checks.count("num_samples", self.num_samples)
        share = checks.number("validation_fraction", self.validation_fraction, 0.0, 0.9)
        own = {each.name for each in fields(Options)} & set(self.get_params(deep=False))
        asked = {name: _plain(getattr(self, name)) for name in own if getattr(self, name) is not None}
        asked["latent_size"] = checks.count("n_components", _plain(self.n_components))
        if self.noise_kind == "auto":
            del asked["noise_kind"]
        seed = seed_of(self.random_state)
        options = replace(Options(binarisation="none", seed=seed), **asked)
        self.fitted_, self._scaled = train(
            x,
            options,
            frozenset({*asked, "binarisation"}),
            validation=share,
            progress=checks.flag("verbose", self.verbose),
        )
        self._seed, self._n_features_out = seed, self.n_components
        self.n_iter_ = len(self.fitted_.history.epochs)
        return self

    def transform(self, X: Any) -> np.ndarray:  # noqa: N803
        """Return the posterior means of the latents, [N, n_components]."""
        check_is_fitted(self)
        rows = self._scaled_rows(self._rows(X))
        model, guide = pair_of(self.fitted_.model, self.fitted_.guide, rows)
        found: np.ndarray = replace(self.fitted_, model=model, guide=guide).encode(*rows)["z"].numpy()
        return found

    def inverse_transform(self, X: Any) -> np.ndarray:  # noqa: N803
        """Return the means of the rows [N, D] at latents ``X`` [N, n_components]."""
        check_is_fitted(self)
        codes = check_array(X, dtype=FLOATS)
        if codes.shape[1] != self._n_features_out:
            raise InputError(f"X: expected {self._n_features_out} latents in a row, got {codes.shape[1]}")
        return self._scaled.back(self.fitted_.decode(torch.tensor(codes).to(self.fitted_.rows[0].dtype)))

    def score_samples(self, X: Any) -> np.ndarray:  # noqa: N803
        """Return log p(x_observed) of each row, [N], in the units of X (nats), by importance sampling.

        All rows share the noise of the draws, so the value of a row does not depend on the other rows.
        """
        check_is_fitted(self)
        x = self._rows(X)
        rows = self._scaled_rows(x)
        own, trained_guide = self._trained()
        model = LatentVariableModel(own.decoder, _SharedPrior(own.latent_size))
        require_values(model, rows)
        model, guide = pair_of(model, _SharedGuide(trained_guide), rows)
        size = max(1, _LATENTS_AT_ONCE // self.num_samples)
        from_prior = self.num_samples // 4  # a row with many gaps has nearly the prior as its posterior
        proposal = Proposal(defensive=from_prior / self.num_samples)
        one = Pass(proposal, self.num_samples - from_prior, from_prior, 1)
        found = []
        with torch.no_grad(), self.fitted_.in_use():
            for part in zip(*(each.split(size) for each in rows), strict=True):
                with forked(self._seed):
                    log_weight = one.log_weights(model, guide, part, {}).double()
                found.append(log_weight.logsumexp(0).cpu() - math.log(len(log_weight)))
        scores: np.ndarray = torch.cat(found).numpy() - self._scaled.log_factor(~np.isnan(x))
        return scores

    def score(self, X: Any, y: Any = None) -> float:  # noqa: N803
        """Return the mean of :meth:`score_samples` (nats): higher is better."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state: Any = None) -> np.ndarray:
        """Draw new rows from the model, [n_samples, D]; ``random_state`` is their seed or generator."""
        check_is_fitted(self)
        return self._scaled.back(self.fitted_.sample(_plain(n_samples), seed=seed_of(random_state)))

    def _rows(self, x: Any, reset: bool = False) -> np.ndarray:
        found: np.ndarray = validate_data(self, x, reset=reset, dtype=FLOATS, ensure_all_finite="allow-nan")
        return found

    def _scaled_rows(self, x: np.ndarray) -> tuple[Tensor, ...]:
        return rows_of(self._scaled.forward(x).to(next(self._trained()[0].parameters())))

    def _trained(self) -> tuple[LatentVariableModel, GaussianGuide]:
        return self.fitted_.model, self.fitted_.guide  # type: ignore[return-value]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _plain(value: Any) -> Any:
    """Convert NumPy's numbers, as a grid search passes them, to Python's."""
    return value.item() if isinstance(value, np.generic) else value


class _SharedNormal(dist.Normal):
    """A normal of [..., N, d] whose N rows are drawn from the same noise."""

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """Draw values of shape ``sample_shape + batch_shape``."""
        *left, _, size = self._extended_shape(sample_shape)
        noise = torch.randn(*left, 1, size, dtype=self.loc.dtype, device=self.loc.device)
        found: Tensor = self.loc + self.scale * noise
        return found


class _SharedPrior(StandardNormal):
    """A standard normal prior whose rows share their draws."""

    def forward(self, like: Tensor) -> Any:
        zero = like.new_zeros(len(like), self.latent_size)
        return _SharedNormal(zero, zero + 1).to_event(1)


class _SharedGuide(GaussianGuide):
    """A Gaussian guide whose rows share the noise of their draws."""

    def __init__(self, guide: GaussianGuide) -> None:
        super().__init__(guide.encoder, guide.corruption)

    def posterior(self, x_tilde: Tensor) -> Any:
        loc, scale = self.encoder(x_tilde)
        return _SharedNormal(loc, scale).to_event(1)
