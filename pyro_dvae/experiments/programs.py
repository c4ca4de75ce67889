"""What a case can train: from a setting to a model, a guide and a bound. A new program is one entry here."""

from __future__ import annotations

from collections.abc import Callable

from pyro_dvae.baselines import Autoencoder
from pyro_dvae.bayes import FullBayes
from pyro_dvae.bounds import TraceDenoising_ELBO, TraceMeanFieldDenoising_ELBO
from pyro_dvae.experiments.setting import Pair, Setting
from pyro_dvae.guides import GaussianGuide
from pyro_dvae.models import DVAE, LatentVariableModel


def dvae(setting: Setting) -> Pair:
    """Return the DVAE of the options: a VAE where the noise is 0."""
    made = DVAE(setting.encoder(), setting.decoder(), setting.corruption)
    return Pair(made.model, made.guide, setting.bound())


def autoencoder(setting: Setting) -> Pair:
    """Return an autoencoder of the options' networks, denoising where there is noise."""
    made = Autoencoder(setting.encoder(), setting.decoder(), setting.corruption)
    return Pair(
        made.model,
        made.guide,
        TraceDenoising_ELBO(num_corruptions=setting.options.corruptions, max_plate_nesting=1),
    )


def full_bayes(setting: Setting) -> Pair:
    """Return a pair with a distribution of the decoder's weights, started at random."""
    guide = GaussianGuide(setting.encoder(), setting.corruption)
    return _bayes(LatentVariableModel(setting.decoder()), guide, setting)


def full_bayes_narrow_prior(setting: Setting) -> Pair:
    """Return the same with a prior of the weights of standard deviation 0.1, about their own scale."""
    guide = GaussianGuide(setting.encoder(), setting.corruption)
    return _bayes(LatentVariableModel(setting.decoder()), guide, setting, prior_scale=0.1)


def full_bayes_from_trained(setting: Setting) -> Pair:
    """Return the first, started from a DVAE that is trained first for as many epochs."""
    made = DVAE(setting.encoder(), setting.decoder(), setting.corruption)
    setting.fit(Pair(made.model, made.guide, setting.bound()), phase="-start")
    guide = GaussianGuide(made.guide.encoder, setting.corruption)
    return _bayes(LatentVariableModel(made.model.decoder), guide, setting)


def _bayes(
    model: LatentVariableModel, guide: GaussianGuide, setting: Setting, prior_scale: float = 1.0
) -> Pair:
    count = len(setting.data.train)
    made = FullBayes.from_trained(model, guide, count, prior_scale=prior_scale, bound_of="batch")
    bound = TraceMeanFieldDenoising_ELBO(num_corruptions=setting.options.corruptions, max_plate_nesting=1)
    return Pair(made.model, made.guide, bound, (made.predictive(), made.guide.guide))


PROGRAMS: dict[str, Callable[[Setting], Pair]] = {
    "dvae": dvae,
    "autoencoder": autoencoder,
    "full-bayes": full_bayes,
    "full-bayes-narrow-prior": full_bayes_narrow_prior,
    "full-bayes-from-trained": full_bayes_from_trained,
}

SIDE_BY_SIDE = ("dvae",)
"""Programs that one batched computation can train, many at a time."""
