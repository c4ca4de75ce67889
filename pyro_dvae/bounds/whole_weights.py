"""Weights that are not of a datum: where a latent lies outside the data plate."""

from __future__ import annotations

from pyro_dvae.bounds.draws import Draws
from pyro_dvae.errors import InputError


def refuse_subsampling(draws: Draws) -> None:
    """Refuse a subsampled plate inside a weight that a bound takes the logarithm of a mean of.

    A latent that all data share (a weight of a network) makes one importance weight of the whole data set. A
    mini-batch gives an unbiased estimate of its logarithm; the log of a mean of several such is convex in
    them, so its expectation lies above the bound, and above the evidence for noisy mini-batches.
    """
    if name := draws.subsamples.inside(draws.datum_frames()):
        outside = [
            site["name"]
            for site in [*draws.latent_sites(), *draws.model_sites()]
            if name not in {frame.name for frame in site["cond_indep_stack"]}
        ]
        raise InputError(
            f"model: plate {name!r} is subsampled while site {outside[0]!r} lies outside it: an importance "
            "weight is of all of the plate and its logarithm cannot be estimated from a part; use "
            "TraceDenoising_ELBO or TraceMeanFieldDenoising_ELBO, or give the whole plate"
        )
