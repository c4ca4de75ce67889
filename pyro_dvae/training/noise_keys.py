"""The keys of hashed noise of the steps of a run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_dvae.engine.hashed_noise import draw_keys
from pyro_dvae.random_state import derived_seed

_STEPS_AT_ONCE = 1_000


class NoiseKeys:
    """The keys of hashed noise for the steps of a run; those of an epoch are drawn together from its seed.

    :param steps: steps of an epoch; if None (unknown), the keys of a thousand steps are drawn together.
    """

    def __init__(self, seed: int, purpose: str, steps: int | None, device: torch.device) -> None:
        self._seed, self._purpose, self._steps, self._device = seed, purpose, steps, device
        self._block: tuple[int, ...] | None = None
        self._drawn = torch.empty(0)

    def at(self, epoch: int, position: int, draws: int) -> Tensor:
        """Return the keys [draws, 2] of a step."""
        block, place = divmod(position, _STEPS_AT_ONCE) if self._steps is None else (0, position)
        if self._block != (epoch, draws, block):
            self._drawn, self._block = self.of_block(epoch, block, draws), (epoch, draws, block)
        return self._drawn[place]

    def of_block(self, epoch: int, block: int, draws: int) -> Tensor:
        """Return the keys [steps, draws, 2] of the steps of an epoch, or of its next thousand steps."""
        own = (block,) if self._steps is None else ()
        steps = _STEPS_AT_ONCE if self._steps is None else self._steps
        generator = torch.Generator().manual_seed(derived_seed(self._seed, epoch, self._purpose, *own))
        return draw_keys(steps * draws, "cpu", generator).reshape(steps, draws, 2).to(self._device)


class NoiseKeysOfMany(NoiseKeys):
    """The keys of several models' noise, [E, draws, 2] for a step.

    They are joined for an epoch at a time: joining those of many models takes a GPU longer than a step.

    :param seeds: one for each model.
    :param steps: steps of an epoch.
    """

    def __init__(self, seeds: Sequence[int], purpose: str, steps: int, device: torch.device) -> None:
        super().__init__(seeds[0], purpose, steps, device)
        self._models = [NoiseKeys(seed, purpose, steps, device) for seed in seeds]

    def of_block(self, epoch: int, block: int, draws: int) -> Tensor:
        """Return the keys [steps, E, draws, 2] of the steps of an epoch."""
        return torch.stack([each.of_block(epoch, block, draws) for each in self._models], dim=1)
