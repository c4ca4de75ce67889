"""The number of draws of a run, and their plates to the left of the user's own plates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import Independent
from pyro.distributions.torch_distribution import MaskedDistribution, TorchDistributionMixin
from pyro.poutine.broadcast_messenger import BroadcastMessenger
from pyro.poutine.indep_messenger import CondIndepStackFrame, IndepMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_dvae.internals import mask_of
from pyro_dvae.sites import CORRUPTIONS, DRAW_PLATES, PARTICLES, is_uncounted, layers

VARIES = "_varies_over_draws"
NO_SIZE = -1  # what Pyro gives a plate without a size

Program = Callable[..., Any]


def varies_over_draws(site: dict[str, Any]) -> bool:
    """Whether a site's log-density may differ between draws; True for a single draw."""
    return bool(site["infer"].get(VARIES, True))


def is_deterministic(site: dict[str, Any]) -> bool:
    """Whether a site is from ``pyro.deterministic`` or ``poutine.reparam``, with log-density 0."""
    observed = site["is_observed"] or site["infer"].get("was_observed")  # the second under ``uncondition``
    masked = observed and isinstance(site["fn"], MaskedDistribution)
    return bool(site["infer"].get("_deterministic")) or (masked and mask_of(site["fn"]) is False)


def kept_by_masks(site: dict[str, Any]) -> Tensor:
    """Return which elements of a site its masks keep, in a shape that broadcasts to its value's."""
    fn, found = site["fn"], torch.ones((), dtype=torch.bool)
    masked = [(mask_of(each), each.event_dim) for each in layers(fn) if isinstance(each, MaskedDistribution)]
    for mask, event_dim in [(site["mask"], fn.event_dim), *masked]:
        if mask is not None:
            kept = torch.as_tensor(mask)
            found = found & kept.reshape(kept.shape + (1,) * event_dim)
    return found


def unmasked(fn: Any) -> Any:
    """Return a distribution without the masks that its elements have (``mask(False)`` remains)."""
    if isinstance(fn, MaskedDistribution) and mask_of(fn) is not False:
        return unmasked(fn.base_dist)
    if isinstance(fn, Independent) and (inner := unmasked(fn.base_dist)) is not fn.base_dist:
        return inner.to_event(fn.reinterpreted_batch_ndims)
    return fn


def data_frames(site: dict[str, Any]) -> list[CondIndepStackFrame]:
    """Return the vectorised plates of the user around a site; a plate without a size has the site's."""
    frames = (f for f in site["cond_indep_stack"] if f.vectorized and f.name not in DRAW_PLATES)
    return [sized(site, frame) for frame in frames]


def sized(site: dict[str, Any], frame: CondIndepStackFrame) -> CondIndepStackFrame:
    """Return a plate around a site with its size; a plate without a size has that of the site."""
    if frame.size != NO_SIZE:
        return frame
    size = size_at(site, frame)
    return frame._replace(size=size, full_size=size)


def size_at(site: dict[str, Any], frame: CondIndepStackFrame) -> int:
    """Return the number of elements of a plate at a site; if the plate has no size, the site's own number."""
    if frame.size != NO_SIZE:
        return int(frame.size)
    fn = site["fn"]
    shapes = [fn.batch_shape, _batch_shape(site["value"], fn)]
    return max((int(shape[frame.dim]) for shape in shapes if len(shape) >= -frame.dim), default=1)


def size_remedy(frames: Iterable[CondIndepStackFrame]) -> str:
    """Return the end of a message that asks for the size of a plate, if one of them has none."""
    unsized = next((frame.name for frame in frames if frame.size == NO_SIZE), None)
    return "" if unsized is None else f"; give it its size, pyro.plate({unsized!r}, len(x))"


def draws_of(site: dict[str, Any]) -> int:
    """Return the number of draws in the log-density of a site."""
    return math.prod(f.size for f in site["cond_indep_stack"] if f.name in (CORRUPTIONS, PARTICLES))


