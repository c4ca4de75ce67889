"""DRAW, ready made."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.corruptions import Corruption
from pyro_dvae.draw.networks import decoder_of, encoder_of
from pyro_dvae.draw.programs import DrawGuide, DrawModel
from pyro_dvae.errors import InputError
from pyro_dvae.registration import Module


class DRAW(Module):
    """The deep recurrent attentive writer of Gregor et al. (2015), with the denoising criterion.

    An image is drawn in T steps on a canvas, each from a latent of its own. ``.model`` and ``.guide`` are
    callables of the data [N, D] for any SVI script, bound or evaluation, and modules for ``elbo(draw.model,
    draw.guide)``::

        draw = dv.DRAW(image_shape=(28, 28), steps=10, corruption=dv.SaltAndPepper(0.05))
        svi = SVI(draw.model, draw.guide, Adam({"lr": 1e-3}), dv.TraceMeanFieldDenoising_ELBO())

    With a corruption the recognition network reads x̃ alone, and the likelihood is that of clean x (Im et al.
    2017). The bound per datum, in nats, is E [log p(x | c_T) − Σ_t KL(q(z_t | x̃, z_1..z_{t−1}) ‖ N(0, I))].

    :param image_shape: (height, width); D is their product, row by row.
    :param steps: T.
    :param hidden_size: of both recurrent networks.
    :param latent_size: d, of each z_t.
    :param attention: read and write patches through Gaussian filters, rather than whole images.
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
        checks.count("hidden_size", hidden_size)
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
        """Redraw ``x`` [..., D], read as it is, from posterior means; return pixel means [T, ..., D]."""
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
