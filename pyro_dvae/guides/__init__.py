"""Guides, which sample the latents from corrupted data."""

from pyro_dvae.guides.automatic import AutoEncoderGuide
from pyro_dvae.guides.base import GaussianGuide
from pyro_dvae.guides.chain import ChainGuide
from pyro_dvae.guides.denoising import DenoisingGuide
from pyro_dvae.guides.discrete import BernoulliGuide, CategoricalGuide, ConcreteGuide, GumbelSoftmaxGuide
from pyro_dvae.guides.flow import FlowGuide
from pyro_dvae.guides.gaussian import FullCovarianceGuide, MixtureGuide
from pyro_dvae.guides.implicit import ImplicitGuide

__all__ = [
    "AutoEncoderGuide",
    "BernoulliGuide",
    "CategoricalGuide",
    "ChainGuide",
    "ConcreteGuide",
    "DenoisingGuide",
    "FlowGuide",
    "FullCovarianceGuide",
    "GaussianGuide",
    "GumbelSoftmaxGuide",
    "ImplicitGuide",
    "MixtureGuide",
]
