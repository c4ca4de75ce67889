"""A model and a guide with the arguments that they are called with, some data at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_dvae.bounds import TraceDenoising_ELBO
from pyro_dvae.bounds.draws import Draws
from pyro_dvae.bounds.leaves import is_point
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.importance.proposals import Pass
from pyro_dvae.evaluation.remedies import SHARED_LATENTS
from pyro_dvae.parameters import Trained, discover
from pyro_dvae.sites import Auxiliary

_PROBED = 16  # data of the run that looks at model and guide


class Inspected(NamedTuple):
    """What a run of model and guide has shown.

    :param trained: their parameters and modules.
    :param denoising: whether the guide has corruption sites or other auxiliary ones.
    :param noisy: whether one of them is random on clean input too.
    :param nesting: how many dimensions the plates take.
    """

    trained: Trained
    denoising: bool
    noisy: bool
    nesting: int | float


@dataclass(frozen=True)
class Programs:
    """Model and guide with all their arguments; the first is the data.

    Tensors with as many rows as the data are cut with them, all other arguments are passed on as they are.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def num_data(self) -> int:
        """N."""
        return len(self.args[0])

    def tensors(self) -> list[Tensor]:
        """Return the arguments that are tensors."""
        return [each for each in self.args if isinstance(each, Tensor)]

    def rows(self, start: int, count: int) -> tuple[Tensor, ...]:
        """Return the tensors for ``count`` data from ``start`` on; beyond the last, it is repeated."""
        rows = torch.arange(start, start + count).clamp(max=self.num_data - 1)

        def cut(each: Tensor) -> Tensor:
            has_rows = each.dim() > 0 and len(each) == self.num_data
            return each[rows.to(each.device)] if has_rows else each

        return tuple(cut(each) for each in self.tensors())

    def log_weights(self, one: Pass, *rows: Tensor) -> Tensor:
        """Return the log weights of one pass over some data, as :meth:`rows` gives them: [draws, data]."""
        return one.log_weights(self.model, self.guide, self._arguments(rows), self.kwargs)

    def inspect(self, nesting: int | float) -> Inspected:
        """Run both on a few data, after which the random streams and buffers are as they were.

        :raises InputError: the data have no plate of their own, or the guide sets a latent to a point.
        """
        probe = TraceDenoising_ELBO(num_particles=2, max_plate_nesting=nesting)
        few = self._arguments(self.rows(0, min(_PROBED, self.num_data)))
        found: list[Draws] = []

        def run() -> None:
            found.append(probe.draws(self.model, self.guide, few, self.kwargs))

        trained = discover(self.model, self.guide, run, required=False)
        weights = found[0].log_weight().values[0, 0]
        if not found[0].datum_frames() or weights.numel() != len(few[0]):
            raise InputError(
                f"model: expected one plate with the {len(few[0])} data of a batch around all sites, got "
                f"weights of shape {tuple(weights.shape)}{SHARED_LATENTS if weights.dim() == 0 else ''}"
            )
        latents = [site["name"] for site in found[0].latent_sites()]
        transformed = any(site["name"] not in latents for site in found[0].counted_sites())
        for site in found[0].latent_sites():
            if (
                is_point(site["fn"]) and not transformed
            ):  # else it is a function of counted draws (AutoGuides)
                raise InputError(
                    f"guide: its latent {site['name']!r} is a point, which has no density to weigh it by; a "
                    "likelihood needs a guide with one"
                )
        auxiliary = found[0].auxiliary_sites()
        noisy = any(_random_on_clean_input(site["fn"]) for site in auxiliary)
        return Inspected(trained, bool(auxiliary), noisy, found[0].layout.max_plate_nesting)

    def _arguments(self, rows: tuple[Tensor, ...]) -> tuple[Any, ...]:
        given = iter(rows)
        return tuple(next(given) if isinstance(each, Tensor) else each for each in self.args)


def _random_on_clean_input(distribution: Any) -> bool:
    if isinstance(distribution, Auxiliary):
        distribution = distribution.without_noise()
    return not is_point(distribution)
