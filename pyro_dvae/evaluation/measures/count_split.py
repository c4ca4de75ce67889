"""Molecular cross-validation: how well counts predict held-out counts of the same rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.corruptions import BinomialThinning
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.estimates import Estimate, estimate_values, plus_minus
from pyro_dvae.evaluation.measures.denoised import log_normalised
from pyro_dvae.random_state import forked

_SMALLEST = 1e-6  # least expected count: keeps the loss of a count that was predicted as 0 finite


@dataclass(frozen=True, eq=False)  # compared by identity: == of tensors has no single truth value
class CountSplitErrors:
    """The result of :meth:`CountSplit.errors`; lower is better.

    :param squared: mean over the columns of the squared difference of log-normalised counts, per row [N].
    :param poisson: mean over the columns of μ − y log μ for held-out counts y of prediction μ, per row [N]
        (nats, without the constant log y!).
    """

    squared: Estimate
    poisson: Estimate

    def __str__(self) -> str:
        squared = plus_minus(self.squared.mean, self.squared.standard_error, digits=5)
        poisson = plus_minus(self.poisson.mean, self.poisson.standard_error, digits=5)
        return f"held-out counts: squared error of log-normalised {squared}, Poisson loss {poisson}"

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
    :param test: the held-out counts, [N, D]; the two add up to the data.
    :param share: expected share of ``test``.
    """

    train: Tensor
    test: Tensor
    share: float

    def errors(self, denoised: Tensor, logs: Tensor | None = None) -> CountSplitErrors:
        """Compare the held-out counts with expected counts [N, D] on the scale of ``train``.

        :param denoised: expected counts, at least 0; their scale matters only for the Poisson loss.
        :param logs: expected log-normalised counts of the test part, [N, D], which minimise the squared
            error; by default the log-normalised ``denoised``, which are larger.
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

    If counts are Poisson, the two parts are independent given the rates, so the test part measures a denoiser
    of the training part without knowledge of the true rates::

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
