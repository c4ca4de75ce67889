"""One vectorised run of guide and model over M corruptions and K latent draws of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.distributions.util import scale_and_mask
from pyro.infer.enum import get_importance_trace
from pyro.poutine.broadcast_messenger import BroadcastMessenger
from pyro.poutine.indep_messenger import CondIndepStackFrame, IndepMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_dvae.errors import InputError

CORRUPTIONS = "_num_corruptions"
PARTICLES = "_num_particles"


def is_auxiliary(site: dict[str, Any]) -> bool:
    """Whether a guide site is auxiliary: a corruption, or another site the model does not have."""
    return bool(site["infer"].get("is_auxiliary"))


class _DrawPlate(IndepMessenger):
    """A plate of independent draws left of all of the user's plates.

    With ``latents_only`` it leaves auxiliary sites alone, so that K latents share one corruption and the
    encoder runs on M inputs per datum, not on M·K.
    """

    def __init__(self, name: str, size: int, dim: int, latents_only: bool) -> None:
        super().__init__(name, size, dim)
        self.latents_only = latents_only

    def _process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] != "sample" or site_is_subsample(msg):
            return
        if self.latents_only and is_auxiliary(msg) and not self._already_has_dim(msg["fn"]):
            return
        super()._process_message(msg)
        if isinstance(msg["fn"], TorchDistributionMixin):
            BroadcastMessenger._pyro_sample(msg)

    def _already_has_dim(self, fn: Any) -> bool:
        shape = fn.batch_shape
        return len(shape) >= -self.dim and shape[self.dim] == self.size


class _SubsampleScales(Messenger):
    """Notes the size and the subsample of each plate that subsamples."""

    def __init__(self) -> None:
        super().__init__()
        self.scales: dict[str, float] = {}

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if site_is_subsample(msg) and msg["fn"].size > 0:
            self.scales[msg["name"]] = msg["fn"].size / len(msg["value"])


@dataclass
class LogWeight:
    """Log importance weights of the draws, per datum.

    :param values: log p(x, z) − log q(z|x̃), shape [K, M, *datum] (nats), without the scale of the plates.
    :param scale: factor of each datum's bound (plate subsampling, ``poutine.scale``), a number or [*datum].
    """

    values: Tensor
    scale: float | Tensor


@dataclass
class Draws:
    """The traces of one run, and where its draws lie.

    :param model_trace: model sites; log-probabilities of shape [K, M, *plates].
    :param guide_trace: guide sites; latents as the model's, auxiliary sites [M, *plates].
    :param num_corruptions: M; its dimension ``corruption_dim`` exists where M > 1.
    :param num_particles: K; its dimension ``particle_dim`` exists where K > 1.
    """

    model_trace: Trace
    guide_trace: Trace
    num_corruptions: int
    num_particles: int
    corruption_dim: int
    particle_dim: int
    subsample_scales: dict[str, float] = field(default_factory=dict)

    def model_sites(self) -> list[dict[str, Any]]:
        """Return the sample sites of the model: latents and observations."""
        return [site for site in self.model_trace.nodes.values() if site["type"] == "sample"]

    def latent_sites(self) -> list[dict[str, Any]]:
        """Return the guide's sites of the model's latents."""
        return [s for s in self.guide_trace.nodes.values() if s["type"] == "sample" and not is_auxiliary(s)]

    def auxiliary_sites(self) -> list[dict[str, Any]]:
        """Return the guide's corruption and other auxiliary sites."""
        return [s for s in self.guide_trace.nodes.values() if s["type"] == "sample" and is_auxiliary(s)]

    def datum_frames(self) -> list[CondIndepStackFrame]:
        """Return the plates that all scored sites share: what a datum, and so one weight, is."""
        stacks = [
            frozenset(
                f for f in site["cond_indep_stack"] if f.vectorized and f.name not in (CORRUPTIONS, PARTICLES)
            )
            for site in [*self.model_sites(), *self.latent_sites()]
        ]
        common = frozenset.intersection(*stacks) if stacks else frozenset()
        return sorted(common, key=lambda frame: frame.dim)

    def log_weight(self) -> LogWeight:
        """Return log p(x, z) − log q(z|x̃) per draw and datum, and the scale that belongs outside."""
        frames = self.datum_frames()
        signed = [(site, 1.0) for site in self.model_sites()] + [(site, -1.0) for site in self.latent_sites()]
        scales = [site["scale"] for site, _ in signed]
        outer, inner = _split_scales(scales, frames, self.subsample_scales)
        total: Tensor | float = 0.0
        for (site, sign), scale in zip(signed, inner, strict=True):
            log_prob = scale_and_mask(site["unscaled_log_prob"], scale, site["mask"])
            total = total + sign * self._per_datum(log_prob, frames)
        if not isinstance(total, Tensor):
            raise InputError("model: expected at least one sample site, got none")
        return LogWeight(total, outer)

    def _per_datum(self, log_prob: Tensor, frames: list[CondIndepStackFrame]) -> Tensor:
        """Sum a site's [K, M, *plates] to [K, M, *datum]."""
        wanted = {frame.dim for frame in frames}
        span = max((-frame.dim for frame in frames), default=0)
        draws = [
            self.particle_dim if self.num_particles > 1 else None,
            self.corruption_dim if self.num_corruptions > 1 else None,
        ]
        keep = [dim for dim in draws if dim is not None]
        lowest = max([-dim for dim in keep] + [span, log_prob.dim()])
        full = log_prob.reshape((1,) * (lowest - log_prob.dim()) + log_prob.shape)
        summed = [dim for dim in range(-lowest, 0) if dim not in wanted and dim not in keep]
        full = full.sum(summed, keepdim=True) if summed else full
        datum_shape = full.shape[len(full.shape) - span :] if span else torch.Size()
        lead = [full.shape[dim] if dim is not None else 1 for dim in draws]
        return full.reshape(*lead, *datum_shape)


