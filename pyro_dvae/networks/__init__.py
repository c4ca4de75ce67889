"""Encoders and decoders, plain ``nn.Module``s for any leading dimensions, dtype and device."""

from pyro_dvae.distributions.continuous_bernoulli import ContinuousBernoulli
from pyro_dvae.networks.activations import activation
from pyro_dvae.networks.convolutional import ConvolutionalDecoder, ConvolutionalEncoder
from pyro_dvae.networks.counts import (
    DirichletMultinomialDecoder,
    MultinomialDecoder,
    NegativeBinomialDecoder,
    PoissonDecoder,
)
from pyro_dvae.networks.decoders import BernoulliDecoder, ContinuousBernoulliDecoder, GaussianDecoder
from pyro_dvae.networks.encoders import GaussianEncoder, GRUEncoder
from pyro_dvae.networks.mlp import mlp

__all__ = [
    "BernoulliDecoder",
    "ContinuousBernoulli",
    "ContinuousBernoulliDecoder",
    "ConvolutionalDecoder",
    "ConvolutionalEncoder",
    "DirichletMultinomialDecoder",
    "GRUEncoder",
    "GaussianDecoder",
    "GaussianEncoder",
    "MultinomialDecoder",
    "NegativeBinomialDecoder",
    "PoissonDecoder",
    "activation",
    "mlp",
]