class DrawPlate(IndepMessenger):
    """A plate of independent draws, to the left of all of the user's plates.

    With ``latents_only`` it does not expand uncounted sites, so that K latents share one corruption and the
    encoder runs on M inputs per observation, not on M·K.
    """

    def __init__(self, name: str, size: int, dim: int, latents_only: bool) -> None:
        super().__init__(name, size, dim)
        self.latents_only = latents_only

    def _process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] != "sample" or site_is_subsample(msg):
            return
        fn = msg["fn"]
        has_dim = self._has_dim(fn.batch_shape)
        if self.latents_only and is_uncounted(msg) and not has_dim:
            return
        varies = has_dim or not msg["is_observed"] or self._has_dim(_batch_shape(msg["value"], fn))
        msg["infer"][VARIES] = varies or msg["infer"].get(VARIES, False)
        super()._process_message(msg)
        if isinstance(fn, TorchDistributionMixin):
            BroadcastMessenger._pyro_sample(msg)

    def _has_dim(self, shape: tuple[int, ...]) -> bool:
        return len(shape) >= -self.dim and shape[self.dim] == self.size


def _batch_shape(value: Any, fn: Any) -> tuple[int, ...]:
    return tuple(value.shape[: value.dim() - fn.event_dim]) if isinstance(value, Tensor) else ()


@dataclass(frozen=True)
class Layout:
    """The numbers of draws and their dimensions (negative; 0 for a single draw).

    :param looped: make the draws one at a time, and stack them afterwards.
    """

    num_corruptions: int
    num_particles: int
    max_plate_nesting: int | float
    looped: bool = False

    @property
    def several(self) -> bool:
        """Whether there is more than one draw."""
        return self.num_corruptions * self.num_particles > 1

    @property
    def corruption_dim(self) -> int:
        """The dimension of the M corruptions, next to the user's plates."""
        return -int(self.max_plate_nesting) - 1 if self.num_corruptions > 1 else 0

    @property
    def particle_dim(self) -> int:
        """The dimension of the K latents, left of the corruptions'."""
        if self.num_particles == 1:
            return 0
        return -int(self.max_plate_nesting) - 1 - (self.num_corruptions > 1)

    @property
    def nesting(self) -> int | float:
        """The total number of plate dimensions, including draws."""
        return self.max_plate_nesting + (self.num_corruptions > 1) + (self.num_particles > 1)

    def wrap(self, program: Program, redrawn: bool = False) -> Program:
        """Put ``program`` into the plates of draws; if ``redrawn``, the plate of M is for latents only."""
        if self.num_corruptions > 1:
            program = DrawPlate(CORRUPTIONS, self.num_corruptions, self.corruption_dim, redrawn)(program)
        if self.num_particles > 1:
            program = DrawPlate(PARTICLES, self.num_particles, self.particle_dim, True)(program)
        return program

    def per_datum(self, value: Tensor, frames: list[CondIndepStackFrame], lead: int = 0) -> Tensor:
        """Sum a site's value [*lead, K, M, *plates] to [*lead, K, M, *datum].

        ``lead`` is the number of further dimensions of draws on the left. Missing dimensions become 1.
        """
        wanted = {frame.dim for frame in frames}
        span = max((-frame.dim for frame in frames), default=0)
        draws = [self.particle_dim, self.corruption_dim]
        if lead:
            draws = [-int(self.nesting) - 1, *draws]
        keep = {dim for dim in draws if dim}
        width = max([-dim for dim in keep] + [span, value.dim()])
        full = value.reshape((1,) * (width - value.dim()) + value.shape)
        summed = [dim for dim in range(-width, 0) if dim not in wanted and dim not in keep]
        full = full.sum(summed, keepdim=True) if summed else full
        datum_shape = full.shape[width - span :] if span else torch.Size()
        return full.reshape(*[full.shape[dim] if dim else 1 for dim in draws], *datum_shape)


class Subsamples(Messenger):
    """Keeps the plates' subsample statements, for their scales and for further runs on the same rows."""

    def __init__(self) -> None:
        super().__init__()
        self.sites: dict[str, dict[str, Any]] = {}

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if site_is_subsample(msg):
            self.sites[msg["name"]] = msg.copy()

    def scale(self, name: str) -> float:
        """Return size / subsample size of the plate ``name``."""
        site = self.sites.get(name)
        return site["fn"].size / len(site["value"]) if site and site["fn"].size > 0 else 1.0

    def inside(self, frames: list[CondIndepStackFrame]) -> str | None:
        """Return the name of a subsampled plate that is not among ``frames``; None if there is none."""
        names = {frame.name for frame in frames}
        return next((name for name in self.sites if name not in names and self.scale(name) != 1), None)
