"""Likelihoods of rows with gaps: densities of observed cells, and draws and means of missing cells."""

from __future__ import annotations

from functools import singledispatch
from typing import Any, ClassVar

import torch
import torch.distributions as tdist
from pyro.distributions import MaskedDistribution, TorchDistribution
from pyro.distributions.util import scale_and_mask, sum_rightmost
from torch import Tensor
from torch.distributions import biject_to, constraints

from pyro_dvae.distributions.gaps import Completed, completed, completed_by_factors
from pyro_dvae.distributions.gaussian_mixture import GaussianMixture
from pyro_dvae.distributions.table import TableDistribution
from pyro_dvae.errors import InputError
from pyro_dvae.internals import mask_of, shared_factors, shared_tril
from pyro_dvae.random_state import forked
from pyro_dvae.sites import element_support, plain_support


class ObservedCells(TorchDistribution):
    """The likelihood of the observed cells of a value: log p(x_observed | z).

    :param base_dist: the likelihood of whole rows.
    :param seen: which cells are observed, in the value's shape.
    :param of_rows: whether the value is the first data argument of a model ``with_gaps``.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, base_dist: Any, seen: Tensor, of_rows: bool = False) -> None:
        self.base_dist, self.seen, self.of_rows = base_dist, seen, of_rows
        super().__init__(base_dist.batch_shape, base_dist.event_shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """The support of whole rows."""
        return self.base_dist.support

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> ObservedCells:
        return ObservedCells(self.base_dist.expand(torch.Size(batch_shape)), self.seen, self.of_rows)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """Draw whole rows."""
        return self.base_dist(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density of the observed cells, in the batch shape (nats)."""
        return observed_log_prob(self.base_dist, value, self.seen)


@singledispatch
def observed_log_prob(fn: Any, value: Tensor, seen: Tensor) -> Tensor:
    """Return the log-density of the observed cells (nats); missing cells of ``value`` are not read."""
    _require_cells(fn)
    return torch.where(seen, fn.log_prob(value), 0.0)


@singledispatch
def drawn(fn: Any, value: Tensor, seen: Tensor) -> Tensor:
    """Return ``value`` with a draw of p(x_missing | z, x_observed) in its missing cells."""
    _require_cells(fn)
    return torch.where(seen, value, fn.sample().to(value.dtype))


@singledispatch
def expected(fn: Any, value: Tensor, seen: Tensor) -> Tensor:
    """Return ``value`` with E(x_missing | z, x_observed) in its missing cells; NaN where there is no mean."""
    _require_cells(fn)
    return torch.where(seen, value, _mean(fn).to(value.dtype))


@singledispatch
def inside(fn: Any) -> Tensor:
    """Return a value in the support, in the shape of a draw, to put in missing cells."""
    shape = fn.batch_shape + fn.event_shape
    try:
        support = element_support(plain_support(fn))
        if support is constraints.real or fn.event_dim:
            return torch.zeros(shape)
        if support.is_discrete:
            return torch.as_tensor(getattr(support, "lower_bound", 0.0)).expand(shape)
        return biject_to(support)(torch.zeros(shape))
    except NotImplementedError:  # no bijection is known
        with forked():
            value: Tensor = fn.sample()
        return value


def _require_cells(fn: Any) -> None:
    if fn.event_dim:
        raise InputError(
            f"model: the cells of a row under {type(fn).__name__} are neither independent given the latents "
            "nor have closed-form conditionals; use a likelihood with .to_event(1), a MultivariateNormal or "
            "a table"
        )


def _mean(fn: Any) -> Tensor:
    try:
        found: Tensor = fn.mean
    except NotImplementedError:
        return torch.full(fn.batch_shape + fn.event_shape, torch.nan)
    return found.expand(fn.batch_shape + fn.event_shape)


@observed_log_prob.register(tdist.Independent)
def _(fn: Any, value: Tensor, seen: Tensor) -> Tensor:
    return sum_rightmost(observed_log_prob(fn.base_dist, value, seen), fn.reinterpreted_batch_ndims)


