"""Generative networks and likelihoods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from catalogue.measures import bits
from catalogue.system import Pair, Setting, System, dvae, frey_noise
from pyro_dvae.networks import (
    BernoulliDecoder,
    ContinuousBernoulliDecoder,
    ConvolutionalDecoder,
    DiscretisedLogisticDecoder,
    FullCovarianceDecoder,
    GaussianDecoder,
    LowRankCovarianceDecoder,
)

GROUP = "Decoders and likelihoods"


def grey(kind: Callable[..., Any], **options: Any) -> Callable[[Setting], Pair]:
    """Return a builder of a system of grey pixels, with Gaussian noise and this decoder."""
    return lambda setting: dvae(setting, decoder=setting.decoder(kind, **options), corruption=frey_noise())


def covarying(kind: Callable[..., Any], **options: Any) -> Callable[[Setting], Pair]:
    """Return a builder of a system that starts at the covariance (with a ridge) and mean of the data."""

    def build(setting: Setting) -> Pair:
        covariance = setting.train.T.cov() + 1e-3 * torch.eye(setting.data_size)
        return grey(kind, covariance=covariance, loc=setting.train.mean(0), **options)(setting)

    return build


def convolutional(setting: Setting) -> Pair:
    decoder = ConvolutionalDecoder(setting.data_size, setting.latent_size, setting.decoder_sizes[:1])
    return dvae(setting, decoder=decoder)


DECODERS = [
    System(
        "decoder-bernoulli",
        GROUP,
        "Bernoulli pixels",
        "Kingma and Welling 2014, appendix C.1",
        "`BernoulliDecoder`",
        lambda setting: dvae(setting, decoder=setting.decoder(BernoulliDecoder)),
        same_as="guide-denoising",
    ),
    System(
        "decoder-convolutional",
        GROUP,
        "an MLP, then two transposed convolutions, Bernoulli pixels",
        "Salimans, Kingma and Welling 2015",
        "`ConvolutionalDecoder`",
        convolutional,
    ),
    System(
        "decoder-gaussian-learned",
        GROUP,
        "Gaussian pixels, one learned scale",
        "Kingma and Welling 2014, appendix C.2",
        '`GaussianDecoder(scale="learned")`',
        grey(GaussianDecoder, scale="learned"),
        dataset="frey",
        binarisation="none",
    ),
    System(
        "decoder-gaussian-per-pixel",
        GROUP,
        "Gaussian pixels, a scale per pixel from the network",
        "Im et al. 2017, Table 2",
        '`GaussianDecoder(scale="per-pixel")`',
        grey(GaussianDecoder, scale="per-pixel"),
        dataset="frey",
        binarisation="none",
    ),
    System(
        "decoder-continuous-bernoulli",
        GROUP,
        "continuous Bernoulli pixels in [0, 1]",
        "Loaiza-Ganem and Cunningham 2019",
        "`ContinuousBernoulliDecoder`",
        grey(ContinuousBernoulliDecoder),
        dataset="frey",
        binarisation="none",
    ),
    System(
        "decoder-discretised-logistic",
        GROUP,
        "bytes by a discretised logistic",
        "Salimans et al. 2017",
        "`DiscretisedLogisticDecoder`",
        grey(DiscretisedLogisticDecoder),
        measures=(bits,),
        dataset="frey",
        binarisation="none",
    ),
    System(
        "decoder-discretised-logistic-mixture",
        GROUP,
        "bytes by a mixture of five discretised logistics",
        "Salimans et al. 2017",
        "`DiscretisedLogisticDecoder(mixture=True)`",
        grey(DiscretisedLogisticDecoder, mixture=True),
        measures=(bits,),
        dataset="frey",
        binarisation="none",
    ),
    System(
        "decoder-full-covariance",
        GROUP,
        "Gaussian pixels with one full covariance, which starts at that of the data",
        "a variant",
        "`FullCovarianceDecoder`",
        covarying(FullCovarianceDecoder),
        dataset="frey",
        binarisation="none",
    ),
    System(
        "decoder-low-rank-covariance",
        GROUP,
        "Gaussian pixels with one covariance of 20 factors",
        "a variant",
        "`LowRankCovarianceDecoder`",
        covarying(LowRankCovarianceDecoder, rank=20),
        dataset="frey",
        binarisation="none",
    ),
]
