"""How well the data come back from their codes."""

from __future__ import annotations

import torch
from pyro import poutine
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.evaluation.measures.codes import MeanCode, decoding_errors, gathered
from pyro_dvae.evaluation.measures.decoding import ReconstructionError
from pyro_dvae.evaluation.measures.passes import (
    Program,
    check_pair,
    chunks,
    data_plate,
    first_chunk,
    measuring,
)


def reconstruction_error(
    model: Program,
    guide: Program,
    x: Tensor,
    *,
    data_site: str = "x",
    num_samples: int = 10,
    clean: bool = True,
    seed: int | None = None,
    chunk: int | None = None,
) -> ReconstructionError:
    """Compare each row of ``x`` with the data decoded from its code, without a gradient.

    The model runs on codes of the guide in place of its latents; the reconstruction is the mean of the
    distribution at ``data_site``, and what it is compared with is the site's observed value. The mean code
    sets each latent in turn to the mean of the guide's distribution given the means before it, without a
    draw; it does not exist if that of any latent is not known (a flow) or is none (a category).

    :param model: Pyro model of a batch, with one data plate.
    :param guide: Pyro guide of a batch.
    :param x: data, shape [N, ...].
    :param data_site: name of the model's observed site to compare.
    :param num_samples: sampled codes of each datum.
    :param clean: give the guide clean input; else it is corrupted by a draw of its own for every code.
    :param seed: draw from a stream of its own that starts here; None draws from the global one.
    :param chunk: rows of ``x`` at a time; by default 2,000.
    :raises InputError: ``x`` is empty or not finite, there is no such site, its mean is not known, or a
        Bernoulli site observes values outside [0, 1].
    """
    checks.data("x", x)
    checks.count("num_samples", num_samples)
    mean_parts: list[tuple[Tensor, Tensor | None]] = []
    sampled_parts: list[tuple[Tensor, Tensor | None]] = []
    plate = ""
    with measuring(model, guide, first_chunk(x, chunk), clean, seed):
        for rows in chunks(x, chunk):
            if not plate:
                draws = check_pair(model, guide, rows)
                plate = data_plate(draws, len(rows))
                checks.known(
                    "data_site", data_site, [s["name"] for s in draws.model_sites() if s["is_observed"]]
                )
            setter = MeanCode()
            with setter:
                trace = poutine.trace(guide).get_trace(rows)
            if not setter.unknown:
                mean_parts.append(decoding_errors(model, trace, rows, data_site, plate))
            runs = (poutine.trace(guide).get_trace(rows) for _ in range(num_samples))
            drawn = [decoding_errors(model, trace, rows, data_site, plate) for trace in runs]
            entropies = [cross for _, cross in drawn if cross is not None]
            squared = torch.stack([error for error, _ in drawn]).mean(0)
            sampled_parts.append((squared, torch.stack(entropies).mean(0) if entropies else None))
    return ReconstructionError(
        gathered(mean_parts) if mean_parts else None, gathered(sampled_parts), num_samples
    )
