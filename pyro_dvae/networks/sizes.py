"""Checks that the sizes of parts match, if the parts state them in an attribute."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from pyro_dvae import checks
from pyro_dvae.corruptions import Corruption
from pyro_dvae.errors import InputError

Link = tuple[str, int | None, int | None]


def stated(part: Any, size: str) -> int | None:
    """Return an attribute of a part that is a size, or None."""
    found = getattr(part, size, None)
    return found if isinstance(found, int) else None


def link(argument: str, network: Any) -> Link:
    """Return a network from ``data_size`` to ``latent_size`` as a link of a chain."""
    return argument, stated(network, "data_size"), stated(network, "latent_size")


def require_chain(links: Iterable[Link]) -> None:
    """Refuse a network whose input size differs from the output size of the previous one.

    :param links: the argument, input size and output size of each network.
    """
    for (before, _, given), (after, taken, _) in pairwise(links):
        checks.one_size("size of the latents between them", {before: given, after: taken})


def require_fitting(encoder: Any, decoder: Any, corruption: Any = None) -> None:
    """Refuse an encoder, a decoder and a corruption of different sizes.

    :raises InputError: two state different sizes.
    """
    for size in ("data_size", "latent_size"):
        checks.one_size(size, {"encoder": stated(encoder, size), "decoder": stated(decoder, size)})
    _require_corrupted(corruption, stated(decoder, "data_size") or stated(encoder, "data_size"))


def require_fitting_guide(guide: Any, decoder: Any) -> None:
    """Refuse an amortised guide and a decoder of different sizes.

    :raises InputError: two state different sizes.
    """
    size = stated(guide.encoder, "data_size")
    noise_size = getattr(guide, "noise_size", 0)  # an implicit guide appends noise to the rows
    data_size = None if size is None else size - noise_size
    latent_size = stated(guide, "latent_size") or stated(guide.encoder, "latent_size")
    checks.one_size("data_size", {"guide": data_size, "decoder": stated(decoder, "data_size")})
    checks.one_size("latent_size", {"guide": latent_size, "decoder": stated(decoder, "latent_size")})
    _require_corrupted(guide.corruption, stated(decoder, "data_size") or data_size)


def _require_corrupted(corruption: Any, data_size: int | None) -> None:
    """Refuse a corruption with values for rows of another size."""
    if data_size is None or not isinstance(corruption, Corruption):
        return
    for argument, size in corruption.row_sizes().items():
        if size == 0 or data_size % size:
            raise InputError(
                f"corruption: expected {argument} for rows of {data_size} elements, got {size} values"
            )
