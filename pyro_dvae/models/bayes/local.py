"""Full variational Bayes with local reparameterisation: noise of units instead of weights."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import linear

from pyro_dvae.distributions.divergence import closed_form_kl
from pyro_dvae.errors import InputError
from pyro_dvae.models.bayes.full_bayes import FullBayes
from pyro_dvae.models.dvae import observe
from pyro_dvae.registration import Module, register


class NoisyLinear(nn.Module):
    """A linear layer with independent normal weights that draws its output for each row.

    The scales are the standard deviations of weight and bias; they are arguments of ``functional_call``.
    """

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None
    bias_scale: Tensor | None

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        for name, value in layer.named_parameters():
            self.register_parameter(name, value)
            self.register_parameter(f"{name}_scale", nn.Parameter(torch.zeros_like(value)))
        if layer.bias is None:
            self.bias = self.bias_scale = None

    def forward(self, h: Tensor) -> Tensor:
        """Return a draw of the output [..., out] of ``h`` [..., in]."""
        loc = linear(h, self.weight, self.bias)
        bias = None if self.bias_scale is None else self.bias_scale.square()
        variance = linear(h.square(), self.weight_scale.square(), bias)
        # The slope of the root is infinite at 0, where all inputs of a layer without bias may lie.
        return loc + variance.clamp_min(torch.finfo(loc.dtype).tiny).sqrt() * torch.randn_like(loc)


class LocallyReparameterised(Module):
    """The model of full variational Bayes with local reparameterisation (Kingma, Salimans and Welling 2015)::

        w_ij ~ N(m_ij, s_ij²), one draw for a batch
        becomes  a_ni ~ N(Σ_j m_ij h_nj, Σ_j s_ij² h_nj²), one draw for each row

    Each row has its own noise, so the gradient of a mini-batch varies less. The expectation of the bound is
    the same. Train this model with the guide ``bayes.guide.guide``. The weights are not sites; their
    divergence from the prior is a factor, in closed form if there is one, else from one draw. The model
    shares its parameters with ``bayes``, so ``bayes.predictive()`` and ``bayes.mean_decoder()`` still work.
    The density differs from call to call, like that of the predictive model.

    Sites: the factor ``weights`` outside the plate; ``z`` [B, d] and ``x`` [B, D] inside it. The bound is of
    a mini-batch, as with ``bound_of="batch"``.

    :param bayes: the pair whose weights are trained.
    :raises InputError: the decoder learns weights that do not belong to a ``torch.nn.Linear``.
    """

    def __init__(self, bayes: FullBayes) -> None:
        super().__init__()
        self.bayes = bayes
        self.latent_size = bayes.model.latent_size
        decoder = bayes.mean_decoder()
        layers = {name: one for name, one in decoder.named_modules() if isinstance(one, nn.Linear)}
        known = {f"{name}.{part}" for name in layers for part in ("weight", "bias")}
        if odd := sorted(set(bayes.guide.weights.names) - known):
            raise InputError(
                f"bayes: local reparameterisation needs weights of torch.nn.Linear layers, got {odd[0]!r}; "
                "train bayes.model with bayes.guide instead"
            )
        for name, layer in layers.items():
            owner, _, leaf = name.rpartition(".")
            setattr(decoder.get_submodule(owner), leaf, NoisyLinear(layer))
        self.decoder = decoder.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Observe the rows of ``x`` [B, D]; return the latents [B, d]."""
        model, weights = self.bayes.model, self.bayes.guide.weights
        register("prior", model.prior)
        register("weights", weights)
        pyro.factor("weights", -self.divergence(x) * len(x) / model.share.num_data)
        with pyro.plate("data", len(x)):
            z: Tensor = pyro.sample("z", model.prior(x))
            scales = {f"{name}_scale": scale for name, scale in weights.scales().items()}
            code = model.prior.code(z)
            observe(functional_call(self.decoder, weights.means() | scales, (code,)), x)
        return z

    def divergence(self, like: Tensor) -> Tensor:
        """Return KL(q(w) ‖ p(w)) of all weights (nats), or an unbiased estimate of it."""
        priors: dict[str, Any] = self.bayes.model.priors(like)
        found = like.new_zeros(())
        for name, q in self.bayes.guide.weights.distributions().items():
            exact = closed_form_kl(q, priors[name])
            if exact is None:
                drawn = q.rsample()
                exact = q.log_prob(drawn) - priors[name].log_prob(drawn)
            found = found + exact
        return found
