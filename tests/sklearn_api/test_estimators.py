import math
import pickle

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from sklearn.base import clone
from sklearn.impute import KNNImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

import pyro_dvae as dv
from pyro_dvae.errors import InputError
from pyro_dvae.sklearn import DenoisingDetector, DenoisingImputer, DenoisingVAE

RANDOM = np.random.default_rng(0)
LATENT = RANDOM.normal(size=(120, 2))
X = LATENT @ RANDOM.normal(size=(2, 5)) + 0.3 * RANDOM.normal(size=(120, 5)) + 7.0
GAPS = np.where(RANDOM.random(X.shape) < 0.2, np.nan, X)
QUICK = {"width": 8, "decoder_layers": 1, "epochs": 10, "num_samples": 50, "random_state": 0}


@pytest.fixture(scope="module")
def fitted():
    return DenoisingVAE(2, **QUICK).fit(X)


def test_what_is_trained_is_the_pair_of_the_verbs(fitted):
    scaled = torch.from_numpy((X - fitted._scaled.offset) / fitted._scaled.factor)
    assert scaled.mean(0).abs().max() < 0.1
    assert torch.equal(fitted.fitted_.encode(scaled)["z"], torch.from_numpy(fitted.transform(X)))
    decoded = fitted.inverse_transform(fitted.transform(X))
    expected = fitted.fitted_.decode(fitted.fitted_.encode(scaled)).numpy()
    np.testing.assert_allclose(decoded, expected * fitted._scaled.factor + fitted._scaled.offset, rtol=1e-12)
    assert fitted.n_iter_ == len(fitted.fitted_.history.epochs) == 10


def test_scores_are_log_likelihoods_in_the_units_of_the_rows(fitted):
    scaled = torch.from_numpy((X - fitted._scaled.offset) / fitted._scaled.factor)
    found = fitted.fitted_.log_likelihood(scaled, num_samples=2000, proposal="clean", seed=1, progress=False)
    many = clone(fitted).set_params(num_samples=2000).fit(X).score_samples(X)
    expected = found.log_likelihood.numpy() - np.log(fitted._scaled.factor).sum()
    error = np.sqrt(2) * np.maximum(found.standard_error.numpy(), 1e-3)
    assert (np.abs(many - expected) < 6 * error)[(found.pareto_k <= found.threshold).numpy()].all()
    assert fitted.score(X) == pytest.approx(fitted.score_samples(X).mean(), rel=1e-14)
    wider = DenoisingVAE(2, **QUICK).fit(8 * X)  # a power of two: the same scaled rows
    np.testing.assert_allclose(
        wider.score_samples(8 * X), fitted.score_samples(X) - 5 * math.log(8), rtol=1e-9
    )


def test_the_score_of_a_row_is_its_own(fitted):
    whole = fitted.score_samples(X)
    np.testing.assert_allclose(fitted.score_samples(X[::-1])[::-1], whole, rtol=1e-10)
    np.testing.assert_allclose(fitted.score_samples(X[:1]), whole[:1], rtol=1e-10)


def test_rows_with_gaps():
    made = DenoisingVAE(2, **QUICK).fit(GAPS)
    assert np.isfinite(made.transform(GAPS)).all()
    scores = made.score_samples(GAPS)
    whole = ~np.isnan(GAPS).any(1)
    np.testing.assert_allclose(made.score_samples(GAPS[whole]), scores[whole], rtol=1e-10)
    # A density of one cell integrates to 1, with the draws that all rows share.
    grid = np.full((4001, 5), np.nan)
    grid[:, 1] = np.linspace(-40, 60, 4001)
    assert np.exp(made.score_samples(grid)).sum() * 100 / 4000 == pytest.approx(1.0, abs=0.2)


def test_the_type_of_the_rows_is_kept():
    made = DenoisingVAE(2, **QUICK).fit(X.astype(np.float32))
    codes = made.transform(X.astype(np.float32))
    assert codes.dtype == made.inverse_transform(codes).dtype == made.sample(2).dtype == np.float32
    assert next(made.fitted_.model.parameters()).dtype == torch.float32


