"""Bounds: Pyro ELBOs for guides with corruption sites."""

from pyro_dvae.bounds.base import DenoisingELBO
from pyro_dvae.bounds.denoising import TraceDenoising_ELBO
from pyro_dvae.bounds.iwae import TraceDenoisingIWAE_ELBO

__all__ = ["DenoisingELBO", "TraceDenoisingIWAE_ELBO", "TraceDenoising_ELBO"]
