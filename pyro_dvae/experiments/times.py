"""Lengths of runs, in words."""

from collections.abc import Iterable


def in_words(seconds: float) -> str:
    """Return a length of time as a table says it: ``39 minutes``, ``1.7 hours``."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} hours"
    minutes = max(round(seconds / 60), 1)
    return "1 minute" if minutes == 1 else f"{minutes} minutes"


def span(counts: Iterable[int]) -> str:
    """Return the smallest and the largest number of epochs, or the one there is: ``100 to 1,000``."""
    found = set(counts)
    return " to ".join(f"{count:,}" for count in sorted({min(found), max(found)}))