def test_random_state(fitted):
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    again = DenoisingVAE(2, **QUICK).fit(X)
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert (np.random.get_state()[1] == numpy_before).all()  # noqa: NPY002
    assert not pyro.get_param_store().keys()
    np.testing.assert_array_equal(again.transform(X), fitted.transform(X))
    generator = np.random.RandomState(0)
    first, second = (DenoisingVAE(2, **QUICK | {"random_state": generator}).fit(X) for _ in range(2))
    np.testing.assert_array_equal(first.transform(X), fitted.transform(X))
    assert (first.transform(X) != second.transform(X)).all()
    np.testing.assert_array_equal(first.sample(3, random_state=5), first.sample(3, random_state=5))
    assert (first.sample(3) != first.sample(3)).all()


def test_pickle_and_clone(fitted):
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.transform(X), fitted.transform(X))
    np.testing.assert_array_equal(again.score_samples(X), fitted.score_samples(X))
    assert clone(fitted).get_params() == fitted.get_params()
    assert not hasattr(clone(fitted), "fitted_")


def test_a_frame_names_its_columns():
    frame = pd.DataFrame(X, columns=list("abcde"))
    made = DenoisingVAE(2, **QUICK).set_output(transform="pandas").fit(frame)
    assert made.feature_names_in_.tolist() == list("abcde")
    found = made.transform(frame)
    assert (
        found.columns.tolist() == made.get_feature_names_out().tolist() == ["denoisingvae0", "denoisingvae1"]
    )
    with pytest.raises(ValueError, match="feature names"):
        made.transform(frame[list("edcba")])


def test_in_a_pipeline_and_a_grid_search():
    labels = (LATENT[:, 0] > 0).astype(int)
    options = QUICK | {"epochs": 40, "learning_rate": 0.03, "validation_fraction": 0.0}
    pipeline = make_pipeline(DenoisingVAE(2, **options), LogisticRegression())
    search = GridSearchCV(pipeline, {"denoisingvae__n_components": np.array([1, 2])}, cv=2).fit(GAPS, labels)
    assert search.best_score_ > 0.7
    density = GridSearchCV(DenoisingVAE(2, **QUICK), {"noise": [0.0, 0.1]}, cv=2).fit(X)
    assert np.isfinite(density.cv_results_["mean_test_score"]).all()


@pytest.mark.parametrize(
    ("rows", "likelihood", "corruption"),
    [
        ((X > 7).astype(float), "BernoulliDecoder", dv.SaltAndPepper),
        (RANDOM.random((60, 4)), "ContinuousBernoulliDecoder", dv.SaltAndPepper),
        (X, "GaussianDecoder", dv.Masking),
        (np.column_stack([X, X[:, 0] > 7]), "TableDecoder", dv.SwapNoise),
    ],
)
def test_the_values_choose_the_likelihood_and_the_noise(rows, likelihood, corruption):
    made = DenoisingVAE(2, **QUICK | {"epochs": 1}).fit(rows)
    assert type(made.fitted_.model.decoder).__name__ == likelihood
    assert isinstance(made.fitted_.guide.corruption, corruption)
    assert np.isfinite(made.score_samples(rows)).all()


