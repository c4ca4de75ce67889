"""Encoders and decoders, plain ``nn.Module``s for any leading dimensions, dtype and device."""

from pyro_dvae.distributions.continuous_bernoulli import ContinuousBernoulli
from pyro_dvae.networks.convolutional import ConvolutionalDecoder, ConvolutionalEncoder
from pyro_dvae.networks.counts import (
    CountEncoder,
    DirichletMultinomialDecoder,
    MultinomialDecoder,
    NegativeBinomialDecoder,
    PoissonDecoder,
)
from pyro_dvae.networks.covariance import FullCovarianceDecoder, LowRankCovarianceDecoder
from pyro_dvae.networks.decoders import (
    BernoulliDecoder,
    ContinuousBernoulliDecoder,
    DiscretisedLogisticDecoder,
    GaussianDecoder,
)
from pyro_dvae.networks.encoders import GaussianEncoder, GRUEncoder
from pyro_dvae.networks.lifted import Lifted
from pyro_dvae.networks.mlp import activation, mlp
from pyro_dvae.networks.table import SelfMasking, TableDecoder, TableEncoder

__all__ = [
    "BernoulliDecoder",
    "ContinuousBernoulli",
    "ContinuousBernoulliDecoder",
    "ConvolutionalDecoder",
    "ConvolutionalEncoder",
    "CountEncoder",
    "DirichletMultinomialDecoder",
    "DiscretisedLogisticDecoder",
    "FullCovarianceDecoder",
    "GRUEncoder",
    "GaussianDecoder",
    "GaussianEncoder",
    "Lifted",
    "LowRankCovarianceDecoder",
    "MultinomialDecoder",
    "NegativeBinomialDecoder",
    "PoissonDecoder",
    "SelfMasking",
    "TableDecoder",
    "TableEncoder",
    "activation",
    "mlp",
]
