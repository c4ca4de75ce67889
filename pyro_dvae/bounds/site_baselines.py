"""The baselines that a site of the guide brings along, ``infer={"baseline": {...}}``, as Pyro reads them."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.utils._pytree import tree_map

from pyro_dvae.errors import InputError

_OPTIONS = (
    *("nn_baseline", "nn_baseline_input", "baseline_value"),
    *("use_decaying_avg_baseline", "baseline_beta"),
)


def own_baseline(site: dict[str, Any], signal: Tensor) -> tuple[Tensor, Tensor | float] | None:
    """Return a site's own baseline for its learning signal, and its training loss; None if it has none.

    The options are those of ``pyro.infer.TraceGraph_ELBO``: a network of an input, a value, and a decaying
    average of the signal, which is kept in Pyro's param store.

    :param signal: [K, M, *plates] (nats), without gradient.
    :returns: the baseline without gradient, and the squared error that trains it.
    :raises InputError: an option is unknown, two exclude each other, or the shape is not that of the signal.
    """
    options = site["infer"].get("baseline")
    if not options:
        return None
    name = site["name"]
    if unknown := sorted(set(options) - set(_OPTIONS)):
        raise InputError(f"infer: site {name!r} has the unknown baseline option {unknown[0]!r}")
    network, value = options.get("nn_baseline"), options.get("baseline_value")
    if network is not None and value is not None:
        raise InputError(f"infer: site {name!r} has both nn_baseline and baseline_value; give one")
    fixed: Tensor | float = 0.0
    if options.get("use_decaying_avg_baseline"):
        fixed = _average(name, signal, float(options.get("baseline_beta", 0.90)))
    trained: Tensor | None = value
    if network is not None:
        trained = network(tree_map(_detached, options.get("nn_baseline_input")))
    if trained is None:
        return torch.as_tensor(fixed), 0.0
    try:
        trained = trained.expand_as(signal)  # a baseline may be shared by the draws
    except RuntimeError:
        raise InputError(
            f"infer: expected a baseline of shape {tuple(signal.shape)} at site {name!r}, got "
            f"{tuple(trained.shape)}"
        ) from None
    total = fixed + trained
    return total.detach(), ((signal - total) ** 2).sum()


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _average(name: str, signal: Tensor, beta: float) -> Tensor:
    if get_proxy_mode() is not None:
        raise InputError(f"infer: site {name!r} keeps a decaying average, which cannot be recorded")
    key = f"__baseline_avg_downstream_cost_{name}"
    with torch.no_grad():
        before = pyro.param(key, torch.zeros_like(signal)).detach().clone()
    pyro.get_param_store()[key] = (1 - beta) * signal + beta * before
    return before