def test_counts_stay_as_they_are():
    counts = RANDOM.poisson(5.0, size=(60, 4))
    made = DenoisingVAE(2, likelihood="poisson", **QUICK).fit(counts)
    assert isinstance(made.fitted_.guide.corruption, dv.BinomialThinning)
    assert (made.sample(5, random_state=0) % 1 == 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_components": 0}, "^n_components: "),
        ({"noise": -1.0}, "^noise: "),
        ({"noise_kind": "none"}, "^noise_kind: unknown name"),
        ({"likelihood": "normal"}, "^likelihood: unknown name"),
        ({"epochs": 0}, "^epochs: "),
        ({"validation_fraction": 1.0}, "^validation_fraction: "),
        ({"num_samples": 0}, "^num_samples: "),
        ({"device": "abacus"}, "^device: "),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        DenoisingVAE(**{"n_components": 2, **QUICK, **options}).fit(X)


@pytest.mark.parametrize("estimator", [None, DenoisingVAE(2, **QUICK)])
def test_the_detector_finds_outliers(estimator):
    rows = np.vstack([X, X[:6] + 30.0])
    made = DenoisingDetector(estimator, contamination=0.05, random_state=0).fit(rows)
    assert (made.predict(rows) == -1).sum() == math.ceil(0.05 * len(rows))
    assert made.predict(X[:1] + 100.0) == [-1]
    scores = made.score_samples(rows)
    np.testing.assert_array_equal(made.decision_function(rows), scores - made.offset_)
    assert made.offset_ == np.quantile(scores, 0.05)
    assert set(made.predict(GAPS)) <= {-1, 1}
    for share in (0.0, 0.6, "auto"):
        with pytest.raises(InputError, match=r"^contamination: "):
            DenoisingDetector(contamination=share).fit(X)
    with pytest.raises(InputError, match=r"^estimator: "):
        DenoisingDetector(KNNImputer()).fit(X)


def test_the_imputer_fills_gaps_better_than_the_mean():
    made = DenoisingImputer(random_state=0).fit(GAPS)
    filled, gaps = made.transform(GAPS), np.isnan(GAPS)
    np.testing.assert_array_equal(filled[~gaps], X[~gaps])
    means = np.broadcast_to(np.nanmean(GAPS, 0), X.shape)
    assert np.square(filled - X)[gaps].mean() < 0.5 * np.square(means - X)[gaps].mean()


@pytest.mark.parametrize("options", [{}, {"add_indicator": True}, {"keep_empty_features": True}])
def test_the_imputer_has_the_columns_of_scikit_learns(options):
    rows = np.column_stack([GAPS, np.full(len(X), np.nan), X[:, 0]])
    frame = pd.DataFrame(rows, columns=list("abcdefg"))
    made, other = DenoisingImputer(random_state=0, **options).fit(frame), KNNImputer(**options).fit(frame)
    found, expected = made.transform(frame), other.transform(frame)
    assert found.shape == expected.shape
    names = made.get_feature_names_out().tolist()
    # scikit-learn 1.9 keeps an empty column, but leaves out its name.
    assert names == (
        list("abcdefg") if "keep_empty_features" in options else other.get_feature_names_out().tolist()
    )
    assert not np.isnan(found).any()
    same = [n for n, name in enumerate(names) if name in "fg" or "_" in name]
    np.testing.assert_array_equal(found[:, same], expected[:, same])


def test_other_missing_values():
    nan = DenoisingImputer(random_state=0).fit_transform(GAPS)
    own = DenoisingImputer(missing_values=-1, random_state=0).fit_transform(np.nan_to_num(GAPS, nan=-1.0))
    np.testing.assert_array_equal(own, nan)
    with pytest.raises(ValueError, match="NaN"):
        DenoisingImputer(missing_values=-1).fit(GAPS)
    empty = np.full((3, 2), np.nan)
    assert DenoisingImputer(keep_empty_features=True).fit_transform(empty).tolist() == [[0.0, 0.0]] * 3


def test_values_outside_the_support_are_refused():
    rows = np.random.default_rng(0).integers(0, 2, (300, 3)).astype(float)
    vae = DenoisingVAE(n_components=2, likelihood="bernoulli", epochs=1, random_state=0).fit(rows)
    for gaps in (False, True):
        odd = rows.copy()
        odd[-1, 0], odd[0, 1] = 1.5, np.nan if gaps else 0.0
        for call in (vae.score_samples, vae.fit):
            with pytest.raises(InputError, match=r"\(values from 0 to 1\), got values from 0 to 1\.5"):
                call(odd)


@pytest.mark.parametrize("missing", [None, pd.NA, np.float32("nan"), -999, np.int64(-999)])
def test_missing_values_as_other_imputers_take_them(missing):
    x = np.random.default_rng(0).normal(size=(40, 2)).cumsum(1)
    x[::4, 1] = np.nan
    gap = np.nan if missing is pd.NA else missing
    given = np.where(np.isnan(x), gap, x.astype(object) if missing is None else x)
    given = pd.DataFrame(given).convert_dtypes() if missing is pd.NA else given
    found = DenoisingImputer(missing_values=missing, random_state=0).fit_transform(given)
    np.testing.assert_array_equal(found, DenoisingImputer(random_state=0).fit_transform(x))


@pytest.mark.parametrize("missing", ["NA", True, np.inf, [1]])
def test_other_missing_values_are_refused(missing):
    with pytest.raises(dv.InputError, match=r"^missing_values: expected a number"):
        DenoisingImputer(missing_values=missing).fit(np.ones((3, 2)))
