"""How well the data come back from their codes."""

from __future__ import annotations

from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Bernoulli
from torch.nn.functional import binary_cross_entropy_with_logits

from pyro_dvae import checks
from pyro_dvae.bounds.plates import is_auxiliary
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.estimates import Estimate
from pyro_dvae.evaluation.measures.decoding import DecodingError, ReconstructionError
from pyro_dvae.evaluation.measures.means import base_of, mean_of
from pyro_dvae.evaluation.measures.passes import (
    Program,
    by_row,
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
            setter = _MeanCode()
            with setter:
                trace = poutine.trace(guide).get_trace(rows)
            if not setter.unknown:
                mean_parts.append(_errors(model, trace, rows, data_site, plate))
            runs = (poutine.trace(guide).get_trace(rows) for _ in range(num_samples))
            drawn = [_errors(model, trace, rows, data_site, plate) for trace in runs]
            entropies = [cross for _, cross in drawn if cross is not None]
            squared = torch.stack([error for error, _ in drawn]).mean(0)
            sampled_parts.append((squared, torch.stack(entropies).mean(0) if entropies else None))
    return ReconstructionError(
        _gather(mean_parts) if mean_parts else None, _gather(sampled_parts), num_samples
    )


class _MeanCode(Messenger):
    """Effect handler under which a guide's latents take the means of their distributions."""

    def __init__(self) -> None:
        super().__init__()
        self.unknown: list[str] = []

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["is_observed"] or site_is_subsample(msg) or is_auxiliary(msg):
            return
        mean = mean_of(msg["fn"])
        if mean is None or bool(torch.isnan(mean).any()):
            self.unknown.append(msg["name"])
            return
        msg["value"], msg["done"] = mean, True


def _errors(
    model: Program, codes: Trace, rows: Tensor, data_site: str, plate: str
) -> tuple[Tensor, Tensor | None]:
    """Return squared error and cross-entropy [n] of the data decoded from the latents of a guide's run."""
    site = poutine.trace(poutine.replay(model, trace=codes)).get_trace(rows).nodes[data_site]
    mean, base, value = mean_of(site["fn"]), base_of(site["fn"]), site["value"]
    if mean is None or bool(torch.isnan(mean).any()):
        raise InputError(
            f"data_site: expected a distribution with a mean at {data_site!r}, got {type(base).__name__}"
        )
    squared = by_row((value - mean).double().square(), site, plate).reshape(len(rows), -1).mean(1).cpu()
    if not isinstance(base, Bernoulli):
        return squared, None
    checks.unit_interval(f"x: the Bernoulli site {data_site!r}", value)
    cross = binary_cross_entropy_with_logits(base.logits, value, reduction="none")
    return squared, by_row(cross.double(), site, plate).reshape(len(rows), -1).sum(1).cpu()


def _gather(parts: list[tuple[Tensor, Tensor | None]]) -> DecodingError:
    """Join the errors of the chunks."""
    entropies = [cross for _, cross in parts if cross is not None]
    squared = Estimate(torch.cat([squared for squared, _ in parts]))
    return DecodingError(squared, Estimate(torch.cat(entropies)) if entropies else None)
