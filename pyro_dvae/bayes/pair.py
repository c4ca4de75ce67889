"""Model and guide of full variational Bayes, made to match."""

from __future__ import annotations

from typing import Any

from torch import nn

from pyro_dvae.bayes.guide import FullBayesGuide
from pyro_dvae.bayes.model import FullBayesModel
from pyro_dvae.bayes.predictive import PredictiveModel
from pyro_dvae.guides.base import AmortisedGuide
from pyro_dvae.models import LatentVariableModel
from pyro_dvae.priors import Prior
from pyro_dvae.registration import Module


class FullBayes(Module):
    """A pair ``.model`` and ``.guide`` for Pyro that learns a distribution of the decoder's weights::

        log p(x_1..x_N) ≥ −KL(q(w) ‖ p(w)) + E_q(w) Σ_n L_dvae(x_n; w)

    (Kingma and Welling 2014, appendix F, with the denoising bound of each datum.) Use
    ``TraceDenoising_ELBO``, or ``TraceMeanFieldDenoising_ELBO``, whose divergence of the weights is in closed
    form. Importance-weighted bounds weigh the whole data set at once, and refuse mini-batches.

    What is measured per datum takes ``predictive()`` and ``guide.guide``::

        dv.log_likelihood(bayes.predictive(), bayes.guide.guide, x)

    :param decoder: any module from z [..., d] to a distribution of x, with an attribute ``latent_size``.
    :param guide: any amortised guide.
    :param data_count: N, the data of the whole data set.
    :param prior: of the latents of a datum; the standard normal by default.
    :param prior_scale: standard deviation of the weights' prior.
    :param start: a module like ``decoder`` whose weights the means start from; by default ``decoder``.
    :param initial_scale: standard deviation of every weight at the start.
    :param bound_of: ``"data"``, or ``"batch"`` for the share B / N of a mini-batch, as ``fit`` expects.
    """

    def __init__(
        self,
        decoder: nn.Module,
        guide: AmortisedGuide,
        data_count: int,
        *,
        prior: Prior | None = None,
        prior_scale: float = 1.0,
        start: nn.Module | None = None,
        initial_scale: float = 0.01,
        bound_of: str = "data",
    ) -> None:
        super().__init__()
        self.model = FullBayesModel(
            decoder, data_count, prior=prior, prior_scale=prior_scale, bound_of=bound_of
        )
        self.guide = FullBayesGuide(
            guide, decoder, data_count, start=start, initial_scale=initial_scale, bound_of=bound_of
        )

    @classmethod
    def from_trained(
        cls, model: LatentVariableModel, guide: AmortisedGuide, data_count: int, **settings: Any
    ) -> FullBayes:
        """Return the pair that starts from a trained model and guide: means are its decoder's weights.

        :param settings: ``prior_scale``, ``initial_scale``, ``bound_of``.
        """
        return cls(model.decoder, guide, data_count, prior=model.prior, **settings)

    def predictive(self) -> PredictiveModel:
        """Return the model of a new datum, with the weights drawn from the guide; it shares parameters."""
        return PredictiveModel(self.model.skeleton, self.model.prior, self.guide.weights)

    def mean_decoder(self) -> nn.Module:
        """Return an ordinary decoder whose weights are copies of the present means."""
        return self.model.skeleton.with_weights(self.guide.weights.means())
