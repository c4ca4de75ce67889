"""Dependence between sites: ancestors in the guide, and priors that depend on descendants in the guide."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_dvae.buffers import on_trial
from pyro_dvae.internals import TorchDispatchMode, storage, tree_leaves, without_modes
from pyro_dvae.programs.draws import Draws, Pair
from pyro_dvae.programs.vectorised import Evaluation
from pyro_dvae.sites import is_uncounted

_aten = torch.ops.aten
# Their results have the shape of their argument, but do not depend on its values.
_SHAPE_ONLY = {
    *(_aten.zeros_like, _aten.ones_like, _aten.empty_like, _aten.full_like),
    *(_aten.rand_like, _aten.randn_like, _aten.randint_like),
    *(_aten.new_zeros, _aten.new_ones, _aten.new_empty, _aten.new_empty_strided, _aten.new_full),
}


def out_of_order(draws: Draws) -> dict[str, frozenset[str]]:
    """Return the latents that the model draws after others which the guide draws later, with those others.

    Only the prior of such a latent can depend on draws that the guide makes from it.
    """
    guide = [site["name"] for site in draws.latent_sites()]
    known = set(guide)
    model = [site["name"] for site in draws.model_sites() if site["name"] in known]
    if model == guide:
        return {}
    before = {name: frozenset(guide[:position]) for position, name in enumerate(guide)}
    later = {name: frozenset(model[:position]) - before[name] for position, name in enumerate(model)}
    return {name: others for name, others in later.items() if others}


def ancestors(pair: Pair) -> dict[str, frozenset[str]]:
    """Return the ancestors of each site of the guide, corruptions included.

    The guide runs once more, for one draw on a forked random stream, and records which tensors are computed
    from which site, also for discrete sites and through views and in-place operations. If a program reads a
    value (``if z > 0``), everything later counts as computed from it.
    """
    return _followed(pair).ancestors


def dependent_priors(draws: Draws, suspects: Mapping[str, frozenset[str]]) -> dict[str, str]:
    """Return the latents whose prior depends on a latent that the guide draws from them, with that latent.

    In a bound, E_q [log q(z_i|·) − log p(z_i|pa_i)] equals E_q KL(q(z_i|·) ‖ p(z_i|pa_i)) if z_i has the
    distribution q(z_i|·) given everything that the two densities condition on. This holds if z_i is not an
    ancestor of a latent in pa_i. Otherwise pa_i contains information about z_i, and the KL at drawn parents
    has another mean. (Pyro's documentation of ``TraceMeanField_ELBO`` states the same condition.) Both
    programs run once more, and record which tensors are computed from which latent (see :func:`ancestors`).

    :param suspects: the result of :func:`out_of_order`, or a part of it.
    """
    if not suspects:
        return {}
    pair = draws.pair
    everything = frozenset(site["name"] for site in draws.latent_sites())
    guide = _followed(pair)
    with _apart(), _Descent() as descent, _Parents(descent, guide.values, suspects) as model:
        pair.model(*pair.args, **pair.kwargs)
    found = {}
    for name, later in suspects.items():
        # A program that branches on its draws may not have the site in this run: assume the worst.
        parents = model.parents.get(name, everything)
        for other in sorted(later & parents):
            if name in guide.ancestors.get(other, everything):
                found[name] = other
                break
    return found


def _followed(pair: Pair) -> _Ancestors:
    with _apart(), _Descent() as descent, _Ancestors(descent) as guide:
        pair.guide(*pair.args, **pair.kwargs)
    return guide


@contextmanager
def _apart() -> Iterator[None]:
    """Run the body outside a recording, on a forked random stream and without validation."""
    with without_modes(), on_trial(), pyro.validation_enabled(False), Evaluation():
        yield


class _Descent(TorchDispatchMode):
    """Records which tensors are computed from which named ones."""

    def __init__(self) -> None:
        super().__init__()
        # By storage, which views share. The tensors are kept alive, so that no storage is reused.
        self._marks: dict[int, tuple[Tensor, frozenset[str]]] = {}
        self._seen: frozenset[str] = frozenset()  # read by Python: everything later may depend on them

    def mark(self, value: Tensor, names: frozenset[str]) -> None:
        """Record that ``value`` is computed from ``names``, in addition to earlier ones."""
        key = _storage(value)
        earlier = self._marks.get(key)
        self._marks[key] = (value, names if earlier is None else earlier[1] | names)

    def names(self, *values: Any) -> frozenset[str]:
        """Return the names from which the tensors among ``values`` are computed."""
        return self._seen | self._marked(values)

    def _marked(self, values: Any) -> frozenset[str]:
        found: frozenset[str] = frozenset()
        for leaf in tree_leaves(values):
            if isinstance(leaf, Tensor) and (entry := self._marks.get(_storage(leaf))) is not None:
                found |= entry[1]
        return found

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        names = frozenset() if func.overloadpacket in _SHAPE_ONLY else self._marked((args, kwargs))
        if names:
            for leaf in tree_leaves(result):
                if isinstance(leaf, Tensor):
                    self.mark(leaf, names)
                elif leaf is not None:
                    self._seen |= names
        return result


def _storage(value: Tensor) -> int:
    return storage(value) if value.layout == torch.strided else id(value)


class _Ancestors(Messenger):
    """Finds the ancestors of each site of a guide, and keeps the draws."""

    def __init__(self, descent: _Descent) -> None:
        super().__init__()
        self._descent = descent
        self.ancestors: dict[str, frozenset[str]] = {}
        self.values: dict[str, Tensor] = {}

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if site_is_subsample(msg):
            return
        name, names = msg["name"], self._descent.names(msg["value"])
        self.ancestors[name] = names
        # A copy, because the draw may be a view of a parameter, which would get the name, too.
        msg["value"] = msg["value"].clone()
        self._descent.mark(msg["value"], names | {name})
        if not is_uncounted(msg):
            self.values[name] = msg["value"]


class _Parents(Messenger):
    """Sets the latents of a model, and finds the latents from which some of the priors are computed."""

    def __init__(self, descent: _Descent, values: Mapping[str, Tensor], wanted: Collection[str]) -> None:
        super().__init__()
        self._descent, self._values, self._wanted = descent, values, wanted
        self.parents: dict[str, frozenset[str]] = {}

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        name = msg["name"]
        if msg["is_observed"] or name not in self._values:
            return
        if name in self._wanted:
            draw = msg["fn"]()
            self.parents[name] = self._descent.names(
                draw, msg["fn"].log_prob(draw)
            )  # log_prob includes masks
        msg["value"], msg["done"] = self._values[name].clone(), True
        self._descent.mark(msg["value"], frozenset({name}))
