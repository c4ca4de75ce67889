"""A further run on given draws, and draws as leaves of the graph: what a density depends on through them."""

from __future__ import annotations

from typing import Any, NamedTuple

from pyro.distributions import Delta, Rejector
from pyro.poutine.messenger import Messenger
from pyro.poutine.replay_messenger import ReplayMessenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_dvae.errors import InputError
from pyro_dvae.sites import is_uncounted


class Leaf(NamedTuple):
    """A reparameterised draw of the guide.

    :param name: its site.
    :param value: the leaf that the programs continue with.
    :param live: the draw itself, a function of the guide's parameters and of earlier leaves.
    """

    name: str
    value: Tensor
    live: Tensor


class Leaves(Messenger):
    """Lets guide and model continue with a leaf of the graph in place of each reparameterised latent.

    One run then gives the partial derivatives of every density in the draws alone, and each draw as a
    function of parameters and earlier draws: a program that draws outside of its sites (dropout) need not be
    run twice. A point (``Delta``) stays what it is, a function of earlier draws and parameters.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Leaf] = []
        self._names: set[str] = set()

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if msg["is_observed"] or site_is_subsample(msg) or is_uncounted(msg) or msg["name"] in self._names:
            return
        self._names.add(msg["name"])  # what the guide has drawn the model is given
        value = msg["value"]
        if not value.is_floating_point() or not msg["fn"].has_rsample or is_point(msg["fn"]):
            return
        refuse_rejection(msg, "this gradient")
        leaf = value.detach().requires_grad_()
        self.found.append(Leaf(msg["name"], leaf, value))
        msg["value"] = leaf


def layers(distribution: Any) -> list[Any]:
    """Return a distribution and those that it is made of, one inside the other."""
    found = [distribution]
    while hasattr(found[-1], "base_dist"):
        found.append(found[-1].base_dist)
    return found


def refuse_rejection(site: dict[str, Any], what: str) -> None:
    """Refuse a latent that is drawn by rejection: its density is known for its own draws alone."""
    if any(isinstance(each, Rejector) for each in layers(site["fn"])):
        raise InputError(
            f"guide: latent {site['name']!r} is drawn by rejection, which {what} does not cover; use "
            "TraceDenoising_ELBO(gradient='pathwise')"
        )


def is_point(distribution: Any) -> bool:
    """Whether a distribution is a ``Delta``, however it is wrapped."""
    return any(isinstance(each, Delta) for each in layers(distribution))


class Replay(ReplayMessenger):
    """``poutine.replay``, also for a guide that is an effect handler (``AutoNormalMessenger``).

    Such a guide notes the prior of this run at each site; Pyro's handler would overwrite it with that of the
    run that the draws are from, which has other dimensions.
    """

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        own = dict(msg["infer"])
        super()._pyro_sample(msg)
        msg["infer"] = {**msg["infer"], **own}
