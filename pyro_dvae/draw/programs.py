"""DRAW's model and guide for Pyro."""

from __future__ import annotations

import pyro
from torch import Tensor

from pyro_dvae.corruptions import Corruption, NoCorruption
from pyro_dvae.draw.networks import DrawDecoder, DrawEncoder
from pyro_dvae.errors import InputError
from pyro_dvae.priors import StandardNormal
from pyro_dvae.registration import Module, register
from pyro_dvae.sites import corrupt


class DrawModel(Module):
    """``z_t ~ N(0, I)`` for t = 1 .. T, ``x ~ Bernoulli(sigmoid(c_T))`` by the generative recurrence.

    Sites: ``z1`` .. ``zT`` [N, d] each and ``x`` [N, D], inside the plate ``data``.

    :param decoder: the recurrence, with ``steps`` and ``latent_size``.
    """

    def __init__(self, decoder: DrawDecoder) -> None:
        super().__init__()
        self.decoder = decoder
        self.prior = StandardNormal(decoder.latent_size)

    def forward(self, x: Tensor) -> Tensor:
        """Observe each row of ``x`` [N, D]; return the last canvas (logits) [N, D]."""
        register("decoder", self.decoder)
        drawing = self.decoder.start()
        with pyro.plate("data", x.shape[0]):
            for step in range(1, self.decoder.steps + 1):
                z = pyro.sample(f"z{step}", self.prior(x))
                drawing = self.decoder(z, drawing)
            pyro.sample("x", self.decoder.likelihood(drawing.canvas), obs=x)
        return drawing.canvas


class DrawGuide(Module):
    """Corrupt ``x``, then ``z_t ~ q(z_t | x̃, z_1..z_{t−1})`` for t = 1 .. T by the recognition recurrence.

    What it reads at step t is x̃ beside the canvas that its own z_1 .. z_{t−1} draw, so it runs the model's
    decoder too; clean ``x`` it never sees. The latents are a chain: bounds with sampled or closed-form KL
    terms apply, importance-weighted ones with ``gradient="pathwise"``.

    Sites: ``x_tilde`` [N, D] (auxiliary) and ``z1`` .. ``zT`` [N, d] each, inside the plate ``data``.

    :param encoder: the recognition recurrence.
    :param decoder: the decoder of the model, the same object.
    :param corruption: the corruption of the encoder's input; none by default.
    """

    def __init__(
        self, encoder: DrawEncoder, decoder: DrawDecoder, corruption: Corruption | None = None
    ) -> None:
        super().__init__()
        corruption = NoCorruption() if corruption is None else corruption
        if not isinstance(corruption, Corruption):
            raise InputError(f"corruption: expected a pyro_dvae corruption, got {type(corruption).__name__}")
        self.encoder = encoder
        self.decoder = decoder
        self.corruption = corruption

    def forward(self, x: Tensor) -> list[Tensor]:
        """Sample the corruption and the latents of each row of ``x`` [N, D]; return z_1 .. z_T."""
        register("x_tilde", self.corruption)
        register("encoder", self.encoder)
        register("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            return self.sample(corrupt("x_tilde", self.corruption, x))

    def sample(self, x_tilde: Tensor) -> list[Tensor]:
        """Sample the latents given corrupted data [..., D]."""
        drawing, state = self.decoder.start(), self.encoder.start()
        latents: list[Tensor] = []
        for step in range(1, self.decoder.steps + 1):
            if latents:
                drawing = self.decoder(latents[-1], drawing)
            state = self.encoder(x_tilde, drawing, state)
            latents.append(pyro.sample(f"z{step}", self.encoder.posterior(state)))
        return latents
