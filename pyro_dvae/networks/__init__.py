"""Encoders and decoders: plain ``nn.Module``s for any leading dims, dtype and device."""

from pyro_dvae.networks.activations import activation
from pyro_dvae.networks.continuous_bernoulli import ContinuousBernoulli
from pyro_dvae.networks.convolutional import ConvolutionalDecoder, ConvolutionalEncoder
from pyro_dvae.networks.decoders import BernoulliDecoder, ContinuousBernoulliDecoder, GaussianDecoder
from pyro_dvae.networks.encoders import GaussianEncoder
from pyro_dvae.networks.mlp import mlp
from pyro_dvae.networks.recurrent import RecurrentEncoder

__all__ = [
    "BernoulliDecoder",
    "ContinuousBernoulli",
    "ContinuousBernoulliDecoder",
    "ConvolutionalDecoder",
    "ConvolutionalEncoder",
    "GaussianDecoder",
    "GaussianEncoder",
    "RecurrentEncoder",
    "activation",
    "mlp",
]
