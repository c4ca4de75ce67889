"""The parts of a loss that are not of single data: each rank counts its share of them, so that all count one.

The sum over the ranks of their losses counts a datum once, but a global latent, the prior of a weight, or the
full size of a subsampled plate as often as there are ranks.
"""

from __future__ import annotations

from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample


class SeenPlates(Messenger):
    """Notes the plates of every sample site: their names and sizes, and the sites that have none."""

    def __init__(self) -> None:
        super().__init__()
        self.sites: list[dict[str, tuple[int, bool]]] = []

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if not isinstance(msg["fn"], _Subsample):
            self.sites.append({frame.name: (frame.size, _whole(frame)) for frame in msg["cond_indep_stack"]})

    def sizes(self) -> dict[str, int]:
        """Return the number of elements of each plate in use."""
        return {name: size for site in self.sites for name, (size, _) in site.items()}

    def all_inside(self, plates: frozenset[str]) -> bool:
        """Return whether every site is in one of ``plates``, unsubsampled."""
        return all(any(name in plates and whole for name, (_, whole) in s.items()) for s in self.sites)


class CountedByShare(Messenger):
    """Multiplies every site's scale by ``share``, but for those whose terms add up over the ranks.

    :param plates: the plates whose size is the number of rows; sites inside, where the plate is not
        subsampled, are of this rank's rows alone.
    """

    def __init__(self, plates: frozenset[str]) -> None:
        super().__init__()
        self.plates = plates
        self.share = 1.0

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        stack = msg["cond_indep_stack"]
        if not any(frame.name in self.plates and _whole(frame) for frame in stack):
            msg["scale"] = msg["scale"] * self.share


def _whole(frame: Any) -> bool:
    """Return whether a plate has all its elements: a subsampled one scales up to its full size."""
    return bool(frame.full_size is None or frame.size == frame.full_size)


def growing(small: SeenPlates, large: SeenPlates, rows: tuple[int, int]) -> frozenset[str]:
    """Return the plates that had ``rows[0]`` elements in one run and ``rows[1]`` in another."""
    first, second = small.sizes(), large.sizes()
    return frozenset(name for name in first if (first[name], second.get(name)) == rows)
