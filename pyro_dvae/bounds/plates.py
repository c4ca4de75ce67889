"""The plates of independent draws that a vectorised run puts left of the user's own."""

from __future__ import annotations

from typing import Any

from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.poutine.broadcast_messenger import BroadcastMessenger
from pyro.poutine.indep_messenger import CondIndepStackFrame, IndepMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample

CORRUPTIONS = "_num_corruptions"
PARTICLES = "_num_particles"
REDRAWS = "_num_redraws"
DRAW_PLATES = (CORRUPTIONS, PARTICLES, REDRAWS)


def is_auxiliary(site: dict[str, Any]) -> bool:
    """Whether a guide site is auxiliary: a corruption, or another site the model does not have."""
    return bool(site["infer"].get("is_auxiliary"))


class DrawPlate(IndepMessenger):
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
