"""Colour patches in bits: discretised logistics compared with PNG and a full-covariance Gaussian.

    python examples/colour_patches.py

16 × 16 × 3 patches of scikit-learn's two photographs; train on the left of both, test on the right. Each byte
has a probability, a mixture of discretised logistics given the latents, so the bound is a code length in bits
per dimension, comparable with PNG's and with published ones. The Gaussian is fitted to bytes with uniform
noise, whose density also bounds the code length (Theis et al. 2016). The picture shows test patches,
reconstructions from a noisy copy, and patches drawn from the model and from the Gaussian.
"""

import io
import math
from pathlib import Path

import click
import numpy as np
import pyro
import torch
from torch import Tensor

import pyro_dvae as dv
from pyro_dvae import plots
from pyro_dvae.evaluation import bits_per_dim
from pyro_dvae.jobs.command import Command
from pyro_dvae.networks import ConvolutionalDecoder, ConvolutionalEncoder

SIDE = 16
SHAPE = (3, SIDE, SIDE)
D = math.prod(SHAPE)


def patches(count: int) -> tuple[Tensor, Tensor]:
    """Return random patches of the left three quarters, and all of the right, each [N, 768] in [0, 1]."""
    from sklearn.datasets import load_sample_images

    photos = [torch.as_tensor(np.array(photo)).permute(2, 0, 1) for photo in load_sample_images().images]
    cut = photos[0].shape[2] * 3 // 4
    train = []
    for index in range(count):
        photo = photos[index % 2]
        top = int(torch.randint(photo.shape[1] - SIDE + 1, ()))
        left = int(torch.randint(cut - SIDE + 1, ()))
        train.append(photo[:, top : top + SIDE, left : left + SIDE].reshape(-1))
    tiles = [photo[:, :, cut:].unfold(1, SIDE, SIDE).unfold(2, SIDE, SIDE) for photo in photos]
    test = torch.cat([tile.permute(1, 2, 0, 3, 4).reshape(-1, D) for tile in tiles])
    return torch.stack(train) / 255, test / 255


def png_bits(rows: Tensor) -> float:
    """Return bits per dimension of the patches, side by side in one PNG."""
    from PIL import Image

    tiles = (rows * 255).round().byte().reshape(-1, *SHAPE).permute(0, 2, 3, 1)
    buffer = io.BytesIO()
    image = tiles.transpose(0, 1).reshape(SIDE, -1, 3)
    Image.fromarray(image.numpy()).save(buffer, "PNG", optimize=True)
    return 8 * len(buffer.getvalue()) / rows.numel()


def gaussian(train: Tensor) -> torch.distributions.MultivariateNormal:
    """Return the full-covariance Gaussian of dequantised rows."""
    noisy = dequantised(train)
    ridge = 1e-5 * torch.eye(D, dtype=torch.float64)
    return torch.distributions.MultivariateNormal(noisy.mean(0), noisy.T.cov() + ridge)


def dequantised(rows: Tensor) -> Tensor:
    """Return bytes with uniform noise, in [0, 1]."""
    return (rows.double() * 255 + torch.rand(rows.shape, dtype=torch.float64)) / 256


@click.command(cls=Command)
@click.option("--train", "count", default=20_000, show_default=True, help="Training patches.")
@click.option("--test", "tested", default=None, type=int, help="First test patches.  [default: all]")
@click.option("--noise", default=0.02, show_default=True, help="Scale of the Gaussian noise.")
@click.option("--epochs", default=30, show_default=True, help="Passes over the patches.")
@click.option("--channels", default=32, show_default=True, help="Maps of the first convolution.")
@click.option("--latent-size", default=64, show_default=True, help="Latents.")
@click.option("--seed", default=0, show_default=True, help="Seed.")
@click.option("--checkpoint", help="File to save the training in, and to resume from.")
@click.option("--output", default="colour_patches.png", show_default=True, help="The picture.")
def main(
    count: int,
    tested: int | None,
    noise: float,
    epochs: int,
    channels: int,
    latent_size: int,
    seed: int,
    checkpoint: str | None,
    output: str,
) -> None:
    """Train on patches of two photographs, and measure the code length of others."""
    pyro.set_rng_seed(seed)
    train, test = patches(count)
    test = test[:tested]
    maps = (channels, 2 * channels)
    encoder = ConvolutionalEncoder(D, latent_size, image_shape=SHAPE, channels=maps)
    decoder = ConvolutionalDecoder(
        D, latent_size, image_shape=SHAPE, channels=maps[::-1], likelihood="discretised-logistic-mixture"
    )
    pair = dv.DVAE(encoder, decoder, dv.GaussianNoise(noise))
    dv.fit(
        pair.model,
        pair.guide,
        train,
        loss=dv.TraceDenoising_ELBO(max_plate_nesting=1),
        epochs=epochs,
        schedule="step",
        clip_norm=100.0,
        seed=seed,
        compile=False,  # the mixture takes most of the time, and compiling does not speed it up
        checkpoint=checkpoint,
        resume=checkpoint is not None and Path(checkpoint).exists(),
    )
    bound = dv.TraceDenoisingIWAE_ELBO(num_particles=20, max_plate_nesting=1)
    found = dv.evaluate_bound(pair.model, pair.guide, test, loss=bound, seed=seed, batch_size=20)
    reference = gaussian(train)
    nats = -float(reference.log_prob(dequantised(test)).mean())
    print(f"{'PNG':<26}{png_bits(test):.3f} bits per dimension")
    print(f"{'full-covariance Gaussian':<26}{bits_per_dim(nats, D, levels=256):.3f} bits per dimension")
    print(f"{'denoising VAE':<26}{bits_per_dim(-found.mean, D):.3f} bits per dimension")
    shown = test[:: max(1, len(test) // 12)][:12]
    with torch.no_grad():
        redrawn = pair.decode(pair.encode(pair.guide.corruption(shown).sample())[0])
        drawn = pair.decode(torch.randn(12, latent_size))
    rows = {"test": shown, "redrawn from\na noisy copy": redrawn, "drawn from\nthe model": drawn}
    rows["drawn from\nthe Gaussian"] = reference.sample((12,)).float()
    picture(Path(output), rows)
    print(f"picture: {output}")


def picture(path: Path, rows: dict[str, Tensor]) -> None:
    """Draw a row of patches for each entry."""
    figure = plots.new_figure(10, 0.85 * len(rows) + 0.3, layout="constrained")
    grid = figure.subplots(len(rows), 12)
    for axes, (name, images) in zip(grid, rows.items(), strict=True):
        axes[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
        for each in axes:
            each.set(xticks=[], yticks=[])
            each.spines[:].set_visible(False)
        for each, image in zip(axes, images, strict=False):
            each.imshow(image.reshape(SHAPE).permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
    plots.write_figure(path, figure)


if __name__ == "__main__":
    main()
