"""Full variational Bayes: model, guide and predictive model with the decoder's weights as latents."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_dvae import checks
from pyro_dvae.errors import InputError
from pyro_dvae.guides.base import AmortisedGuide
from pyro_dvae.models.bayes.weight_priors import NormalWeight, WeightPrior
from pyro_dvae.models.bayes.weights import SITE, GaussianWeights, Weightless, trainable
from pyro_dvae.models.dvae import LatentVariableModel, checked_prior, observe
from pyro_dvae.networks.sizes import require_fitting_guide
from pyro_dvae.priors import Prior
from pyro_dvae.registration import Module, register


@dataclass(frozen=True)
class Share:
    """The share of a mini-batch in N rows.

    :param num_data: N, the size of the whole data set. :param bound_of: ``"data"``: sums over the data
        plate stand for all N data; ``"batch"``: the same times B / N, the share of the mini-batch.
    """

    num_data: int
    bound_of: str = "data"

    def __post_init__(self) -> None:
        checks.count("num_data", self.num_data)
        checks.known("bound_of", self.bound_of, ("data", "batch"))

    @contextmanager
    def of(self, x: Tensor) -> Iterator[pyro.plate]:
        """Scale everything in the body to the bound, and yield the plate of the rows of ``x`` [B, ...]."""
        rows = len(x)
        if not 0 < rows <= self.num_data:
            raise InputError(f"x: expected from 1 to num_data = {self.num_data} rows, got {rows}")
        # Only the number of rows matters; given indices spare Pyro a draw of N numbers.
        subsample = torch.arange(rows, device=x.device)
        scale = rows / self.num_data if self.bound_of == "batch" else 1.0
        with poutine.scale(scale=scale):
            yield pyro.plate("data", self.num_data, subsample=subsample)


class PredictiveModel(Module):
    """The predictive distribution of an observation under the guide's weights, as a model::

        z ~ p(z),   x ~ ∫ q(w) p(x | z, w) dw      with one w ~ q(w) for each draw of z

    Use it for everything that is measured per observation. With the local guide, ``log_likelihood`` estimates
    log ∫ q(w) p(x|w) dw, and ``evaluate_bound`` estimates a lower bound of it. The weights are not sites
    here. All rows of a pass share the weights of a draw, so the errors of different rows are not independent.
    The density differs from call to call, which annealed importance sampling does not allow; use the decoder
    with the mean weights there.

    Sites: ``z`` [N, d] and ``x`` [N, D], inside the plate ``data``.
    """

    def __init__(self, network: Weightless, prior: Prior, weights: GaussianWeights) -> None:
        super().__init__()
        self.network = network
        self.prior = prior
        self.weights = weights
        self.latent_size = prior.latent_size

    def forward(self, x: Tensor) -> Tensor:
        """Observe each row of ``x`` [N, D]; return the latents [N, d]."""
        register("prior", self.prior)
        register("weights", self.weights)
        with pyro.plate("data", x.shape[0]):
            z: Tensor = pyro.sample("z", self.prior(x))
            likelihood = self.network(self.weights.draw(z.shape[:-2]), self.prior.code(z))
            observe(likelihood, x)
        return z


class FullBayesGuide(Module):
    """The guide of Kingma and Welling (2014), appendix F, with the denoising criterion::

        w ~ N(loc, diag scale²), scale = softplus(raw);   x̃_n ~ p_π(x̃ | x_n),  z_n ~ q(z | x̃_n)

    :param guide: any amortised guide for the latents of an observation; it is not copied.
    :param decoder: the module that :class:`~pyro_dvae.models.bayes.FullBayesModel` was given.
    :param num_data: N, as the model's.
    :param start: a module like ``decoder`` (a trained one) whose weights the means start from; by default
        ``decoder`` itself.
    :param initial_scale: standard deviation of every weight at the start.
    :param bound_of: as the model's.
    :raises InputError: if an argument is invalid, or the weights of ``start`` do not match ``decoder``.
    """

    def __init__(
        self,
        guide: AmortisedGuide,
        decoder: nn.Module,
        num_data: int,
        *,
        start: nn.Module | None = None,
        initial_scale: float = 0.01,
        bound_of: str = "data",
    ) -> None:
        super().__init__()
        checks.instance("guide", guide, AmortisedGuide, "a pyro_dvae amortised guide")
        checks.module("decoder", decoder)
        require_fitting_guide(guide, decoder)
        checks.optional(checks.module, "start", start)
        start = decoder if start is None else start
        wanted, got = _shapes(decoder), _shapes(start)
        for name in [*wanted, *got]:
            if wanted.get(name) != got.get(name):
                raise InputError(
                    f"start: expected weight {name!r} of shape {wanted.get(name)}, got {got.get(name)}"
                )
        self.guide = guide
        self.weights = GaussianWeights(start, initial_scale)
        self.share = Share(num_data, bound_of)

    def forward(self, x: Tensor) -> Tensor:
        """Sample the weights, and the corruption and latents of each row of ``x`` [B, D]; return z [B, d]."""
        register("weights", self.weights)
        self.guide.register()
        with self.share.of(x) as data:
            self.weights.sample()
            with data:
                return self.guide.sample(self.guide.corrupted(x))


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in trainable(module).items()}


class FullBayesModel(Module):
    """Full variational Bayes, the model of Kingma and Welling (2014), appendix F::

        w ~ p(w);   z_n ~ p(z),  x_n ~ p(x | z_n, w)   for n = 1 .. N

    Sites: one for each trainable parameter of the decoder, ``decoder.NAME``, outside the plate ``data``;
    ``z`` [B, d] and ``x`` [B, D] inside it, B rows of N. An ELBO of it, with a guide such as
    :class:`~pyro_dvae.models.bayes.FullBayesGuide`, bounds log p(x_1, .., x_N), the evidence of the whole
    data set. Mini-batches do not bias it: the divergence of the weights counts once, and each observation
    N / B times. Each draw has its own weights.

    :param decoder: any module from z [..., d] to a distribution of x [..., D], with an attribute
        ``latent_size``. It is copied; its trainable parameters become sites, frozen ones stay as they are.
    :param num_data: N.
    :param prior: of the latents of an observation; the standard normal by default.
    :param weight_prior: of each weight: a :class:`~pyro_dvae.models.bayes.WeightPrior`, or the standard
        deviation of a normal one.
    :param bound_of: ``"data"`` as above; ``"batch"`` multiplies the bound by B / N, so that it refers to one
        mini-batch, as :func:`pyro_dvae.fit` reports it. The guide must use the same value.
    :raises InputError: if an argument is invalid, or a batch has more than N rows.
    """

    def __init__(
        self,
        decoder: nn.Module,
        num_data: int,
        *,
        prior: Prior | None = None,
        weight_prior: float | WeightPrior = 1.0,
        bound_of: str = "data",
    ) -> None:
        super().__init__()
        self.network = Weightless(decoder)
        self.prior = checked_prior(decoder, prior)
        self.latent_size = self.prior.latent_size
        self.weight_prior: WeightPrior = (
            weight_prior
            if isinstance(weight_prior, WeightPrior)
            else NormalWeight(checks.positive_single("weight_prior", weight_prior))
        )
        self.share = Share(num_data, bound_of)

    def forward(self, x: Tensor) -> Tensor:
        """Observe the rows of ``x`` [B, D]; return the latents [B, d]."""
        register("prior", self.prior)
        with self.share.of(x) as data:
            weights = {name: pyro.sample(f"{SITE}.{name}", prior) for name, prior in self.priors(x).items()}
            with data:
                z: Tensor = pyro.sample("z", self.prior(x))
                observe(self.network(weights, self.prior.code(z)), x)
        return z

    def priors(self, like: Tensor) -> dict[str, dist.Independent]:
        """Return p(w) of each weight by name, all of its dimensions in the event."""
        one = self.weight_prior.one(like)
        return {name: one.expand(shape).to_event(len(shape)) for name, shape in self.network.shapes.items()}


class FullBayes(Module):
    """A model and a guide that learn a distribution of the decoder's weights::

        log p(x_1..x_N) ≥ −KL(q(w) ‖ p(w)) + E_q(w) Σ_n L_dvae(x_n; w)

    (Kingma and Welling 2014, appendix F, with the denoising bound of each observation.) Use
    ``TraceDenoising_ELBO``, or ``TraceMeanFieldDenoising_ELBO``, which computes the divergence of the weights
    in closed form. Importance-weighted bounds need the whole data set at once and refuse mini-batches.

    Measures per observation use ``predictive()`` and ``guide.guide``::

        dv.log_likelihood(bayes.predictive(), bayes.guide.guide, x)

    :param decoder: any module from z [..., d] to a distribution of x, with an attribute ``latent_size``.
    :param guide: any amortised guide.
    :param num_data: N, the number of rows of the whole data set.
    :param prior: prior of the latents of an observation; by default the standard normal.
    :param weight_prior: prior of each weight: a :class:`~pyro_dvae.models.bayes.WeightPrior`, or the standard
        deviation of a normal prior.
    :param start: module like ``decoder`` whose weights are the initial means; by default ``decoder``.
    :param initial_scale: initial standard deviation of every weight.
    :param bound_of: ``"data"``, or ``"batch"`` for the share B / N of a mini-batch, as ``fit`` expects.
    """

    def __init__(
        self,
        decoder: nn.Module,
        guide: AmortisedGuide,
        num_data: int,
        *,
        prior: Prior | None = None,
        weight_prior: float | WeightPrior = 1.0,
        start: nn.Module | None = None,
        initial_scale: float = 0.01,
        bound_of: str = "data",
    ) -> None:
        super().__init__()
        self.model = FullBayesModel(
            decoder, num_data, prior=prior, weight_prior=weight_prior, bound_of=bound_of
        )
        self.guide = FullBayesGuide(
            guide, decoder, num_data, start=start, initial_scale=initial_scale, bound_of=bound_of
        )

    @classmethod
    def from_trained(
        cls, model: LatentVariableModel, guide: AmortisedGuide, num_data: int, **settings: Any
    ) -> FullBayes:
        """Return a ``FullBayes`` that starts from a trained pair, with the decoder's weights as means.

        :param settings: ``weight_prior``, ``initial_scale``, ``bound_of``.
        """
        return cls(model.decoder, guide, num_data, prior=model.prior, **settings)

    def predictive(self) -> PredictiveModel:
        """Return the model of new observations, with weights drawn from the guide; parameters are shared."""
        return PredictiveModel(self.model.network, self.model.prior, self.guide.weights)

    def mean_decoder(self) -> nn.Module:
        """Return an ordinary decoder whose weights are copies of the current means."""
        return self.model.network.with_weights(self.guide.weights.means())
