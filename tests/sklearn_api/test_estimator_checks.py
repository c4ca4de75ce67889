"""scikit-learn's own checks of the estimators, with quick trainings."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from pyro_dvae.sklearn import DenoisingDetector, DenoisingImputer, DenoisingVAE

QUICK = DenoisingVAE(2, width=4, decoder_layers=1, epochs=2, num_samples=25)


@parametrize_with_checks([QUICK, DenoisingDetector(QUICK), DenoisingImputer()])
def test_scikit_learn_accepts(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([DenoisingDetector()])
def test_scikit_learn_accepts_the_default_detector(estimator, check):
    check(estimator)