def _split_scales(
    scales: list[Any], frames: list[CondIndepStackFrame], subsample: dict[str, float]
) -> tuple[float | Tensor, list[Any]]:
    """Split the sites' scales into the common factor, which stays outside the weights, and the rest."""
    first = scales[0]
    if all(_same(scale, first) for scale in scales):
        return first, [1.0] * len(scales)
    outer = 1.0
    for frame in frames:
        outer *= subsample.get(frame.name, 1.0)
    return outer, [scale / outer for scale in scales]


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape and torch.equal(a, b)
    return bool(a == b)


def draw(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    num_corruptions: int,
    num_particles: int,
    max_plate_nesting: int | float,
) -> Draws:
    """Run the guide, then the model on its latents, once, over M corruptions × K latents.

    ``max_plate_nesting`` may be infinite for M = K = 1, where no dimension is added.
    """
    corruption_dim = particle_dim = 0
    if num_corruptions > 1:
        max_plate_nesting += 1
        corruption_dim = -int(max_plate_nesting)
        plate = _DrawPlate(CORRUPTIONS, num_corruptions, corruption_dim, latents_only=False)
        model, guide = plate(model), plate(guide)
    if num_particles > 1:
        max_plate_nesting += 1
        particle_dim = -int(max_plate_nesting)
        plate = _DrawPlate(PARTICLES, num_particles, particle_dim, latents_only=True)
        model, guide = plate(model), plate(guide)
    with _SubsampleScales() as subsample:
        model_trace, guide_trace = get_importance_trace("flat", max_plate_nesting, model, guide, args, kwargs)
    draws = Draws(
        model_trace,
        guide_trace,
        num_corruptions,
        num_particles,
        corruption_dim,
        particle_dim,
        subsample.scales,
    )
    _check(draws)
    return draws


def _check(draws: Draws) -> None:
    """Refuse pairs of a model and a guide that no bound of this package is right for."""
    latents = {site["name"] for site in draws.model_sites() if not site["is_observed"]}
    sampled = {site["name"] for site in draws.latent_sites()}
    if extra := sorted(sampled - latents):
        raise InputError(
            f"guide: site {extra[0]!r} is not a latent of the model; sample corruptions with "
            "pyro_dvae.corrupt, mark other such sites infer={'is_auxiliary': True}"
        )
    if missing := sorted(latents - sampled):
        raise InputError(f"guide: the model's latent {missing[0]!r} is not sampled in the guide")
    for site in [*draws.latent_sites(), *draws.auxiliary_sites()]:
        if site["infer"].get("enumerate"):
            raise InputError(
                f"guide: site {site['name']!r} asks for enumeration, which the denoising bounds do not do; "
                "use pyro.infer.TraceEnum_ELBO or remove infer={'enumerate': ...}"
            )
