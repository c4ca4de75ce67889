"""Molecular cross-validation: how well counts predict those that were held back from the same rows."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.corruptions import BinomialThinning
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.estimates import Estimate, estimate_values, plus_minus
from pyro_dvae.evaluation.measures.means import mean_of
from pyro_dvae.evaluation.measures.passes import (
    Program,
    by_row,
    check_pair,
    chunks,
    data_plate,
    first_chunk,
    measuring,
)
from pyro_dvae.programs.parameters import float_type
from pyro_dvae.random_state import forked
from pyro_dvae.rows import Arguments, Data

_SMALLEST = 1e-6  # an expected count: keeps the loss of a count that was held to be impossible finite
_DEPTH = 10_000.0  # of log-normalised counts


@dataclass(frozen=True, eq=False)  # compared by identity: == of tensors has no single truth value
class CountSplitErrors:
    """What :meth:`CountSplit.errors` found; less is better.

    :param squared: mean over the columns of the squared difference of log-normalised counts, per row [N].
    :param poisson: mean over the columns of μ − y log μ for held-back counts y of prediction μ, per row [N]
        (nats, without the constant log y!).
    """

    squared: Estimate
    poisson: Estimate

    def __str__(self) -> str:
        squared = plus_minus(self.squared.mean, self.squared.standard_error, digits=5)
        poisson = plus_minus(self.poisson.mean, self.poisson.standard_error, digits=5)
        return f"held-back counts: squared error of log-normalised {squared}, Poisson loss {poisson}"

    def to_dict(self, per_datum: bool = False) -> dict[str, Any]:
        """Return the record as JSON-able values."""
        return {
            "squared": estimate_values(self.squared, per_datum),
            "poisson": estimate_values(self.poisson, per_datum),
        }


@dataclass(frozen=True, eq=False)
class CountSplit:
    """Rows of counts in two parts; train on ``train``, then measure.

    :param train: each count thinned to the share that is kept, [N, D].
    :param test: what was held back, [N, D]; the two add up to the data.
    :param share: expected share of ``test``.
    """

    train: Tensor
    test: Tensor
    share: float

    def errors(self, denoised: Tensor, logs: Tensor | None = None) -> CountSplitErrors:
        """Compare the held-back counts with expected counts [N, D] on the scale of ``train``.

        :param denoised: expected counts, at least 0; their scale matters for the Poisson loss alone.
        :param logs: expected log-normalised counts of the test part, [N, D], at which the squared error is
            least; by default the log-normalised ``denoised``, which are larger.
        """
        checks.data("denoised", denoised)
        for name, given in (("denoised", denoised), ("logs", logs)):
            if given is not None and given.shape != self.test.shape:
                expected = tuple(self.test.shape)
                raise InputError(f"{name}: expected shape {expected}, got {tuple(given.shape)}")
        if bool((denoised < 0).any()):
            raise InputError(f"denoised: expected values of at least 0, got {float(denoised.min()):g}")
        found, wanted = denoised.double(), self.test.double()
        predicted = log_normalised(found) if logs is None else checks.data("logs", logs).double()
        squared = (predicted - log_normalised(wanted)).square().mean(1)
        expected_counts = (found * self.share / (1 - self.share)).clamp(min=_SMALLEST)
        poisson = (expected_counts - wanted * expected_counts.log()).mean(1)
        return CountSplitErrors(Estimate(squared.cpu()), Estimate(poisson.cpu()))


def count_split(data: Tensor, share: float = 0.1, *, seed: int = 0) -> CountSplit:
    """Split each count of ``data`` at random into a training and a test part (Batson et al. 2019).

    If counts are Poisson, the two parts are independent given the rates, so a denoiser of the training part
    is measured without knowing the truth::

        train ~ Binomial(x, 1 − share),   test = x − train
        split = count_split(x);  fit(model, guide, split.train, ...)
        split.errors(denoised_counts(model, guide, split.train))

    :param data: whole numbers ≥ 0, [N, D].
    :param share: expected share of the test part, between 0 and 1.
    :param seed: of the split.
    """
    checks.data("data", checks.floating("data", data))
    if data.dim() != 2 or bool(((data < 0) | (data != data.round())).any()):
        raise InputError("data: expected counts of shape [rows, columns], whole numbers of at least 0")
    share = checks.number("share", share, 0.0, 1.0)
    if not 0 < share < 1:
        raise InputError(f"share: expected a number above 0 and below 1, got {share:g}")
    with forked(checks.count("seed", seed, minimum=0)):
        train = BinomialThinning(share)(data).sample()
    return CountSplit(train, data - train, share)


def log_normalised(counts: Tensor) -> Tensor:
    """Return log(1 + 10⁴ x / Σ x) of rows [N, D]; an empty row gives zeros."""
    total = counts.sum(1, keepdim=True)
    return torch.log1p(counts * (_DEPTH / torch.where(total > 0, total, 1.0)))


def denoised_counts(
    model: Program,
    guide: Program,
    data: Any,
    *args: Any,
    data_site: str = "x",
    num_samples: int = 20,
    clean: bool = True,
    seed: int | None = None,
    batch_size: int | None = None,
    **kwargs: Any,
) -> Tensor:
    """Return the expected observation E_{q(z|x)} E[x | z] of each row [N, ...], without a gradient.

    :param model: Pyro model of a batch, with one data plate; a decoder of counts should be told the totals of
        the rows, as the ready-made models do.
    :param guide: Pyro guide of a batch.
    :param data: rows [N, ...], from any source (:mod:`pyro_dvae.rows`).
    :param args: further data for model and guide, N rows each, split like ``data``.
    :param kwargs: further arguments of model and guide, passed unchanged.
    :param data_site: name of the model's observed site.
    :param num_samples: draws of the latents that are averaged.
    :param clean: give the guide clean input; otherwise corrupt it.
    :param seed: seed of a separate random stream; None uses the global one.
    :param batch_size: rows at a time; by default 2,000.
    :raises InputError: if the site's distribution has no known mean.
    """
    given = Data.opened("data", (data, *args), kwargs, float_type(model, guide))
    checks.count("num_samples", num_samples)
    parts = []
    plate = ""
    with measuring(model, guide, first_chunk(given, batch_size), clean, seed):
        for rows in chunks(given, batch_size):
            if not plate:
                draws = check_pair(model, guide, rows)
                plate = data_plate(draws, len(rows))
                observed = [site["name"] for site in draws.model_sites() if site["is_observed"]]
                checks.known("data_site", data_site, observed)
            runs = (_mean(model, guide, rows, data_site, plate) for _ in range(num_samples))
            parts.append(functools.reduce(torch.add, runs) / num_samples)
    return torch.cat(parts)


def _mean(model: Program, guide: Program, rows: Arguments, data_site: str, plate: str) -> Tensor:
    """Return E[x | z] of the rows at codes that the guide draws."""
    codes = rows.call(poutine.trace(guide).get_trace)
    site = rows.call(poutine.trace(poutine.replay(model, trace=codes)).get_trace).nodes[data_site]
    mean = mean_of(site["fn"])
    if mean is None or bool(torch.isnan(mean).all()):
        raise InputError(f"data_site: the distribution at {data_site!r} has no known mean")
    return by_row(mean, site, plate)
