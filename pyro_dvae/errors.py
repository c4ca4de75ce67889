"""What this package raises when it cannot go on: one line that names the cause and the remedy."""

from __future__ import annotations


def shown(value: object) -> str:
    """Return ``value`` as an error shows it: on one line, and not longer than one."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # whatever a foreign object, or an integer of thousands of digits, raises
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


class InputError(ValueError):
    """What the caller gave cannot be used: names the argument, what was expected and what came."""

    def __init__(self, message: object = "") -> None:
        super().__init__(" ".join(str(message).split()))  # one line, whatever was quoted


class NumberTypeError(InputError):
    """A tensor of a number type that cannot be computed with here."""


class DataError(InputError):
    """A data set, file or array that cannot be read, or that holds values the model cannot take."""


class CheckpointError(InputError):
    """A checkpoint that is missing, damaged, foreign, or of another configuration."""


class DivergenceError(ArithmeticError):
    """The loss became NaN or infinite; the last good checkpoint is untouched."""


class ProcessLostError(RuntimeError):
    """Of several processes that work together another one ended; the last checkpoint is untouched."""
