"""The functions of this folder as methods of the result of ``fit``, which has model, guide and constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyro_dvae.conditioning import anomaly_score, condition, impute, inference_gaps, predict, sample_given
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.importance.log_likelihood import log_likelihood
from pyro_dvae.programs.row_parameters import refuse_other_rows
from pyro_dvae.rows import Arguments, Data, columns_of, same_columns
from pyro_dvae.training.fitted import Fitted
from pyro_dvae.using.codes import encode
from pyro_dvae.using.decoding import decode, denoise, interpolate, reconstruct, sample
from pyro_dvae.using.diagnose import diagnose
from pyro_dvae.using.generated import observes_first
from pyro_dvae.using.labelled_draws import to_arviz
from pyro_dvae.using.saving import save


def _of_pair(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of model, guide and rows as a method of rows."""

    def method(fitted: Fitted, *data: Any, **options: Any) -> Any:
        if data:
            _require_columns(fitted, data[0])
            refuse_other_rows(fitted.trained, "guide", "use Pyro's own functions on the rows of training")
        with fitted.in_use():
            return function(fitted.model, fitted.guide, *data, **{**fitted.constants, **options})

    return method


def _require_columns(fitted: Fitted, data: Any) -> None:
    """Refuse a table for the model of a run, and one whose columns differ from those of training."""
    found = columns_of(data)
    if found and fitted.about.get("config", {}).get("data", {}).get("columns"):
        raise InputError(
            "data: got a table, but the model of a run takes scaled and encoded columns, as a tensor; save "
            "the table, and use the command line (pyro-dvae impute RUN FILE), which does both"
        )
    same_columns("data", fitted.about.get("columns", ()), found)


def _decode(fitted: Fitted, codes: Any, *data: Any, **options: Any) -> Any:
    with fitted.in_use():
        return decode(fitted.model, codes, *_rows(fitted, data), **{**fitted.constants, **options})


def _sample(fitted: Fitted, num_samples: int = 1, *data: Any, **options: Any) -> Any:
    with fitted.in_use():
        return sample(
            fitted.model, *_rows(fitted, data), num_samples=num_samples, **{**fitted.constants, **options}
        )


def _rows(fitted: Fitted, data: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return rows of all data arguments; if the model generates the first, its values do not matter."""
    place = next((leaf.device for leaf in fitted.trained.parameters.values()), None)
    first, *further = (row.to(device=place) for row in fitted.rows)
    if not further:
        return data or (first,)
    if not data:
        raise InputError(
            f"data: the model takes {len(fitted.rows)} data arguments; pass the further ones (such as "
            "labels) after the first argument"
        )
    if len(data) == len(further):
        if not any(observes_first(fitted.model, Arguments((first, *further), fitted.constants)).values()):
            raise InputError(
                "data: the model does not observe its first data argument, so the values of that matter; "
                f"pass all {len(fitted.rows)} data arguments, as to fit"
            )
        count = len(Data.opened("data", data))
        return (first[:1].expand(count, *first.shape[1:]), *data)
    return data


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
    "to_arviz": _of_pair(to_arviz),
    "decode": _decode,
    "sample": _sample,
    "save": save,
}
