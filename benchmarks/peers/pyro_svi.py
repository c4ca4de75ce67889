"""Our model and guide with Pyro's SVI, and with ours."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pyro
import pyro.infer
import torch

import pyro_dvae as dv
from peers.problem import Problem, Skipped
from peers.torch_parts import data_of, epochs, sequential
from pyro_dvae.engine import CompiledSVI
from pyro_dvae.networks import BernoulliDecoder, GaussianEncoder


def stock(problem: Problem, validation: bool = False, jit: bool = False) -> Callable[[], float]:
    """Return a function that runs an epoch of ``pyro.infer.SVI`` with ``pyro.optim.Adam``."""
    pyro.enable_validation(validation)
    return _epoch(problem, pyro.infer.SVI, {}, jit)


def compiled(problem: Problem, **options: Any) -> Callable[[], float]:
    """Return a function that runs an epoch of ``CompiledSVI`` with these options.

    :raises Skipped: this version has no such option.
    """
    pyro.enable_validation(False)
    known = inspect.signature(CompiledSVI.__init__).parameters
    for name in options:
        if name not in known:
            raise Skipped(f"CompiledSVI of this version has no option {name}")
    try:
        return _epoch(problem, CompiledSVI, options)
    except dv.InputError as error:
        raise Skipped(f"CompiledSVI of this version: {error}") from error


def dvae_of(problem: Problem, pixels: int) -> dv.DVAE:
    """Return model and guide with the problem's weights."""
    encoder = GaussianEncoder(pixels, problem.latents, problem.hidden)
    decoder = BernoulliDecoder(pixels, problem.latents, problem.hidden)
    for network, layers in zip((encoder, decoder), problem.weights(pixels), strict=True):
        for parameter, value in zip(network.parameters(), sequential(layers).parameters(), strict=True):
            parameter.data.copy_(value)
    return dv.DVAE(encoder, decoder, dv.SaltAndPepper(problem.rate)).to(problem.device)


def _epoch(
    problem: Problem, kind: Callable[..., pyro.infer.SVI], options: dict[str, Any], jit: bool = False
) -> Callable[[], float]:
    torch.manual_seed(problem.seed)
    data = data_of(problem)
    dvae = dvae_of(problem, data.shape[1])
    optimizer = pyro.optim.Adam({"lr": problem.learning_rate})
    svi = kind(dvae.model, dvae.guide, optimizer, bound_of(problem, jit), **options)
    return epochs(data, problem, svi.step)


def bound_of(problem: Problem, jit: bool = False) -> Any:
    """Return the ELBO of the problem."""
    if jit:
        return pyro.infer.JitTrace_ELBO(ignore_jit_warnings=True)
    if problem.bound == "Trace_ELBO":
        return pyro.infer.Trace_ELBO()
    return getattr(dv, problem.bound)(problem.corruptions, problem.particles, max_plate_nesting=1)
