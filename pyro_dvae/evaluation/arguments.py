"""One-line errors for models and guides that fail on part of the rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from pyro_dvae.calling import first_line
from pyro_dvae.errors import InputError
from pyro_dvae.programs.draws import Draws
from pyro_dvae.programs.observations import shared


@contextmanager
def rows_of(count: int, total: int) -> Iterator[None]:
    """Turn exceptions of programs that run on part of the rows into one-line errors.

    :param count: rows at a time.
    :param total: rows in all.
    """
    advice = "they must run on any number of rows"
    if count < total:
        advice += "; a guide with parameters for each observation (an AutoGuide of local latents) does not"
    try:
        yield
    except InputError as error:
        if count < total and re.search(rf"\b{total}\b", str(error.__cause__)):  # a shape has all rows
            raise InputError(f"{error}; {advice}") from error.__cause__
        raise
    except Warning:
        raise
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        reason = first_line(error) or type(error).__name__
        raise InputError(
            f"model, guide: they fail on {count} of {total} rows at a time ({reason}); {advice}"
        ) from error


def why_shared(draws: Draws) -> str:
    """Return why the sites share no data plate, with the remedy; empty if they share one."""
    reason = shared(draws)
    if reason is None:
        return ""
    latents = {site["name"] for site in draws.counted_sites() if not site["is_observed"]}
    remedy = ""
    joint = [site["name"] for site in draws.counted_sites() if site["infer"].get("is_auxiliary")]
    if any(repr(name) in reason for name in joint):
        remedy = "; an AutoGuide that keeps the plates (AutoNormal) has a density for each observation"
    elif " outside of plate " in reason and any(repr(name) in reason for name in latents):
        remedy = (
            "; latents that all observations share (the weights of a network) are integrated over by "
            "pyro_dvae.models.bayes.PredictiveModel"
        )
    return f"; {reason}{remedy}"
