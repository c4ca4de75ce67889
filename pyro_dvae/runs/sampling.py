"""Images drawn from the model of a finished run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyro
import torch

from pyro_dvae import checks, plots
from pyro_dvae.errors import InputError
from pyro_dvae.files import replacing, user_path
from pyro_dvae.random_state import forked
from pyro_dvae.runs.folder import load_run
from pyro_dvae.runs.pictures import prior_draws, prior_means


def save_samples(
    folder: str | Path, output: str | Path | None, count: int, seed: int, pixels: bool = False
) -> Path:
    """Draw ``count`` images from the best epoch's model into a picture, or an array [count, D].

    :param folder: the run folder.
    :param output: a ``.png`` or ``.npy`` file; None for ``samples.png`` in the run folder.
    :param count: number of images.
    :param seed: seed of the draws.
    :param pixels: draw pixels from the likelihood; otherwise take their means.
    """
    checks.count("count", count, 1, 100_000)
    folder = user_path("run", folder)
    output = folder / "samples.png" if output is None else user_path("output", output)
    if output.suffix not in (".png", ".npy"):
        raise InputError(f"output: expected a file ending in .png or .npy, got {output}")
    dvae, config = load_run(folder)
    like = torch.zeros(1, config["data"]["dimension"])
    with forked(checks.count("seed", seed, minimum=0)), pyro.settings.context(module_local_params=True):
        images = (prior_draws if pixels else prior_means)(dvae.model, like, count)
    if output.suffix == ".png":
        kind = "Draws" if pixels else "Pixel means of latents drawn"
        title = f"{kind} from the prior, {config['data']['name']}"
        return plots.image_grid(output, images, tuple(config["data"]["image_shape"]), title=title)
    with replacing(output) as partial, open(partial, "wb") as file:
        np.save(file, images.numpy(), allow_pickle=False)
    return output
