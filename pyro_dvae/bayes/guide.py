"""The guide of a generative network's weights and of the latents of each datum."""

from __future__ import annotations

from torch import Tensor, nn

from pyro_dvae import checks
from pyro_dvae.bayes.batches import Share
from pyro_dvae.bayes.skeleton import trainable
from pyro_dvae.bayes.weights import GaussianWeights
from pyro_dvae.errors import InputError
from pyro_dvae.guides.base import AmortisedGuide
from pyro_dvae.registration import Module, register
from pyro_dvae.sites import corrupt


class FullBayesGuide(Module):
    """The guide of Kingma and Welling (2014), appendix F, with the denoising criterion::

        w ~ N(loc, diag scale²), scale = softplus(raw);   x̃_n ~ p_π(x̃ | x_n),  z_n ~ q(z | x̃_n)

    :param guide: any amortised guide, of the latents of a datum; used as it is, not copied.
    :param decoder: the module that :class:`~pyro_dvae.bayes.FullBayesModel` was given.
    :param data_count: N, as the model's.
    :param start: a module like ``decoder`` (a trained one) whose weights the means start from; by default
        ``decoder`` itself.
    :param initial_scale: standard deviation of every weight at the start.
    :param bound_of: as the model's.
    :raises InputError: an argument is not as described, or ``start`` has other weights than ``decoder``.
    """

    def __init__(
        self,
        guide: AmortisedGuide,
        decoder: nn.Module,
        data_count: int,
        *,
        start: nn.Module | None = None,
        initial_scale: float = 0.01,
        bound_of: str = "data",
    ) -> None:
        super().__init__()
        checks.instance("guide", guide, AmortisedGuide, "a pyro_dvae amortised guide")
        checks.module("decoder", decoder)
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
        self.share = Share(data_count, bound_of)

    def forward(self, x: Tensor) -> Tensor:
        """Sample the weights, and the corruption and latents of each row of ``x`` [B, D]; return z [B, d]."""
        register("weights", self.weights)
        self.guide.register()
        with self.share.of(x) as data:
            self.weights.sample()
            with data:
                return self.guide.sample(corrupt("x_tilde", self.guide.corruption, x))


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in trainable(module).items()}
