"""The arguments that ``Trainer``, ``fit`` and ``fit_many`` share, checked once."""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from pyro.infer import ELBO
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.calling import calling
from pyro_dvae.engine.step import Numerics
from pyro_dvae.errors import CheckpointError, InputError, shown
from pyro_dvae.files import user_path
from pyro_dvae.rows import Data, LoaderBatches, opened, same_columns
from pyro_dvae.training import learning_rates
from pyro_dvae.training import optimizer as optimizers
from pyro_dvae.training.callbacks.base import Callback, checked
from pyro_dvae.training.identity import described, described_bound
from pyro_dvae.training.progress import Progress, chosen


class Settings:
    """The checked arguments of training, which :class:`~pyro_dvae.training.Trainer` documents."""

    def __init__(
        self,
        *,
        loss: ELBO,
        epochs: int = 100,
        batch_size: int = 100,
        validate_every: int = 1,
        optimizer: optimizers.Choice = None,
        parameter_options: Mapping[str, Mapping[str, Any]] | None = None,
        schedule: Any = None,
        clip_norm: float | None = None,
        accumulate: int = 1,
        freeze: Any = None,
        ema: float | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
        evaluate: Callable[..., float] | None = None,
        callbacks: Iterable[Callback | Callable[..., object]] = (),
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 1,
        resume: bool = False,
        progress: Progress | bool | None = None,
        may_change: Iterable[str] = ("epochs",),
        compile: bool | None = None,  # noqa: A002 - torch's own word for it
        bfloat16: bool = False,
    ) -> None:
        self.bound: ELBO = checks.elbo("loss", loss)
        self.epochs = checks.count("epochs", epochs)
        self.batch_size = checks.count("batch_size", batch_size)
        self.validate_every = checks.count("validate_every", validate_every)
        self.optimizer = optimizers.chosen("optimizer", optimizer)
        self.parameter_options = _options_of("parameter_options", parameter_options)
        self.torch_schedule = learning_rates.torch_schedule(schedule)
        self.schedule = learning_rates.learning_rate_schedule(schedule)
        self.has_schedule = self.schedule != learning_rates.SCHEDULES["constant"]
        self._described_schedule = learning_rates.describe(schedule if self.torch_schedule else self.schedule)
        self.clip_norm: float | None = checks.optional(checks.positive, "clip_norm", clip_norm)
        self.accumulate = checks.count("accumulate", accumulate)
        self.freeze = freeze
        self.ema = None if ema is None else checks.number("ema", ema, 0.0, 1.0)
        if self.ema == 1:
            raise InputError("ema: expected a decay below 1, got 1: the averages would never move")
        self.transform: Callable[[Tensor], Tensor] | None = checks.optional(
            checks.program, "transform", transform
        )
        self.evaluate: Callable[..., float] | None = checks.optional(checks.program, "evaluate", evaluate)
        self.callbacks = checked("callbacks", callbacks)
        if checks.flag("resume", resume) and checkpoint is None:
            raise InputError("resume: expected the path of the checkpoint to resume, got checkpoint=None")
        self.resume = resume
        self.checkpoint = None if checkpoint is None else user_path("checkpoint", checkpoint)
        with suppress(PermissionError):  # reading will say so
            if resume and self.checkpoint is not None and not self.checkpoint.exists():
                raise CheckpointError(
                    f"checkpoint {self.checkpoint}: there is no such file; start without resume=True, or "
                    "with resume=os.path.exists(...) of this path in a script that is repeated"
                )
        self.checkpoint_every = checks.count("checkpoint_every", checkpoint_every)
        self.progress = chosen("progress", progress)
        if isinstance(may_change, str) or not isinstance(may_change, Iterable):
            raise InputError(
                f"may_change: expected a list of names, such as ['epochs', 'seed'], got {shown(may_change)}"
            )
        self.may_change = tuple(may_change)
        self.numerics = Numerics("hashed", checks.flag("bfloat16", bfloat16))
        self.compile: bool | None = checks.optional(checks.flag, "compile", compile)
        if bfloat16 and compile is False:
            raise InputError("bfloat16: it has no effect without compiled steps; leave out compile=False")

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Settings:
        """Return the settings among the arguments of a public function."""
        checks.gradients()
        return cls(
            **{name: arguments[name] for name in inspect.signature(cls).parameters if name in arguments}
        )

    def validation_is_due(self, epoch: int) -> bool:
        """Return whether ``epoch`` (from 0) ends with a validation."""
        return _due(epoch, self.epochs, self.validate_every)

    def checkpoint_is_due(self, epoch: int) -> bool:
        """Return whether the checkpoint, if there is one, is saved after ``epoch`` (from 0)."""
        return self.checkpoint is not None and _due(epoch, self.epochs, self.checkpoint_every)

    def transformed(self, x: Tensor) -> Tensor:
        """Return a batch after ``transform``."""
        if self.transform is None:
            return x
        with calling("transform"):
            return self.transform(x)

    def rate_factor(self, epoch: int) -> float:
        """Return the factor of the base learning rate in ``epoch`` (from 0)."""
        with calling("schedule"):
            factor = self.schedule(epoch, self.epochs)
        return checks.number("schedule", factor, minimum=0)

    def described(self, learning_rate: Any) -> dict[str, Any]:
        """Return these settings as a checkpoint stores them."""
        return {
            "batch_size": self.batch_size,
            "validate_every": self.validate_every,
            "learning_rate": learning_rate,
            "schedule": self._described_schedule,
            "clip_norm": self.clip_norm,
            "accumulate": self.accumulate,
            "ema": self.ema,
            "bfloat16": self.numerics.bfloat16,
            "loss": described_bound(self.bound),
            "transform": described(self.transform),
        }


