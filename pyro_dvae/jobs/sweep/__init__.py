"""``pyro-dvae sweep``: trains with many values of some options, chosen by Optuna, and finds the best."""

from __future__ import annotations

from collections.abc import Callable

from pyro_dvae.errors import InputError


def sweeping() -> Callable[..., str]:
    """Return :func:`pyro_dvae.jobs.sweep.running.sweep`.

    :raises InputError: Optuna is not installed.
    """
    try:
        from pyro_dvae.jobs.sweep.running import sweep
    except ImportError as error:
        if error.name != "optuna":
            raise
        raise InputError("sweep: Optuna is not installed: pip install 'pyro-dvae[sweep]'") from None
    return sweep
