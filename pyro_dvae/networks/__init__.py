"""Encoders and decoders: plain ``nn.Module``s for any leading dims, dtype and device."""

from pyro_dvae.networks.activations import activation
from pyro_dvae.networks.decoders import BernoulliDecoder, GaussianDecoder
from pyro_dvae.networks.encoders import GaussianEncoder
from pyro_dvae.networks.mlp import mlp

__all__ = ["BernoulliDecoder", "GaussianDecoder", "GaussianEncoder", "activation", "mlp"]