def seed_of(argument: str, value: Any) -> int:
    """Check and return a seed, a whole number of at least 0."""
    return checks.count(argument, value, minimum=0)


def _options_of(argument: str, value: Any) -> dict[str, dict[str, Any]]:
    options = value or {}
    if not isinstance(options, Mapping) or not all(isinstance(each, Mapping) for each in options.values()):
        raise InputError(f"{argument}: expected options by pattern of names, got {shown(value)}")
    if any("params" in each for each in options.values()):
        raise InputError(
            f"{argument}: the pattern of names chooses the parameters, so leave out the option 'params'"
        )
    return {str(pattern): dict(each) for pattern, each in options.items()}


def _due(epoch: int, epochs: int, every: int) -> bool:
    """Return whether something done every ``every`` epochs, and after the last, is due after ``epoch``."""
    return (epoch + 1) % every == 0 or epoch + 1 == epochs


Program = Callable[..., Any]


def opened_rows(
    values: Sequence[Any], validation: Any, floats: torch.dtype
) -> tuple[Data | LoaderBatches, Data | None]:
    """Return the training rows, or the batches of a loader, and the held-out rows.

    :param values: the data arguments.
    :param validation: the same parts, as a tuple if there are several, or None.
    :param floats: the type of real numbers outside tensors.
    """
    train: Data | LoaderBatches | None = None
    if len(values) == 1 and not isinstance(values[0], Data):
        first = opened("data", values[0], floats)
        train = first if isinstance(first, LoaderBatches) else Data((first,))
    held_out = None
    if validation is not None:
        parts = validation if isinstance(validation, tuple) else (validation,)
        held_out = Data.opened("validation", parts, floats=floats)
    train = train or Data.opened("data", values, floats=floats)
    if held_out is not None and isinstance(train, Data):
        same_columns("validation", train.columns, held_out.columns)
    return train, held_out


def options_of(function: Callable[..., Any]) -> list[str]:
    """Return the names of the keyword-only arguments of a function or class."""
    found = inspect.signature(function).parameters.values()
    return [each.name for each in found if each.kind is inspect.Parameter.KEYWORD_ONLY]


def with_constants(
    constants: Mapping[str, Any], model: Program, guide: Program, options: Sequence[str]
) -> tuple[Program, Program]:
    """Return model and guide with keyword arguments that are passed unchanged to every call.

    :param options: options of the public function, to suggest the nearest in a message.
    :raises InputError: a program takes no argument of such a name.
    """
    if not constants:
        return model, guide
    for name in constants:
        if not (_takes(model, name) and _takes(guide, name)):
            near = difflib.get_close_matches(name, options, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"{name}: neither an option, nor an argument of both model and guide{hint}")
    return partial(model, **constants), partial(guide, **constants)


def _takes(program: Program, name: str) -> bool:
    """Return whether a program takes a keyword argument of this name."""
    called = program.forward if isinstance(program, torch.nn.Module) else program
    try:
        parameters = inspect.signature(called).parameters
    except (TypeError, ValueError):  # a builtin has no signature
        return True
    by_keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    open_end = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    return open_end or (name in parameters and parameters[name].kind in by_keyword)
