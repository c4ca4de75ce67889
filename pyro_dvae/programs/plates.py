"""The plates of independent draws that a vectorised run puts left of the user's own."""

from __future__ import annotations

import math
from typing import Any

from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.poutine.broadcast_messenger import BroadcastMessenger
from pyro.poutine.indep_messenger import CondIndepStackFrame, IndepMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_dvae.sites import is_uncounted

CORRUPTIONS = "_num_corruptions"
PARTICLES = "_num_particles"
REDRAWS = "_num_redraws"
DRAW_PLATES = (CORRUPTIONS, PARTICLES, REDRAWS)
VARIES = "_varies_over_draws"


def varies_over_draws(site: dict[str, Any]) -> bool:
    """Whether a site's log-density may differ from draw to draw; True where there is a single draw."""
    return bool(site["infer"].get(VARIES, True))


def is_deterministic(site: dict[str, Any]) -> bool:
    """Whether a site is a ``pyro.deterministic``, whose log-density is 0."""
    return bool(site["infer"].get("_deterministic"))


def data_frames(site: dict[str, Any]) -> list[CondIndepStackFrame]:
    """Return the vectorised plates of the user around a site."""
    return [f for f in site["cond_indep_stack"] if f.vectorized and f.name not in DRAW_PLATES]


def draws_of(site: dict[str, Any]) -> int:
    """Return how many draws the log-density of a site is of."""
    return math.prod(f.size for f in site["cond_indep_stack"] if f.name in (CORRUPTIONS, PARTICLES))


class DrawPlate(IndepMessenger):
    """A plate of independent draws left of all of the user's plates.

    With ``latents_only`` it leaves uncounted sites alone, so that K latents share one corruption and the
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


class Subsamples(Messenger):
    """Keeps the plates' subsample statements: their scales, and their indices for a further run."""

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
