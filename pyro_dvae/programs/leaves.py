"""Further runs on given draws, and draws as leaves of the autograd graph."""

from __future__ import annotations

from typing import Any, NamedTuple

import pyro.distributions as dist
from pyro.distributions import Rejector
from pyro.poutine.messenger import Messenger
from pyro.poutine.replay_messenger import ReplayMessenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from pyro_dvae.errors import InputError
from pyro_dvae.internals import version
from pyro_dvae.sites import is_point, is_uncounted, layers

# Exceptions of flows without an inverse at values that they did not draw: planar, radial, neural
# autoregressive and other flows of Pyro know only the density of their own last draw.
NOT_INVERTED = (KeyError, NotImplementedError)
_ROUNDED = (dist.RelaxedBernoulliStraightThrough, dist.RelaxedOneHotCategoricalStraightThrough)


class Leaf(NamedTuple):
    """A reparameterised draw of the guide.

    :param name: its site.
    :param value: the leaf with which the programs continue.
    :param live: the draw itself, a function of the guide's parameters and of earlier leaves.
    """

    name: str
    value: Tensor
    live: Tensor


class Leaves(Messenger):
    """Replaces each reparameterised latent with a leaf of the autograd graph.

    One run then gives the partial derivatives of every density with respect to the draws, and each draw as a
    function of parameters and earlier draws. A program that draws outside its sites (dropout) need not run
    twice. A point (``Delta``) remains a function of earlier draws and parameters.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Leaf] = []
        self._names: set[str] = set()

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if msg["is_observed"] or site_is_subsample(msg) or is_uncounted(msg) or msg["name"] in self._names:
            return
        self._names.add(msg["name"])  # the model gets the guide's leaf
        value = msg["value"]
        if not value.is_floating_point() or not msg["fn"].has_rsample or is_point(msg["fn"]):
            return
        refuse_rejection(msg, "this gradient")
        if is_rounded(msg["fn"]):
            raise InputError(
                f"guide: latent {msg['name']!r} is rounded (straight-through), and its density is taken at "
                "the value before rounding, which only the draw itself holds; use gradient='pathwise'"
            )
        leaf = value.detach().requires_grad_()
        self.found.append(Leaf(msg["name"], leaf, value))
        msg["value"] = leaf


def refuse_rejection(site: dict[str, Any], what: str) -> None:
    """Refuse a latent that is drawn by rejection, because only its own draws have a known density."""
    if any(isinstance(each, Rejector) for each in layers(site["fn"])):
        raise InputError(
            f"guide: latent {site['name']!r} is drawn by rejection, which {what} does not cover; use "
            "TraceDenoising_ELBO(gradient='pathwise')"
        )


def is_rounded(distribution: Any) -> bool:
    """Whether a draw is rounded and carries, as an attribute, the value at which its density is taken."""
    return any(isinstance(each, _ROUNDED) for each in layers(distribution))


class RefusesChangedValues(Messenger):
    """Refuses programs that change the value of a site in place: its density would belong to another value.

    A corruption without a density in the bound may be changed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[dict[str, Any], Tensor, int]] = []

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if isinstance(msg["value"], Tensor) and not site_is_subsample(msg) and get_proxy_mode() is None:
            self.found.append((msg, msg["value"], version(msg["value"])))

    def __exit__(self, *failure: Any) -> bool | None:
        ended: bool | None = super().__exit__(*failure)
        for site, value, before in self.found if failure[0] is None else []:
            if version(value) != before and not (is_uncounted(site) and site["fn"].has_rsample):
                raise InputError(
                    f"model, guide: the value of site {site['name']!r} is changed in place after it is "
                    "drawn, so its density would be of another; make a new tensor (z * 2, not z.mul_(2))"
                )
        return ended


class Replay(ReplayMessenger):
    """``poutine.replay``, also for a guide that is an effect handler (``AutoNormalMessenger``).

    Such a guide stores the prior of this run at each site. Pyro's handler would overwrite it with the prior
    of the original run, which has other dimensions.
    """

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        own = dict(msg["infer"])
        super()._pyro_sample(msg)
        msg["infer"] = {**msg["infer"], **own}
