"""Data-parallel training: each rank has its rows, and the gradient is that of the whole batch.

The sum over the ranks of their losses counts an observation once, but a global latent, the prior of a weight,
or the full size of a subsampled plate as often as there are ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from pyro.infer import ELBO
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pyro_dvae.distributed.ranks import Ranks
from pyro_dvae.errors import InputError
from pyro_dvae.random_state import forked

if TYPE_CHECKING:
    from pyro_dvae.programs.parameters import Trained


class SeenPlates(Messenger):
    """Notes the plates of every sample site: their names and sizes, and the sites that have none."""

    def __init__(self) -> None:
        super().__init__()
        self.sites: list[dict[str, tuple[int, bool]]] = []

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if not site_is_subsample(msg):
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


Program = Callable[..., Any]


class BoundModule(nn.Module):
    """What Pyro's ``ELBOModule`` is to modules, for any callables: parameters found by a dry run, one loss.

    :param trained: the leaves that become its parameters; their buffers are its buffers.
    """

    def __init__(self, bound: ELBO, model: Program, guide: Program, trained: Trained) -> None:
        super().__init__()
        self._programs = (bound, model, guide)  # no submodules: their other parameters are not trained
        self._trained = trained
        for number, leaf in enumerate(trained.parameters.values()):
            # The leaves of the param store are plain tensors, which register_parameter refuses.
            self._parameters[f"leaf{number}"] = leaf  # type: ignore[assignment]

    def named_buffers(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, Tensor]]:
        """Yield the present buffers of the modules that model and guide call."""
        yield from self._trained.buffers().items()

    def forward(self, *rows: Tensor) -> Tensor:
        """Return the negative bound, summed over the rows."""
        bound, model, guide = self._programs
        loss: Tensor = bound.differentiable_loss(model, guide, *rows)
        return loss


class ParallelBound:
    """The loss of this rank's rows, with the gradient of the loss of all ranks' rows.

    PyTorch's ``DistributedDataParallel`` averages gradients over the ranks; single-process training minimises
    the sum over the batch, so the local gradient is multiplied by the number of ranks. Shares need not be
    equal. When it is made, parameters and buffers become those of rank 0.

    :param rows: for dry runs, as the model takes them.
    :raises InputError: the bound does its own backward, so that its gradient cannot be reduced.
    """

    def __init__(
        self, ranks: Ranks, bound: ELBO, model: Program, guide: Program, trained: Trained, *rows: Tensor
    ) -> None:
        if not hasattr(bound, "differentiable_loss"):
            raise InputError(
                f"bound: {type(bound).__name__} has no differentiable_loss, so its gradient cannot be "
                "summed over processes; train with one process, or with a bound that has it"
            )
        self._ranks = ranks
        module = BoundModule(bound, model, guide, trained)
        with _without_trace(trained):
            plates, self.of_single_data = _data_plates(module, rows)
            unused = _has_unused(module, rows)
        self._counted = None if self.of_single_data else CountedByShare(plates)
        with ranks.guarded():
            self._module = DistributedDataParallel(
                module, find_unused_parameters=unused, gradient_as_bucket_view=True
            )

    def loss(self, rows: tuple[Tensor, ...], share: float) -> Tensor:
        """Return the loss of ``rows``, whose gradient, once reduced, is that of the whole batch.

        :param rows: this rank's; any one row if it has none.
        :param share: their part of the batch, 0 if there are none: then they count nothing.
        """
        try:
            with self._ranks.guarded():
                loss = self._run(rows, share) * (1 if share else 0)
        except RuntimeError as error:
            if "Expected to have finished reduction" not in str(error):
                raise
            raise InputError(
                "model, guide: expected a gradient for the same parameters in every step when several "
                "processes train, got a step without that of some; train with one process"
            ) from None
        return loss + (self._ranks.count - 1) * (loss - loss.detach())

    def _run(self, rows: tuple[Tensor, ...], share: float) -> Tensor:
        if self._counted is None:
            return torch.as_tensor(self._module(*rows))
        self._counted.share = share
        with self._counted:
            return torch.as_tensor(self._module(*rows))


def _data_plates(module: BoundModule, rows: tuple[Tensor, ...]) -> tuple[frozenset[str], bool]:
    """Return the plates whose size is the number of rows, and whether all sites are in one, unsubsampled.

    Two dry runs tell them: of three rows and of two (batch normalisation takes no single one).
    """
    runs = []
    for count in (3, 2):
        with SeenPlates() as seen:
            module(*(part[:count] for part in rows))
        runs.append(seen)
    plates = growing(runs[0], runs[1], (len(rows[0][:3]), len(rows[0][:2])))
    return plates, runs[0].all_inside(plates)


def _has_unused(module: BoundModule, rows: tuple[Tensor, ...]) -> bool:
    """Return whether a parameter gets no gradient; to look for such ones in every step costs time."""
    loss = module(*rows)
    if not loss.requires_grad:
        return True
    gradients = torch.autograd.grad(loss, list(module.parameters()), allow_unused=True)
    return any(gradient is None for gradient in gradients)


@contextmanager
def _without_trace(trained: Trained) -> Iterator[None]:
    """Leave random streams and buffers as they were."""
    before = {name: tensor.clone() for name, tensor in trained.tensors().items()}
    with forked():
        yield
    trained.assign(before)
