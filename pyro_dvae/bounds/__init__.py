"""Bounds: Pyro ELBOs for guides with corruption sites."""

from pyro_dvae.bounds.base import DenoisingELBO
from pyro_dvae.bounds.denoising import TraceDenoising_ELBO
from pyro_dvae.bounds.iwae import TraceDenoisingIWAE_ELBO
from pyro_dvae.bounds.mean_field import TraceMeanFieldDenoising_ELBO
from pyro_dvae.bounds.semi_implicit import TraceSemiImplicit_ELBO

__all__ = [
    "DenoisingELBO",
    "TraceDenoisingIWAE_ELBO",
    "TraceDenoising_ELBO",
    "TraceMeanFieldDenoising_ELBO",
    "TraceSemiImplicit_ELBO",
]
