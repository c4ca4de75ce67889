"""A generative network whose weights are latents of the whole data set."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from pyro_dvae import checks
from pyro_dvae.bayes.batches import Share
from pyro_dvae.bayes.skeleton import Skeleton
from pyro_dvae.bayes.weights import SITE
from pyro_dvae.errors import InputError
from pyro_dvae.priors import Prior, StandardNormal
from pyro_dvae.registration import Module, register


class FullBayesModel(Module):
    """Full variational Bayes, the model of Kingma and Welling (2014), appendix F::

        w ~ N(0, prior_scale² I);   z_n ~ p(z),  x_n ~ p(x | z_n, w)   for n = 1 .. N

    Sites: one for each trainable parameter of the decoder, ``decoder.NAME``, outside the plate ``data``;
    ``z`` [B, d] and ``x`` [B, D] inside it, B rows of N. An ELBO of it, with a guide such as
    :class:`~pyro_dvae.bayes.FullBayesGuide`, bounds log p(x_1, .., x_N), the evidence of the whole data set,
    without bias from a mini-batch: the divergence of the weights counts once, each datum N / B times.
    Of several draws, each has weights of its own.

    :param decoder: any module from z [..., d] to a distribution of x [..., D], with an attribute
        ``latent_size``. It is copied; its trainable parameters become sites, frozen ones stay as they are.
    :param data_count: N.
    :param prior: of the latents of a datum; the standard normal by default.
    :param prior_scale: standard deviation of the weights' prior.
    :param bound_of: ``"data"`` as above; ``"batch"`` multiplies the whole by B / N, so that a loss is of the
        size of a mini-batch's, as :func:`pyro_dvae.fit` shows it. The guide must have the same.
    :raises InputError: an argument is not as described, or a batch has more than N rows.
    """

    def __init__(
        self,
        decoder: nn.Module,
        data_count: int,
        *,
        prior: Prior | None = None,
        prior_scale: float = 1.0,
        bound_of: str = "data",
    ) -> None:
        super().__init__()
        self.skeleton = Skeleton(decoder)
        self.latent_size = checks.count("decoder.latent_size", getattr(decoder, "latent_size", None))
        self.prior: Prior = StandardNormal(self.latent_size)
        if prior is not None:
            self.prior = checks.instance("prior", prior, Prior, "a pyro_dvae prior")
        if self.prior.latent_size != self.latent_size:
            raise InputError(
                f"prior: expected latents of size {self.latent_size}, as the decoder takes, "
                f"got {self.prior.latent_size}"
            )
        self.prior_scale = checks.positive_single("prior_scale", prior_scale)
        self.share = Share(data_count, bound_of)

    def forward(self, x: Tensor) -> Tensor:
        """Observe the rows of ``x`` [B, D]; return the latents [B, d]."""
        register("prior", self.prior)
        with self.share.of(x) as data:
            weights = {name: pyro.sample(f"{SITE}.{name}", prior) for name, prior in self._priors(x).items()}
            with data:
                z: Tensor = pyro.sample("z", self.prior(x))
                pyro.sample("x", self.skeleton(weights, self.prior.code(z)), obs=x)
        return z

    def _priors(self, like: Tensor) -> dict[str, dist.Independent]:
        one = dist.Normal(like.new_zeros(()), like.new_full((), self.prior_scale))
        return {name: one.expand(shape).to_event(len(shape)) for name, shape in self.skeleton.shapes.items()}
