"""The prior of relaxed bits."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.corruptions.schedules import Schedule
from pyro_dvae.distributions import Logistic, Temperature
from pyro_dvae.priors.base import Prior
from pyro_dvae.priors.bernoulli import bit_logits


class ConcretePrior(Prior):
    """Relaxed bits: the binary Concrete distribution of Maddison et al. (2017), by its logits ``z``::

        z = (logit p + log u − log(1 − u)) / temperature,  u uniform in (0, 1);   code σ(z)

    Their appendix C takes the logit as the latent, too: at low temperatures σ(z) is 0 or 1 to the last
    digit, where its density is lost. σ(z) exceeds ½ with probability p at any temperature.

    :param latent_size: d.
    :param probability: p in (0, 1): a number, or a tensor [d].
    :param temperature: above 0, a number or a schedule moved by :meth:`set_epoch`.
    :param straight_through: the decoder sees the bit 1[z > 0], its gradient is that of σ(z) (Bengio et al.
        2013): the bound is then exact, for a model of bits, and the gradient of it biased.
    """

    logits: Tensor

    def __init__(
        self,
        latent_size: int,
        probability: float | Tensor = 0.5,
        *,
        temperature: float | Schedule = 0.5,
        straight_through: bool = False,
    ) -> None:
        super().__init__(latent_size)
        self.register_buffer("logits", bit_logits(self.latent_size, probability))
        self.temperature = Temperature(temperature)
        self.straight_through = checks.flag("straight_through", straight_through)

    def set_epoch(self, epoch: float) -> None:
        """Move a scheduled temperature to its value at ``epoch`` (0 for the first)."""
        self.temperature.set_epoch(epoch)

    def forward(self, like: Tensor) -> dist.Independent:
        temperature = self.temperature().to(like)
        return Logistic(self.logits.to(like) / temperature, 1 / temperature).to_event(1)

    def code(self, z: Tensor) -> Tensor:
        soft = z.sigmoid()
        if not self.straight_through:
            return soft
        return (z > 0).to(z.dtype) + (soft - soft.detach())
