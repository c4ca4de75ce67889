"""The verbs as methods of what ``fit`` returns, which knows its model, guide and constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyro_dvae.conditioning import anomaly_score, condition, impute, inference_gaps, predict, sample_given
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.importance.log_likelihood import log_likelihood
from pyro_dvae.training.fitted import Fitted
from pyro_dvae.using.codes import encode
from pyro_dvae.using.decoding import decode, denoise, interpolate, reconstruct, sample
from pyro_dvae.using.diagnose import diagnose
from pyro_dvae.using.saving import save


def _of_pair(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of model, guide and rows as a method of rows."""

    def method(fitted: Fitted, *data: Any, **options: Any) -> Any:
        with fitted.in_use():
            return function(fitted.model, fitted.guide, *data, **{**fitted.constants, **options})

    return method


def _decode(fitted: Fitted, codes: Any, *data: Any, **options: Any) -> Any:
    with fitted.in_use():
        return decode(fitted.model, codes, *(data or _rows(fitted)), **{**fitted.constants, **options})


def _sample(fitted: Fitted, num_samples: int = 1, *data: Any, **options: Any) -> Any:
    with fitted.in_use():
        rows = data or _rows(fitted)
        return sample(fitted.model, *rows, num_samples=num_samples, **{**fitted.constants, **options})


def _rows(fitted: Fitted) -> tuple[Any, ...]:
    if len(fitted.rows) > 1:
        raise InputError(
            f"data: the model takes {len(fitted.rows)} data arguments; give rows of all of them after the "
            "first argument: the values of the further ones count"
        )
    return fitted.rows


METHODS: dict[str, Callable[..., Any]] = {
    "encode": _of_pair(encode),
    "reconstruct": _of_pair(reconstruct),
    "denoise": _of_pair(denoise),
    "interpolate": _of_pair(interpolate),
    "log_likelihood": _of_pair(log_likelihood),
    "condition": _of_pair(condition),
    "impute": _of_pair(impute),
    "predict": _of_pair(predict),
    "sample_given": _of_pair(sample_given),
    "anomaly_score": _of_pair(anomaly_score),
    "inference_gaps": _of_pair(inference_gaps),
    "diagnose": _of_pair(diagnose),
    "decode": _decode,
    "sample": _sample,
    "save": save,
}
