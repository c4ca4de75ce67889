"""Systems with other programs: DRAW and full variational Bayes."""

from __future__ import annotations

from collections.abc import Callable

import pyro_dvae as dv
from catalogue.system import BOUNDS, Pair, Setting, System, dvae, salt
from pyro_dvae.datasets.base import image_shape_of
from pyro_dvae.models.bayes import FullBayes

GROUP = "Recurrent models and Bayesian weights"


def draw(*, attention: bool) -> Callable[[Setting], Pair]:
    def build(setting: Setting) -> Pair:
        made = dv.DRAW(
            image_shape=image_shape_of(setting.data_size),
            steps=3 if setting.small else 10,
            hidden_size=8 if setting.small else 128,
            latent_size=10,
            attention=attention,
            corruption=salt(),
        )
        return Pair(made.model, made.guide)

    return build


def full_bayes(setting: Setting) -> Pair:
    """Return the pair that starts from a model trained for the same number of epochs."""
    start = dvae(setting)
    setting.fit(start.model, start.guide, BOUNDS["denoising"](setting))
    assert isinstance(start.model, dv.LatentVariableModel)
    assert isinstance(start.guide, dv.GaussianGuide)
    bayes = FullBayes.from_trained(start.model, start.guide, len(setting.train), bound_of="batch")
    return Pair(bayes.model, bayes.guide, (bayes.predictive(), bayes.guide.guide))


OTHERS = [
    System(
        "draw",
        GROUP,
        "DRAW, ten steps of ten latents, no attention",
        "Gregor et al. 2015",
        "`DRAW(attention=False)`",
        draw(attention=False),
        trained_by="mean-field",
        bound=BOUNDS["mean-field"],
    ),
    System(
        "draw-attention",
        GROUP,
        "DRAW with attention, patches of 5 by 5",
        "Gregor et al. 2015",
        "`DRAW`",
        draw(attention=True),
        trained_by="mean-field",
        bound=BOUNDS["mean-field"],
    ),
    System(
        "full-bayes",
        GROUP,
        "full variational Bayes over the decoder's weights, from a trained DVAE",
        "Kingma and Welling 2014, appendix F; the report, §6",
        "`FullBayes`",
        full_bayes,
        trained_by="denoising, then as long by mean-field",
        bound=BOUNDS["mean-field"],
        applies=("denoising", "mean-field"),
    ),
]