@drawn.register(tdist.Independent)
def _(fn: Any, value: Tensor, seen: Tensor) -> Tensor:
    return drawn(fn.base_dist, value, seen)


@expected.register(tdist.Independent)
def _(fn: Any, value: Tensor, seen: Tensor) -> Tensor:
    return expected(fn.base_dist, value, seen)


@inside.register(tdist.Independent)
def _(fn: Any) -> Tensor:
    return inside(fn.base_dist)


@observed_log_prob.register(MaskedDistribution)
def _(fn: MaskedDistribution, value: Tensor, seen: Tensor) -> Tensor:
    return scale_and_mask(observed_log_prob(fn.base_dist, value, seen), mask=mask_of(fn))


@drawn.register(MaskedDistribution)
def _(fn: MaskedDistribution, value: Tensor, seen: Tensor) -> Tensor:
    return drawn(fn.base_dist, value, seen)


@expected.register(MaskedDistribution)
def _(fn: MaskedDistribution, value: Tensor, seen: Tensor) -> Tensor:
    return expected(fn.base_dist, value, seen)


@inside.register(MaskedDistribution)
def _(fn: MaskedDistribution) -> Tensor:
    return inside(fn.base_dist)


@observed_log_prob.register(TableDistribution)
def _(fn: TableDistribution, value: Tensor, seen: Tensor) -> Tensor:
    return torch.where(seen, fn.column_log_prob(value), 0.0).sum(-1)


@drawn.register(TableDistribution)
def _(fn: TableDistribution, value: Tensor, seen: Tensor) -> Tensor:
    return torch.where(seen, value, fn.sample().to(value.dtype))


@expected.register(TableDistribution)
def _(fn: TableDistribution, value: Tensor, seen: Tensor) -> Tensor:
    return torch.where(seen, value, fn.mean.to(value.dtype))


@inside.register(TableDistribution)
def _(fn: TableDistribution) -> Tensor:
    found = torch.zeros(fn.batch_shape + fn.event_shape)
    for columns, part in fn.groups:
        found[..., list(columns)] = inside(part).to(found)
    return found


def _completed(fn: Any, value: Tensor, seen: Tensor) -> Completed:
    if isinstance(fn, tdist.LowRankMultivariateNormal):
        # Not expanded over the rows, because they share it.
        factors, variance = shared_factors(fn)
        if factors.dim() == 2:
            return completed_by_factors(fn.loc, factors, variance, value, seen)
        return completed(fn.loc, fn.covariance_matrix, value, seen)
    tril = shared_tril(fn)
    return completed(fn.loc, tril @ tril.mT, value, seen)


@observed_log_prob.register(tdist.MultivariateNormal)
@observed_log_prob.register(tdist.LowRankMultivariateNormal)
def _(fn: Any, value: Tensor, seen: Tensor) -> Tensor:
    return _completed(fn, value, seen).log_prob


@drawn.register(tdist.MultivariateNormal)
@drawn.register(tdist.LowRankMultivariateNormal)
def _(fn: Any, value: Tensor, seen: Tensor) -> Tensor:
    """Return a draw by Matheron's rule: a whole row, shifted so that its observed cells agree."""
    found = _completed(fn, value, seen)
    row = fn.sample()
    return torch.where(seen, value, found.mean + row - _completed(fn, row, seen).mean)


@expected.register(tdist.MultivariateNormal)
@expected.register(tdist.LowRankMultivariateNormal)
def _(fn: Any, value: Tensor, seen: Tensor) -> Tensor:
    return torch.where(seen, value, _completed(fn, value, seen).mean)


@observed_log_prob.register(GaussianMixture)
def _(fn: GaussianMixture, value: Tensor, seen: Tensor) -> Tensor:
    return fn.observed_log_prob(value, seen)


@drawn.register(GaussianMixture)
def _(fn: GaussianMixture, value: Tensor, seen: Tensor) -> Tensor:
    return fn.drawn(value, seen)[0]


@expected.register(GaussianMixture)
def _(fn: GaussianMixture, value: Tensor, seen: Tensor) -> Tensor:
    return fn.expected(value, seen)
