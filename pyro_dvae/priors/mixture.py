"""Mixtures of Gaussians as priors: two narrow Gaussians per latent, and learned mixtures (VampPrior)."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_dvae import checks
from pyro_dvae.calling import calling
from pyro_dvae.distributions import Mixture
from pyro_dvae.errors import InputError
from pyro_dvae.guides import GaussianGuide
from pyro_dvae.guides.base import AmortisedGuide
from pyro_dvae.priors.base import Prior


class GaussianPair(Prior):
    """A prior with each latent near 0 or near ``separation``, which favours binary codes::

        p(z) = Π_i [ ½ N(z_i; 0, scale²) + ½ N(z_i; separation, scale²) ]

    Narrower Gaussians give codes closer to binary, but latents then rarely change sides during training. If
    separation / scale is 2 or less, the density has a single mode.

    :param latent_size: d.
    :param separation: positive distance between the two means.
    :param scale: positive standard deviation of each Gaussian.
    """

    def __init__(self, latent_size: int, separation: float = 1.0, scale: float = 0.2) -> None:
        super().__init__(latent_size)
        self.separation = checks.positive_single("separation", separation)
        self.scale = checks.positive_single("scale", scale)

    def forward(self, like: Tensor) -> dist.Independent:
        loc = torch.stack([like.new_zeros(()), like.new_full((), self.separation)])
        pair = dist.Normal(loc, like.new_full((), self.scale))
        weights = dist.Categorical(logits=like.new_zeros(2))
        return Mixture(weights, pair).expand([self.latent_size]).to_event(1)


class MixturePrior(Prior):
    """A mixture of diagonal Gaussians whose weights, locations and scales are learned::

        p(z) = Σ_k w_k N(z; loc_k, diag scale_k²)

    The initial weights are equal, the scales 1, and the locations drawn from N(0, I).

    :param latent_size: d.
    :param components: K, the number of Gaussians.
    """

    def __init__(self, latent_size: int, components: int = 10) -> None:
        super().__init__(latent_size)
        self.components = checks.count("components", components)
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(torch.randn(components, latent_size))
        self.log_scale = nn.Parameter(torch.zeros(components, latent_size))

    def forward(self, like: Tensor) -> Mixture:
        loc, scale = self.loc.to(like), self.log_scale.to(like).exp()
        return Mixture(dist.Categorical(logits=self.logits.to(like)), dist.Normal(loc, scale).to_event(1))


class VampPrior(Prior):
    """The mixture of a recognition network's posteriors at K learned inputs (Tomczak and Welling 2018)::

        p(z) = 1/K Σ_k q_φ(z | u_k)

    If ``posterior`` is the model's own guide, its network is trained through both the prior and the guide.
    The pseudo-inputs are free parameters and not restricted to [0, 1].

    :param posterior: an amortised guide with one latent site; its corruption is not used.
    :param pseudo_inputs: initial values of u_k, [K, D] or [K, ...]: rows of the data, or similar random
        numbers.
    """

    def __init__(self, posterior: AmortisedGuide, pseudo_inputs: Tensor) -> None:
        checks.instance("posterior", posterior, AmortisedGuide, "an amortised guide")
        checks.finite("pseudo_inputs", checks.floating("pseudo_inputs", pseudo_inputs))
        if pseudo_inputs.dim() < 2:
            raise InputError(
                f"pseudo_inputs: expected shape [components, data_size], got {tuple(pseudo_inputs.shape)}"
            )
        inputs = posterior.encoder_input(pseudo_inputs, pseudo_inputs.dim() - 1)
        with torch.no_grad(), calling("posterior, pseudo_inputs"):
            latent_size = posterior.posterior(inputs).event_shape[-1]
        super().__init__(latent_size)
        self.posterior = posterior
        self.pseudo_inputs = nn.Parameter(inputs.detach().clone())

    @classmethod
    def of_sizes(cls, data_size: int, latent_size: int, components: int = 100) -> VampPrior:
        """Return the prior with its own Gaussian recognition network and random pseudo-inputs in [0, 1]."""
        data_size = checks.count("data_size", data_size)
        posterior = GaussianGuide.of_sizes(data_size, latent_size)
        return cls(posterior, torch.rand(checks.count("components", components), data_size))

    def forward(self, like: Tensor) -> Mixture:
        inputs = self.pseudo_inputs.to(like)
        weights = dist.Categorical(logits=inputs.new_zeros(len(inputs)))
        return Mixture(weights, self.posterior.posterior(inputs))
