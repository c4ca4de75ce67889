"""Guides: from data, corrupted, to samples of the latents."""

from pyro_dvae.guides.denoising import DenoisingGuide
from pyro_dvae.guides.gaussian import GaussianGuide

__all__ = ["DenoisingGuide", "GaussianGuide"]
