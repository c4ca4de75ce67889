"""A further run of a guide on given draws."""

from __future__ import annotations

from typing import Any

from pyro.poutine.replay_messenger import ReplayMessenger


class Replay(ReplayMessenger):
    """``poutine.replay``, also for a guide that is an effect handler (``AutoNormalMessenger``).

    Such a guide notes the prior of this run at each site; Pyro's handler would overwrite it with that of the
    run that the draws are from, which has other dimensions.
    """

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        own = dict(msg["infer"])
        super()._pyro_sample(msg)
        msg["infer"] = {**msg["infer"], **own}
