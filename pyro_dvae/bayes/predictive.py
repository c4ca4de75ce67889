"""The model of one new datum, with the weights of the generative network integrated over."""

from __future__ import annotations

import pyro
from torch import Tensor

from pyro_dvae.bayes.skeleton import Skeleton
from pyro_dvae.bayes.weights import GaussianWeights
from pyro_dvae.priors import Prior
from pyro_dvae.registration import Module, register


class PredictiveModel(Module):
    """The predictive distribution of a datum under the guide's distribution of the weights, as a model::

        z ~ p(z),   x ~ ∫ q(w) p(x | z, w) dw      with one w ~ q(w) for each draw of z

    For everything that is measured per datum: with the local guide, ``log_likelihood`` estimates
    log ∫ q(w) p(x|w) dw and ``evaluate_bound`` a lower bound of it. The weights are no sites here; all data
    of a pass share those of a draw, so the errors of different data are not independent. Its density differs
    from call to call, which a Markov chain (annealed importance sampling) does not allow: use the decoder
    with the mean weights there.

    Sites: ``z`` [N, d] and ``x`` [N, D], inside the plate ``data``.
    """

    def __init__(self, skeleton: Skeleton, prior: Prior, weights: GaussianWeights) -> None:
        super().__init__()
        self.skeleton = skeleton
        self.prior = prior
        self.weights = weights
        self.latent_size = prior.latent_size

    def forward(self, x: Tensor) -> Tensor:
        """Observe each row of ``x`` [N, D]; return the latents [N, d]."""
        register("prior", self.prior)
        register("weights", self.weights)
        with pyro.plate("data", x.shape[0]):
            z: Tensor = pyro.sample("z", self.prior(x))
            likelihood = self.skeleton(self.weights.draw(z.shape[:-2]), self.prior.code(z))
            pyro.sample("x", likelihood, obs=x)
        return z
