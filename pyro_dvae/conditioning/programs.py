"""Models and guides of rows with gaps, and which cells of the data each site of a model observes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from pyro_dvae import checks
from pyro_dvae.conditioning import masks
from pyro_dvae.conditioning.likelihoods import ObservedCells, drawn, expected, inside
from pyro_dvae.conditioning.refusals import refuse_readers
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.annealing.structure import ImproperPriorError, ProperLatents
from pyro_dvae.programs.plates import is_deterministic, kept_by_masks
from pyro_dvae.random_state import forked
from pyro_dvae.rows import Arguments, gaps_allowed, source_of

Program = Callable[..., Any]


def with_gaps(
    model: Program, guide: Program, *, pass_mask: bool = False, mask_model: masks.MaskModel | None = None
) -> tuple[Program, Program]:
    """Return a model and a guide of rows with gaps, which take the filled rows and the mask.

    ``model(x, seen, *others)`` counts observed cells only, so every bound is a bound of log p(x_observed);
    with an importance-weighted bound this is MIWAE (Mattei and Frellsen 2019). ``guide(x, seen, *others)``
    sees the filled rows. A corruption of the guide, such as ``Masking``, hides further observed cells, which
    the model still has to explain::

        model, guide = dv.with_gaps(model, guide)
        x, seen = dv.fill_gaps(rows)
        dv.fit(model, guide, x, seen, loss=dv.TraceDenoisingIWAE_ELBO(num_particles=5))

    :param model: Pyro model of a batch, whose observed values are cells of its first argument.
    :param guide: Pyro guide of a batch.
    :param pass_mask: call the guide as ``guide(x, seen, *others)``, so that the encoder may use the mask.
    :param mask_model: a model of the mask if cells are missing because of their values: a function or module
        of whole rows [..., N, D] that returns for each cell the logit of being observed, such as
        ``networks.SelfMasking``. The bound is then a bound of log p(x_observed, mask) (not-MIWAE, Ipsen et
        al. 2021). It needs one observed site of the whole row, with continuous cells. By default, cells are
        missing at random.
    """
    checks.pair(model, guide)
    checks.optional(checks.program, "mask_model", mask_model)
    return GapModel(model, mask_model), GapGuide(guide, checks.flag("pass_mask", pass_mask), mask_model)


def fill_gaps(data: Any, fill: float | Tensor = 0.0) -> tuple[Tensor, Tensor]:
    """Return the rows with ``fill`` in missing cells (NaN), and the mask of observed cells; both [N, ...].

    :param data: rows of numbers with NaN (or masked, or NA) in gaps, from any source.
    :param fill: a number, or one for each cell of a row.
    :raises InputError: the data are empty, infinite somewhere, or not numbers.
    """
    rows = _numbers(data)
    if rows.dim() == 0 or rows.numel() == 0:
        raise InputError(f"data: expected at least one row [N, ...], got shape {tuple(rows.shape)}")
    seen = ~rows.isnan()
    if bool(rows.isinf().any()):
        raise InputError(f"data: expected finite values or NaN, got {int(rows.isinf().sum())} infinite")
    return torch.where(seen, rows, _filling(fill, rows)), seen


def together(data: Any, args: tuple[Any, ...], floats: torch.dtype) -> tuple[Tensor, tuple[Any, ...]]:
    """Return the first data argument as a tensor with gaps, and the others: a data set's, then ``args``.

    :param floats: the type of real numbers outside tensors.
    """
    if isinstance(data, Tensor):
        return data if data.is_floating_point() else data.to(floats), args
    with gaps_allowed():
        first, *further = source_of("data", data, floats).take(slice(None))
    return first if first.is_floating_point() else first.to(floats), (*further, *args)


def table_rows(data: Any) -> Tensor:
    """Return rows of columns [N, D] with NaN in gaps, from any source; float64 unless they are a tensor."""
    filled, seen = fill_gaps(data if isinstance(data, Tensor) else _numbers(data, torch.float64))
    if filled.dim() != 2:
        raise InputError(f"data: expected rows of columns [N, D], got shape {tuple(filled.shape)}")
    return torch.where(seen, filled, torch.nan)


def _filling(fill: Any, rows: Tensor) -> Tensor:
    if not isinstance(fill, Tensor):
        return rows.new_tensor(checks.number("fill", fill))
    found = checks.finite("fill", fill).detach().to(rows)
    if found.shape not in (rows.shape[1:], torch.Size(())):
        raise InputError(
            f"fill: expected a number or one for each cell of a row {tuple(rows.shape[1:])}, got shape "
            f"{tuple(found.shape)}"
        )
    return found


def _numbers(data: Any, floats: torch.dtype | None = None) -> Tensor:
    floats = floats or torch.get_default_dtype()
    found: Tensor
    if isinstance(data, Tensor):
        found = data.detach()
    else:
        with gaps_allowed():
            found = source_of("data", data, floats).take(slice(None))[0]
    return found if found.is_floating_point() else found.to(floats)


class GapModel:
    """A model of rows with gaps: ``model(x, seen, *others)`` scores the observed cells only.

    :param whole: no row has a gap, so the likelihood needs no conditionals.
    """

    def __init__(
        self, model: Program, mask_model: masks.MaskModel | None = None, whole: bool = False
    ) -> None:
        self.__wrapped__, self.mask_model = model, mask_model
        self._tried, self._whole = whole, whole and mask_model is None

    def __call__(self, x: Tensor, seen: Tensor, *others: Any, **kwargs: Any) -> Any:
        """Run the model on the observed cells.

        :raises InputError: at the first call, because a density depends on missing cells.
        """
        if not self._tried and get_proxy_mode() is None:
            self._tried = True
            missing = ~seen.all(0)
            if bool(missing.any()):
                with suppress(ImproperPriorError):  # such a model cannot be tried
                    refuse_readers(self, Arguments((x, seen, *others), kwargs), missing)
        if self._whole:
            return self.__wrapped__(x, *others, **kwargs)
        rows = torch.where(seen, x, torch.nan)
        with _Observing(self.mask_model, rows):
            return self.__wrapped__(rows, *others, **kwargs)


class GapGuide:
    """A guide of rows with gaps: ``guide(x, seen, *others)`` sees the filled rows."""

    def __init__(
        self, guide: Program, pass_mask: bool = False, mask_model: masks.MaskModel | None = None
    ) -> None:
        self.__wrapped__, self.pass_mask, self.mask_model = guide, pass_mask, mask_model

    def __call__(self, x: Tensor, seen: Tensor, *others: Any, **kwargs: Any) -> Any:
        """Run the guide on the filled rows."""
        given = (x, seen) if self.pass_mask else (x,)
        with nullcontext() if self.mask_model is None else masks.WithNoise(x):
            return self.__wrapped__(*given, *others, **kwargs)


class _Hiding(Messenger):
    """Base of handlers that put in :class:`ObservedCells`: the model reads NaN in missing cells."""

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if isinstance(msg["fn"], ObservedCells):
            msg["value"] = torch.where(msg["fn"].seen, msg["value"], torch.nan)


class _Observing(_Hiding):
    """Makes observed sites score the cells that are not NaN, and observes the mask if it has a model."""

    def __init__(self, mask_model: masks.MaskModel | None, rows: Tensor) -> None:
        super().__init__()
        self.mask_model, self.rows = mask_model, rows

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if _is_observation(msg):
            value, fn = msg["value"], msg["fn"]
            seen = ~value.isnan()
            if self.mask_model is not None:
                masks.observe_mask(self.mask_model, fn, value, seen)
            # Not by address, which a recording does not have.
            msg["fn"] = ObservedCells(fn, seen, of_rows=value is self.rows)
            msg["value"] = torch.where(seen, value, inside(fn).to(value))


class Completing(_Hiding):
    """Completes the observed sites of a model at given latents; keeps ``draws`` and ``means`` by site.

    :param shape: batch shape of the draws, also for sites that do not depend on the latents.
    :param by_noise: a latent determines the missing cells, as when the mask has a model.
    """

    def __init__(self, shape: tuple[int, ...] = (), by_noise: bool = False) -> None:
        super().__init__()
        self.shape, self.by_noise = shape, by_noise
        self.draws: dict[str, Tensor] = {}
        self.means: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if _is_observation(msg):
            fn, name = msg["fn"], msg["name"]
            fn = fn.expand(torch.broadcast_shapes(fn.batch_shape, self.shape))
            value = msg["value"].expand(fn.batch_shape + fn.event_shape)
            seen = ~value.isnan()
            filled = torch.where(seen, value, inside(fn).to(value))
            if self.by_noise:
                self.draws[name] = self.means[name] = masks.completed(fn, filled, seen)
            else:
                self.draws[name] = drawn(fn, filled, seen)
                self.means[name] = expected(fn, filled, seen)
            msg["fn"], msg["value"] = ObservedCells(fn, seen), filled


def _is_observation(msg: dict[str, Any]) -> bool:
    if not msg["is_observed"] or site_is_subsample(msg) or is_deterministic(msg) or msg["name"] == masks.MASK:
        return False
    value = msg["value"]
    return isinstance(value, Tensor) and value.is_floating_point() and value.numel() > 0


class _Values(Messenger):
    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, Tensor] = {}
        self.counted: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["is_observed"] and not site_is_subsample(msg) and not is_deterministic(msg):
            shape = torch.broadcast_shapes(msg["value"].shape, msg["fn"].shape())
            self.found[msg["name"]] = msg["value"].expand(shape)
            self.counted[msg["name"]] = kept_by_masks(msg).to(msg["value"].device).expand(shape)


@torch.no_grad()
def cells(model: Program, rows: Arguments) -> dict[str, Tensor]:
    """Return, for each observed site of a model, which cells of the data it observes.

    The model runs twice, on two numberings of the cells in place of their values.

    :returns: positions in the flattened rows, in the shape of the site's value; -1 where it is masked.
    :raises InputError: a site observes anything but cells of the data, or no site observes any.
    """
    count = rows.x.numel()
    numbers = torch.arange(count, dtype=torch.float64).reshape(rows.x.shape).to(rows.x.device)
    values = []
    for each in (numbers, 2 * count - numbers):
        with forked(), poutine.block(), pyro.validation_enabled(False), ProperLatents(), _Values() as sites:
            rows.of(each.to(rows.x.dtype)).call(model)
        values.append(sites.found)
        counted = sites.counted
    found = {}
    for name, first in values[0].items():
        second = values[1][name]
        if torch.equal(first, second):
            continue
        if not first.is_floating_point() or not bool((first.double() + second.double() == 2 * count).all()):
            raise InputError(
                f"model: site {name!r} observes a function of the data instead of their cells, or a copy of "
                "another type (.long()); let it observe the cells, which may hold whole numbers as floats"
            )
        found[name] = torch.where(counted[name], first.long(), -1)
    if not found:
        raise InputError(
            "model: expected an observed site of cells of the first data argument, got none; put what the "
            "model observes first (model(x, c))"
        )
    return found
