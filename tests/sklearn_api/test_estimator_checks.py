"""scikit-learn's own checks of the estimators, with quick trainings."""

from sklearn.utils.estimator_checks import parametrize_with_checks

from pyro_dvae.sklearn import DenoisingDetector, DenoisingImputer, DenoisingVAE

QUICK = DenoisingVAE(2, width=4, decoder_layers=1, epochs=2, num_samples=25)


@parametrize_with_checks([QUICK, DenoisingDetector(), DenoisingDetector(QUICK), DenoisingImputer()])
def test_scikit_learn_accepts(estimator, check):
    check(estimator)
