"""Estimators for scikit-learn: a denoising VAE as a transformer, an imputer and an outlier detector."""

from pyro_dvae.sklearn.detector import DenoisingDetector
from pyro_dvae.sklearn.imputer import DenoisingImputer
from pyro_dvae.sklearn.vae import DenoisingVAE

__all__ = ["DenoisingDetector", "DenoisingImputer", "DenoisingVAE"]
