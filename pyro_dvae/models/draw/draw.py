"""DRAW's model and guide for Pyro, and a class with both."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import torch
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.corruptions import Corruption, NoCorruption
from pyro_dvae.errors import InputError
from pyro_dvae.guides.base import event_dimensions
from pyro_dvae.models.draw.networks import DrawDecoder, DrawEncoder, decoder_of, encoder_of
from pyro_dvae.models.dvae import observe
from pyro_dvae.networks.sizes import require_fitting
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
            observe(self.decoder.likelihood(drawing.canvas), x)
        return drawing.canvas


class DrawGuide(Module):
    """Corrupt ``x``, then ``z_t ~ q(z_t | x̃, z_1..z_{t−1})`` for t = 1 .. T by the recognition recurrence.

    At step t it reads x̃ and the canvas drawn from z_1 .. z_{t−1}, so it also runs the model's decoder. It
    never sees clean ``x``. The latents form a chain. Bounds with sampled or closed-form KL terms apply, and
    importance-weighted bounds with ``gradient="pathwise"``.

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
        require_fitting(encoder, decoder, corruption)
        self.encoder = encoder
        self.decoder = decoder
        self.corruption = corruption

    def forward(self, x: Tensor) -> list[Tensor]:
        """Sample the corruption and the latents of each row of ``x`` [N, D]; return z_1 .. z_T."""
        register("x_tilde", self.corruption)
        register("encoder", self.encoder)
        register("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]) as rows:
            event_dim = event_dimensions(x, None, len(rows))
            return self.sample(corrupt("x_tilde", self.corruption, x, event_dim).flatten(-event_dim))

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


class DRAW(Module):
    """The deep recurrent attentive writer of Gregor et al. (2015), with the denoising criterion.

    An image is drawn on a canvas in T steps, each with its own latent. ``.model`` and ``.guide`` are
    callables of the data [N, D] for any SVI script, bound or evaluation, and modules for ``elbo(draw.model,
    draw.guide)``::

        draw = dv.DRAW(image_shape=(28, 28), steps=10, corruption=dv.SaltAndPepper(0.05))
        svi = SVI(draw.model, draw.guide, Adam({"lr": 1e-3}), dv.TraceMeanFieldDenoising_ELBO())

    With a corruption the recognition network reads only x̃, while the likelihood is that of clean x (Im et
    al. 2017). The bound per observation, in nats, is E [log p(x | c_T) − Σ_t KL(q(z_t | x̃, z_1..z_{t−1}) ‖
    N(0, I))].

    :param image_shape: (height, width); D is their product, row by row.
    :param steps: T.
    :param hidden_size: size of both recurrent networks.
    :param latent_size: d, of each z_t.
    :param attention: read and write patches through Gaussian filters instead of whole images.
    :param read_size: N of the patch read; with attention only.
    :param write_size: N of the patch written; with attention only.
    :param cell: ``"lstm"``, as in the paper, or ``"gru"``.
    :param corruption: the corruption of the recognition network's input; none by default.
    """

    def __init__(
        self,
        *,
        image_shape: Sequence[int],
        steps: int = 10,
        hidden_size: int = 256,
        latent_size: int = 10,
        attention: bool = True,
        read_size: int = 5,
        write_size: int = 5,
        cell: str = "lstm",
        corruption: Corruption | None = None,
    ) -> None:
        super().__init__()
        shape = _shape(image_shape)
        hidden_size = checks.count("hidden_size", hidden_size)
        reading, writing = checks.count("read_size", read_size), checks.count("write_size", write_size)
        if not checks.flag("attention", attention):
            reading = writing = 0
        decoder = decoder_of(shape, latent_size, hidden_size, steps=steps, cell=cell, size=writing)
        encoder = encoder_of(shape, latent_size, hidden_size, cell=cell, size=reading)
        self.image_shape = shape
        self.model = DrawModel(decoder)
        self.guide = DrawGuide(encoder, decoder, corruption)

    @torch.no_grad()
    def sample(self, count: int) -> Tensor:
        """Draw ``count`` images from the prior; return the pixel means after each step, [T, count, D]."""
        decoder = self.model.decoder
        like = decoder.first_canvas
        drawing, canvases = decoder.start(), []
        for _ in range(decoder.steps):
            z = torch.randn(
                checks.count("count", count), decoder.latent_size, dtype=like.dtype, device=like.device
            )
            drawing = decoder(z, drawing)
            canvases.append(drawing.canvas.sigmoid())
        return torch.stack(canvases)

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Redraw clean ``x`` [..., D] from posterior means; return pixel means [T, ..., D]."""
        decoder, encoder = self.model.decoder, self.guide.encoder
        drawing, state, canvases = decoder.start(), encoder.start(), []
        for _ in range(decoder.steps):
            state = encoder(x, drawing, state)
            drawing = decoder(encoder.posterior(state).mean, drawing)
            canvases.append(drawing.canvas.sigmoid())
        return torch.stack(canvases)


def _shape(image_shape: Sequence[int]) -> tuple[int, int]:
    try:
        height, width = image_shape
    except (TypeError, ValueError):
        raise InputError(f"image_shape: expected (height, width), got {image_shape!r}") from None
    return checks.count("image_shape", height), checks.count("image_shape", width)
