"""Data-parallel training: each rank has its rows, and the gradient is that of the whole batch.

The sum of losses over ranks counts an observation once, but it counts a global latent, the prior of a weight,
or the full size of a subsampled plate once per rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from pyro_dvae.distributed.ranks import Ranks
from pyro_dvae.programs.plates import sized
from pyro_dvae.random_state import forked

if TYPE_CHECKING:
    from pyro_dvae.programs.parameters import Trained


class SeenPlates(Messenger):
    """Records the plates of every sample site with their sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.sites: list[dict[str, tuple[int, bool]]] = []

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if not site_is_subsample(msg):
            frames = [sized(msg, frame) for frame in msg["cond_indep_stack"]]
            self.sites.append({frame.name: (frame.size, _whole(frame)) for frame in frames})

    def sizes(self) -> dict[str, int]:
        """Return the number of elements of each plate in use."""
        return {name: size for site in self.sites for name, (size, _) in site.items()}

    def all_inside(self, plates: frozenset[str]) -> bool:
        """Return whether every site is in one of ``plates``, unsubsampled."""
        return all(any(name in plates and whole for name, (_, whole) in s.items()) for s in self.sites)


class CountedByShare(Messenger):
    """Multiplies the scale of every site by ``share``, except sites whose terms add up over the ranks.

    :param plates: the plates whose size is the number of rows; sites inside a plate that is not subsampled
        belong only to this rank's rows.
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
    """Return whether a plate is not subsampled; a subsampled plate scales up to its full size."""
    return bool(frame.full_size is None or frame.size == frame.full_size)


def growing(small: SeenPlates, large: SeenPlates, rows: tuple[int, int]) -> frozenset[str]:
    """Return the plates that had ``rows[0]`` elements in one run and ``rows[1]`` in another."""
    first, second = small.sizes(), large.sizes()
    return frozenset(name for name in first if (first[name], second.get(name)) == rows)


class SharedBatch:
    """This rank's part of the loss of the whole batch; the parts add up over the ranks.

    The constructor copies parameters and buffers from rank 0.

    :param loss: the loss of some rows alone.
    :param rows: the model's arguments for dry runs.
    """

    def __init__(
        self, ranks: Ranks, loss: Callable[..., Tensor], trained: Trained, rows: tuple[Tensor, ...]
    ) -> None:
        self._ranks, self._loss = ranks, loss
        with _without_trace(trained):
            plates, self.of_single_data = _data_plates(loss, rows)
        self._counted = None if self.of_single_data else CountedByShare(plates)
        self._buffers = [each for each in trained.buffers().values() if not isinstance(each, nn.Parameter)]
        ranks.copy_first(list(trained.tensors().values()))

    def copy_buffers(self) -> None:
        """Copy rank 0's buffers to the other ranks; called before every step."""
        self._ranks.copy_first(self._buffers)

    def loss(self, rows: tuple[Tensor, ...], share: float) -> Tensor:
        """Return this rank's part of the loss.

        :param rows: this rank's rows; any one row if it has none.
        :param share: their share of the batch; with 0, the loss is 0.
        """
        if self._counted is None:
            loss = self._loss(*rows)
        else:
            self._counted.share = share
            with self._counted:
                loss = self._loss(*rows)
        return loss if share else loss * 0


def _data_plates(loss: Callable[..., Tensor], rows: tuple[Tensor, ...]) -> tuple[frozenset[str], bool]:
    """Return the plates whose size is the number of rows, and whether all sites are in one, unsubsampled.

    Two dry runs find them, on three rows and on two (batch normalisation refuses a single row).
    """
    runs = []
    for count in (3, 2):
        with SeenPlates() as seen:
            loss(*(part[:count] for part in rows))
        runs.append(seen)
    plates = growing(runs[0], runs[1], (len(rows[0][:3]), len(rows[0][:2])))
    return plates, runs[0].all_inside(plates)


@contextmanager
def _without_trace(trained: Trained) -> Iterator[None]:
    """Restore random streams and buffers after the body."""
    before = {name: tensor.clone() for name, tensor in trained.tensors().items()}
    with forked():
        yield
    trained.assign(before)
