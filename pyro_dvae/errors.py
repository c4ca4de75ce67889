"""What this package raises when it cannot go on: one line that names the cause and the remedy."""

from __future__ import annotations


class InputError(ValueError):
    """What the caller gave cannot be used: names the argument, what was expected and what came."""


class DataError(InputError):
    """A data set, file or array that cannot be read, or that holds values the model cannot take."""


class CheckpointError(InputError):
    """A checkpoint that is missing, damaged, foreign, or of another configuration."""


class DivergenceError(ArithmeticError):
    """The loss became NaN or infinite; the last good checkpoint is untouched."""


class ProcessLostError(RuntimeError):
    """Of several processes that work together another one ended; the last checkpoint is untouched."""


class CompiledStepError(RuntimeError):
    """A compiled step gives other numbers than the program it was made from: something changed unseen."""
