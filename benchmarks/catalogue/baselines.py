"""Autoencoders, which have no bound, with the networks of the VAE and the DVAE."""

from __future__ import annotations

from collections.abc import Callable

import pyro_dvae as dv
from catalogue.measures import reconstruction
from catalogue.system import Pair, Setting, System, dvae, salt
from pyro_dvae.models import Autoencoder

GROUP = "Reconstruction: baselines without a bound, and the same networks with one"


def autoencoder(*, denoising: bool) -> Callable[[Setting], Pair]:
    def build(setting: Setting) -> Pair:
        made = Autoencoder(setting.encoder(), setting.decoder(), salt() if denoising else None)
        return Pair(made.model, made.guide)

    return build


BASELINES = [
    System(
        "autoencoder",
        GROUP,
        "autoencoder",
        "Vincent et al. 2010, as a comparison",
        "`Autoencoder`",
        autoencoder(denoising=False),
        trained_by="cross-entropy",
        applies=(),
        measures=(reconstruction,),
    ),
    System(
        "autoencoder-denoising",
        GROUP,
        "denoising autoencoder",
        "Vincent et al. 2010",
        "`Autoencoder(corruption=...)`",
        autoencoder(denoising=True),
        trained_by="cross-entropy",
        applies=(),
        measures=(reconstruction,),
    ),
    System(
        "vae",
        GROUP,
        "VAE",
        "Kingma and Welling 2014",
        "`DVAE` with `NoCorruption`",
        lambda setting: dvae(setting, corruption=dv.NoCorruption()),
        measures=(reconstruction,),
        same_as="guide-gaussian",
    ),
    System(
        "dvae",
        GROUP,
        "DVAE",
        "Im et al. 2017",
        "`DVAE`",
        dvae,
        measures=(reconstruction,),
        same_as="guide-denoising",
    ),
]
