"""Evaluation mode for whatever modules a model and a guide call, wherever they live."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pyro import poutine
from torch import Tensor

from pyro_dvae.parameters import discover


@contextmanager
def evaluation_mode(
    model: Callable[..., Any], guide: Callable[..., Any] | None, rows: Tensor, *others: Tensor, **kwargs: Any
) -> Iterator[None]:
    """Put the modules of a model and a guide in evaluation mode; afterwards each is in the mode it was in.

    Dropout would change a figure at random, and batch normalisation make it depend on the other data and
    change with every call. The modules are found by one run on ``rows`` and the other arguments, which leaves
    nothing behind.
    """

    def run() -> None:
        with poutine.block():
            trace = poutine.trace(guide).get_trace(rows, *others, **kwargs) if guide is not None else None
            (model if trace is None else poutine.replay(model, trace=trace))(rows, *others, **kwargs)

    with discover(model, guide, run, required=False, data={"x": rows}).evaluating():
        yield
