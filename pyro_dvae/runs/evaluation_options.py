"""The options of an evaluation, declared once: a record and its click options."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import click

PROPOSALS = ("auto", "clean", "corrupted", "mixture")
WEIGHTS = ("best", "last")
STARTS = ("guide", "prior")


def _option(default: Any, help_text: str, **click_arguments: Any) -> Any:
    return field(default=default, metadata={"help": help_text, "click": click_arguments})


@dataclass(frozen=True)
class EvaluationOptions:
    """Everything that decides the figures of an evaluation, and how much memory it may take."""

    samples: int = _option(5000, "Importance samples of each datum.")
    proposal: str = _option(
        "auto",
        "What they are drawn from: q(z|x), q(z|x~) with fresh noise, a mixture of those, or what is better.",
        type=click.Choice(PROPOSALS),
    )
    corruptions: int = _option(10, "Corruptions of the mixture (M).")
    defensive: float = _option(0.0, "Share of the samples from the prior, below 1.")
    widen: float = _option(1.0, "Factor of the guide's standard deviations.")
    count: int | None = _option(None, "Evaluate the first N test data.  [default: all]", type=int)
    seed: int = _option(0, "Seed of everything that is drawn here; the test data stay those of the run.")
    which: str = _option(
        "best", "Weights of the best epoch by validation, or of the last.", type=click.Choice(WEIGHTS)
    )
    memory: int = _option(512, "Megabytes that samples and chains may take, about.")
    bfloat16: bool = _option(False, "Round factors of matrix products: faster, noisier.", is_flag=True)
    no_compile: bool = _option(False, "Do without the compiler.", is_flag=True)
    annealed: int = _option(20, "Test data for annealed importance sampling, the first ones; 0: none.")
    annealing_start: str = _option(
        "guide", "Where chains start: at the guide or at the prior.", type=click.Choice(STARTS)
    )
    annealing_steps: int = _option(300, "Temperatures of each chain.")
    chains: int = _option(8, "Chains of each datum.")
    simulated: int = _option(
        20, "Data drawn from the model for bidirectional Monte Carlo (log p(x) from both sides); 0: none."
    )
    keep_weights: bool = _option(False, "Keep all log weights in the netCDF file.", is_flag=True)

    def as_dict(self) -> dict[str, Any]:
        """Return the options as a JSON-able dictionary."""
        return dataclasses.asdict(self)


def evaluation_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a click command every option of an evaluation; the function gets them as ``options``."""
    names = [each.name for each in dataclasses.fields(EvaluationOptions)]

    @functools.wraps(command)
    def run(**values: Any) -> None:
        options = EvaluationOptions(**{name: values.pop(name) for name in names})
        command(options=options, **values)

    decorated: Callable[..., Any] = run
    for entry in reversed(dataclasses.fields(EvaluationOptions)):
        arguments = dict(entry.metadata["click"])
        if not arguments.keys() & {"type", "is_flag"}:
            arguments["type"] = type(entry.default)
        decorated = click.option(
            "--" + entry.name.replace("_", "-"),
            default=entry.default,
            help=entry.metadata["help"],
            show_default=entry.default is not None and entry.default is not False,
            **arguments,
        )(decorated)
    return decorated
