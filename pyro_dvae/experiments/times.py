"""How long runs took, in words."""


def in_words(seconds: float) -> str:
    """Return a length of time as a table says it: ``39 minutes``, ``1.7 hours``."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} hours"
    minutes = max(round(seconds / 60), 1)
    return "1 minute" if minutes == 1 else f"{minutes} minutes"
