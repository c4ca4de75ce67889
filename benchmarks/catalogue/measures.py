"""Measures besides the bound."""

from __future__ import annotations

import math
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_dvae.bounds import TraceDenoising_ELBO
from pyro_dvae.evaluation import active_units, bits_per_dim, evaluate_bound, reconstruction_error
from pyro_dvae.evaluation.measures import binary_code
from pyro_dvae.sites import clean_input


def bits_of(model: Any, guide: Any, test: Tensor, seed: int) -> dict[str, float]:
    """Measure the binary code of latents near 0 and 1: its length and its reconstructions."""
    return _bits(binary_code(model, guide, test))


def bits_of_logits(model: Any, guide: Any, test: Tensor, seed: int) -> dict[str, float]:
    """Measure the binary code of latents that are logits."""
    return _bits(binary_code(model, guide, test, threshold=0.0, values=(-math.inf, math.inf)))


def activity(model: Any, guide: Any, test: Tensor, seed: int) -> dict[str, float]:
    """Count the active latents (Burda et al. 2016) on clean input."""
    return {"active latents": float(active_units(model, guide, test, seed=seed).count)}


def bits(model: Any, guide: Any, test: Tensor, seed: int) -> dict[str, float]:
    """Measure the code length of discrete data by the bound on clean input, in bits per dimension."""
    bound = TraceDenoising_ELBO(max_plate_nesting=1)
    found = evaluate_bound(model, guide, test, loss=bound, seed=seed)
    return {"bits per dimension": bits_per_dim(-found.mean, test.shape[1])}


def divergence(model: Any, guide: Any, test: Tensor, seed: int) -> dict[str, float]:
    """Measure E[log q(z | x) - log p(z)] on clean input with one draw of the latents (nats)."""
    pyro.set_rng_seed(seed)
    with torch.no_grad(), clean_input():
        drawn = poutine.trace(guide).get_trace(test)
        played = poutine.trace(poutine.replay(model, drawn)).get_trace(test)
    for trace in (drawn, played):
        trace.compute_log_prob(lambda name, site: not site["is_observed"])
    latents = [
        name for name, site in played.nodes.items() if site["type"] == "sample" and not site["is_observed"]
    ]
    total = sum(drawn.nodes[name]["log_prob_sum"] - played.nodes[name]["log_prob_sum"] for name in latents)
    return {"divergence": float(total) / len(test)}


def reconstruction(model: Any, guide: Any, test: Tensor, seed: int) -> dict[str, float]:
    """Measure the cross-entropy of reconstructions from the mean code and from sampled codes (nats)."""
    found = reconstruction_error(model, guide, test, num_samples=5, seed=seed)
    values: dict[str, float] = {}
    for name, error in (("mean code", found.from_mean), ("sampled codes", found.from_samples)):
        if error is None or error.cross_entropy is None:
            raise RuntimeError(f"expected a Bernoulli likelihood and a {name}")
        values[f"cross-entropy, {name}"] = error.cross_entropy.mean
        values[f"squared error, {name}"] = error.squared.mean
    return values


def _bits(found: Any) -> dict[str, float]:
    return {
        "bits": found.bits,
        "cross-entropy, mean code": found.from_real.cross_entropy.mean,
        "cross-entropy, bits": found.from_bits.cross_entropy.mean,
    }
