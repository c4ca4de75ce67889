"""Shared by all measures: passes over the data in chunks, and running means and variances."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.calling import calling
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.arguments import why_shared
from pyro_dvae.evaluation.estimates import evaluation_mode
from pyro_dvae.programs.data_plate import not_one_plate, plates_around, the_data_plate
from pyro_dvae.programs.drawing import draw
from pyro_dvae.programs.draws import Draws
from pyro_dvae.programs.plates import Layout, is_deterministic
from pyro_dvae.random_state import forked
from pyro_dvae.rows import Arguments, Data
from pyro_dvae.sites import DRAW_PLATES, clean_input


class Moments:
    """Running mean and variance over the first dimension of the blocks added.

    Blocks are merged by their means and sums of squares (Chan, Golub and LeVeque 1983), so that a large
    mean does not swamp a small variance.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros((), dtype=torch.float64)
        self._squares = torch.zeros((), dtype=torch.float64)

    def add(self, block: Tensor) -> None:
        """Add the elements of ``block`` [B, ...]."""
        block = block.detach().to("cpu", torch.float64)
        mean = block.mean(0)
        squares = (block - mean).square().sum(0)
        total = self.count + len(block)
        shift = mean - self.mean
        self._squares = self._squares + squares + shift.square() * (self.count * len(block) / total)
        self.mean = self.mean + shift * (len(block) / total)
        self.count = total

    @property
    def variance(self) -> Tensor:
        """The unbiased variance [...]; NaN for a single element."""
        if self.count < 2:
            return torch.full_like(self.mean, math.nan)
        return self._squares / (self.count - 1)


Program = Callable[..., Any]
Site = dict[str, Any]

# Rows of encoder or decoder output held at once: few enough for the cache of a CPU.
_ROWS_AT_ONCE = 2000
_BYTES_PER_NUMBER = 64  # of a row: output, parameters of its distribution, hidden layers
MEMORY = 2**29


@contextmanager
def measuring(
    model: Program,
    guide: Program,
    rows: Arguments,
    clean: bool,
    seed: int | None,
    observed: Data | None = None,
) -> Iterator[None]:
    """Run the body without gradients, in evaluation mode and, if ``clean``, on clean input of the guide.

    A run on ``rows`` finds the modules. With a seed, draws come from a separate stream. Parameters that the
    body registers with Pyro are removed from the param store afterwards.

    :param observed: all rows, if the likelihood is to be evaluated at them.
    """
    if seed is not None:
        seed = checks.count("seed", seed, minimum=0)
    store = pyro.get_param_store()
    before = set(store.keys())
    with torch.no_grad(), ExitStack() as stack:
        if seed is not None:
            stack.enter_context(forked(seed))
        if clean:
            stack.enter_context(clean_input())
        try:
            stack.enter_context(evaluation_mode(model, guide, rows, observed))
            stack.enter_context(calling("model, guide, data"))
            yield
        finally:
            for name in set(store.keys()) - before:
                del store[name]


def first_chunk(data: Data, batch_size: int | None, draws: int = 1) -> Arguments:
    """Return the first chunk of :func:`chunks`."""
    return next(chunks(data, batch_size, draws))


def chunks(data: Data, batch_size: int | None, draws: int = 1) -> Iterator[Arguments]:
    """Iterate over chunks of ``batch_size`` rows, by default about 2,000 divided by the draws per row."""
    size = max(1, _ROWS_AT_ONCE // draws) if batch_size is None else checks.count("batch_size", batch_size)
    return data.split(size)


def rows_within(memory: int, data: Data, batch_size: int | None = None) -> int:
    """Return how many rows fit into ``memory`` bytes, at most ``batch_size``, by default 2,000.

    :raises InputError: an argument is not a valid number.
    """
    numbers = sum(part.numel() for part in data.take(slice(0, 1)))
    most = _ROWS_AT_ONCE if batch_size is None else checks.count("batch_size", batch_size)
    return max(1, min(most, checks.count("memory", memory) // (_BYTES_PER_NUMBER * max(1, numbers))))


def checked_plate(model: Program, guide: Program, rows: Arguments, site: str | None = None) -> str:
    """Run a pair once on a forked random stream; return its data plate, or refuse to measure the pair.

    :param site: a latent that must exist.
    """
    with forked():
        draws = draw(model, guide, rows.rows, dict(rows.kwargs), Layout(1, 1, float("inf")))
    require_latents(draws)
    plate = data_plate(draws, len(rows))
    if site is not None:
        checks.known("site", site, [each["name"] for each in draws.latent_sites()])
    return plate


def require_latents(draws: Draws) -> None:
    """Refuse a model without latents."""
    if not draws.latent_sites():
        raise InputError("model: expected at least one latent, got none")


def data_plate(draws: Draws, size: int) -> str:
    """Return the name of the plate of ``size`` rows, which holds all latents; refuse other programs."""
    drawn = [site for site in draws.counted_sites() if not site["is_observed"]]
    sites = [*(site for site in draws.model_sites() if not is_deterministic(site)), *drawn]
    plate = the_data_plate(sites, size, lambda: why_shared(draws))
    if any(plate.name not in plates_around(site) for site in drawn):
        raise not_one_plate(sites, size, why_shared(draws))
    return str(plate.name)


def by_row(value: Tensor, site: Site, plate: str) -> Tensor:
    """Rearrange a value of a site, [*batch, *event], to [n, *the site's other plates, *event].

    All dimensions right of the batch shape count as the event. Dimensions of draws must have size 1.
    """
    batch, kept = _positions(site, plate)
    dropped = [position for position in range(batch) if position not in kept]
    if any(value.shape[position] != 1 for position in dropped):
        raise InputError(
            f"site {site['name']!r}: expected each batch dimension in a plate, got batch shape "
            f"{tuple(site['fn'].batch_shape)}; declare the others by .to_event"
        )
    return value.permute(*dropped, *kept, *range(batch, value.dim()))[(0,) * len(dropped)]


def at_site(value: Tensor, site: Site, plate: str) -> Tensor:
    """Rearrange [n, *the site's other plates, *event] to a value of the site: :func:`by_row` inverted."""
    batch, kept = _positions(site, plate)
    moved = value.permute(*sorted(range(len(kept)), key=kept.__getitem__), *range(len(kept), value.dim()))
    sizes = dict(zip(sorted(kept), moved.shape, strict=False))
    return moved.reshape(*(sizes.get(n, 1) for n in range(batch)), *value.shape[len(kept) :])


def _positions(site: Site, plate: str) -> tuple[int, list[int]]:
    """Return the number of batch dimensions of a site, and the places of the rows and of its other plates."""
    frames = {frame.name: frame.dim for frame in site["cond_indep_stack"] if frame.vectorized}
    if plate not in frames:
        raise InputError(
            f"model: site {site['name']!r} lies outside the data plate {plate!r}, so it belongs to no row; "
            f"hide it, pyro.poutine.block(model, hide=[{site['name']!r}])"
        )
    batch = len(site["fn"].batch_shape)
    others = [batch + dim for name, dim in frames.items() if name != plate and name not in DRAW_PLATES]
    return batch, [batch + frames[plate], *sorted(others)]
