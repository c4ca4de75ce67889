"""Refuses observed values outside the support of their likelihood, in a run and in all rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import constraints

from pyro_dvae.buffers import on_trial
from pyro_dvae.distributions.table import OfColumns
from pyro_dvae.errors import DataError, InputError
from pyro_dvae.programs.plates import data_frames
from pyro_dvae.rows import Data, LoaderBatches
from pyro_dvae.sites import element_support, has_several_bounds, layers, plain_support

_BLOCK = 1 << 24  # numbers to check at a time


class InSupport(Messenger):
    """Refuses observed values outside the support of their distribution, unless masked or missing (NaN).

    For a Bernoulli, values between 0 and 1 are accepted; its log-density is then the usual cross-entropy.

    :param argument: the argument with the values, for the message.
    :param x: rows of the run. If a site observes them unchanged, or the cells of a model ``with_gaps``,
        :meth:`require` checks other rows.
    :param estimated: whether the density is wanted as a number, so that half precision is refused.
    """

    def __init__(self, argument: str, x: Tensor | None = None, estimated: bool = False) -> None:
        super().__init__()
        self._argument, self._x, self._estimated = argument, x, estimated
        self._supports: dict[str, tuple[Any, bool]] = {}

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        value = msg["value"]
        if not msg["is_observed"] or not isinstance(value, Tensor):
            return
        x = self._x
        own = x is not None and (value.data_ptr(), value.numel()) == (x.data_ptr(), x.numel())
        if own and x is not None and value.shape == x.shape:
            _refuse_repeated(self._argument, msg)
        if self._estimated and value.dtype in (torch.float16, torch.bfloat16):
            raise DataError(
                f"{self._argument}: the likelihood of site {msg['name']!r} is computed in {value.dtype}, "
                "which rounds log-densities of hundreds of nats to whole ones; convert data and modules "
                "(.float()) to estimate it"
            )
        if _has_mask(msg["fn"]):
            return
        try:
            support = _relaxed(plain_support(msg["fn"]))
            inside = _inside(support, value)
            if msg["mask"] is not None:
                inside = inside | ~torch.as_tensor(msg["mask"], device=inside.device)
        except (AttributeError, NotImplementedError, RuntimeError):  # no support, or of another shape
            return
        if _may_move(support):
            return
        _refuse(self._argument, msg["name"], support, value, inside)
        with_gaps = getattr(msg["fn"], "of_rows", False)
        if (own or with_gaps) and msg["mask"] is None and not has_several_bounds(support):
            self._supports[msg["name"]] = support, with_gaps

    def require(self, rows: Data | LoaderBatches, argument: str = "data") -> None:
        """Refuse rows with values outside the supports found in the run: now, or when they are read."""
        if not self._supports:
            return
        if isinstance(rows, Data) and rows.sources[0].in_memory:
            for some in rows.split(max(1, _BLOCK // max(1, rows[:1].x.numel()))):
                self._check(argument, some.rows)
        else:
            (rows.sources[0] if isinstance(rows, Data) else rows).check = partial(self._check, argument)

    def _check(self, argument: str, rows: tuple[Tensor, ...]) -> None:
        for site, (support, with_gaps) in self._supports.items():
            x = torch.where(rows[1], rows[0], torch.nan) if with_gaps else rows[0]
            _refuse(argument, site, support, x, _inside(support, x))


@torch.no_grad()
def require_observed(model: Callable[..., Any], x: Tensor, *others: Tensor, **kwargs: Any) -> None:
    """Refuse observed cells of rows ``x`` [N, ...], with NaN in gaps, outside the likelihood's support.

    :param others: further data arguments of the model, N rows each.
    """
    support, few = InSupport("data", x[:2], estimated=True), (x[:2], *(each[:2] for each in others))
    with on_trial(), pyro.validation_enabled(False), poutine.block(), support:
        model(*few, **kwargs)
    support.require(Data.of_tensors(x))


def _refuse_repeated(argument: str, msg: dict[str, Any]) -> None:
    """Refuse data that a plate of their length repeats: a single row where the model expects several."""
    x, fn = msg["value"], msg["fn"]
    for frame in data_frames(msg):
        if 1 < frame.size == len(x) and -frame.dim > x.dim() - len(fn.event_shape):
            raise InputError(
                f"{argument}: expected rows along the first dimension, got shape {tuple(x.shape)}, which "
                f"site {msg['name']!r} observes {len(x)} times, once for each entry of plate {frame.name!r}; "
                "give a single row as x[None], and rows in batches (torch.utils.data.DataLoader)"
            )


def _refuse(argument: str, site: str, support: Any, value: Tensor, inside: Tensor) -> None:
    if not bool(inside.all()):
        where = ""
        if isinstance(support, OfColumns):
            outside = ~support.cells(value)
            column = int(outside.nonzero()[:, -1].min())
            value = value[..., column][outside[..., column]]
            support, where = support.of(column), f", column {column}"
        raise DataError(
            f"{argument}: expected values in the support of the likelihood of site {site!r}{where} "
            f"({_in_words(support)}), got values from {_least(value):g} to {-_least(-value):g}; "
            "rescale them, or choose another likelihood"
        )


def _least(value: Tensor) -> float:
    return float(value[~value.isnan()].min())


def _has_mask(fn: Any) -> bool:
    """Whether a distribution masks elements, which its support does not show."""
    return any(isinstance(each, dist.MaskedDistribution) for each in layers(fn))


def _relaxed(support: Any) -> Any:
    """Replace {0, 1} in a support with [0, 1], and let counts have any total.

    The density of a multinomial is that of the counts given their own total. A program may compute
    ``total_count`` from the batch, so another batch may exceed it.
    """
    if isinstance(support, constraints.multinomial):
        return constraints.independent(constraints.nonnegative_integer, 1)
    if isinstance(support, constraints.independent):
        return constraints.independent(_relaxed(support.base_constraint), support.reinterpreted_batch_ndims)
    return constraints.unit_interval if support is constraints.boolean else support


def _inside(support: Any, value: Tensor) -> Tensor:
    element = element_support(support)
    inside: Tensor = element.check(value)
    if not element.event_dim:
        inside = inside | value.isnan()
    for _ in range(support.event_dim - element.event_dim):
        inside = inside.all(-1)
    return inside


def _may_move(support: Any) -> bool:
    """Whether a support may depend on latents, as in Uniform(z, z + 1): values outside have log p = −∞."""
    element = element_support(support)
    return not element.is_discrete and any(isinstance(each, Tensor) for each in vars(element).values())


def _in_words(support: Any) -> str:
    element = element_support(support)
    kind = "whole numbers" if element.is_discrete else "values"
    bounds = (getattr(element, name, None) for name in ("lower_bound", "upper_bound"))
    low, high = (float(each.max()) if isinstance(each, Tensor) else each for each in bounds)
    if element is constraints.boolean:
        return "0 or 1"
    if low is None and high is None:
        return str(element)
    if low is None:
        return f"{kind} below {high:g}"
    if high is None:
        return f"{kind} {'above' if isinstance(element, constraints.greater_than) else 'of at least'} {low:g}"
    return f"{kind} from {low:g} to {high:g}"
