"""Score-function gradients, with baselines, for sites that are not reparameterised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.distributions.util import is_identically_zero
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from pyro_dvae import checks
from pyro_dvae.bounds.reductions import Objective, without_corruptions, without_latents
from pyro_dvae.errors import InputError
from pyro_dvae.internals import tree_map
from pyro_dvae.programs.draws import Draws, LogWeight
from pyro_dvae.registration import register

_OPTIONS = (
    *("nn_baseline", "nn_baseline_input", "baseline_value"),
    *("use_decaying_avg_baseline", "baseline_beta"),
)


def own_baseline(site: dict[str, Any], signal: Tensor) -> tuple[Tensor, Tensor | float] | None:
    """Return a site's own baseline for its learning signal, and its training loss; None if it has none.

    The options are those of ``pyro.infer.TraceGraph_ELBO``: a network with an input, a value, and a decaying
    average of the signal, which is stored in Pyro's param store.

    :param signal: [K, M, *plates] (nats), without gradient.
    :returns: the baseline without gradient, and the squared error that trains it.
    :raises InputError: if an option is unknown, two options conflict, or the shape differs from the signal's.
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
        raise InputError(f"infer: site {name!r} keeps a decaying average, which cannot be compiled")
    key = f"__baseline_avg_downstream_cost_{name}"
    with torch.no_grad():
        before = pyro.param(key, torch.zeros_like(signal)).detach().clone()
    pyro.get_param_store()[key] = (1 - beta) * signal + beta * before
    return before


def has_score(site: dict[str, Any]) -> bool:
    """Whether a guide site needs a score-function gradient."""
    return not is_identically_zero(site["score_parts"].score_function)


class LearnedBaseline:
    """The learned, input-dependent baseline of NVIL (Mnih and Gregor 2014), without its variance scaling.

    :param network: called with the arguments of the model; returns a prediction of the bound of each
        observation (nats), shape [*datum] or [*datum, 1]. It is trained by the squared error to the bound, as
        part of the same loss. Its parameters are registered with Pyro and must be given to the optimizer.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def __call__(self, draws: Draws, like: Tensor) -> Tensor:
        """Return the prediction [*datum], shaped as ``like``."""
        register("baseline", self.network)
        prediction: Tensor = self.network(*draws.pair.args, **draws.pair.kwargs)
        if prediction.shape == (*like.shape, 1):
            prediction = prediction.squeeze(-1)
        if prediction.shape != like.shape:
            raise InputError(
                f"baseline_network: expected a prediction of shape {tuple(like.shape)}, got "
                f"{tuple(prediction.shape)}"
            )
        return prediction


@dataclass(frozen=True)
class Baseline:
    """The baseline that is subtracted from the learning signal of a score function.

    :param leave_one_out: the bound without the draw (VIMCO for the importance-weighted bounds).
    :param learned: a learned prediction of the bound (NVIL).
    """

    leave_one_out: bool = True
    learned: LearnedBaseline | None = None


def baseline_of(baseline: str | nn.Module, name: str, refused: dict[str, str]) -> Baseline:
    """Return the baseline that an argument names: ``name`` (leave one out), "none", or a network (NVIL)."""
    if isinstance(baseline, nn.Module):
        return Baseline(leave_one_out=False, learned=LearnedBaseline(baseline))
    if isinstance(baseline, str) and baseline in refused:
        raise InputError(f"baseline: {refused[baseline]}")
    return Baseline(leave_one_out=checks.known("baseline", baseline, (name, "none")) == name)


def score_surrogate(
    draws: Draws,
    log_weight: LogWeight,
    objective: Objective,
    baseline: Baseline,
    without_corruption: Callable[[], Tensor | None] | None = None,
) -> Tensor | float:
    """Return a scalar whose gradient is the score-function part of the bound's gradient.

    :param draws: the run with sites that are not reparameterised.
    :param log_weight: values [K, M, *datum] (nats) and the outer scale.
    :param objective: the bound.
    :param baseline: the baseline.
    :param without_corruption: returns the bound without each corruption, [M, *datum], if replacing a column
        of the weights is not enough.
    """
    layout, frames = draws.layout, draws.datum_frames()

    def score(site: dict[str, Any]) -> Tensor:
        return layout.per_datum(site["score_parts"].score_function, frames)

    latent = [score(site) for site in draws.counted_sites() if has_score(site)]
    corruption = [score(site) for site in draws.auxiliary_sites() if has_score(site)]
    # An auxiliary site below a latent is drawn for each particle, like a latent.
    latent += [part for part in corruption if part.shape[0] > 1]
    corruption = [part for part in corruption if part.shape[0] == 1]
    if not latent and not corruption:
        return 0.0
    for site in draws.counted_sites():
        if has_score(site) and site["infer"].get("baseline"):
            raise InputError(
                f"infer: site {site['name']!r} has its own baseline, used only by TraceDenoising_ELBO "
                "without a baseline network; use that, or remove infer={'baseline': ...}"
            )
    values, scale = log_weight.values.detach(), log_weight.scale
    bound, share = objective.reduce(values), objective.share(values)
    total: Tensor | float = 0.0
    if baseline.learned is not None:
        prediction = baseline.learned(draws, bound)
        total = -0.5 * ((bound - prediction) ** 2).sum()
        share = share - prediction.detach() / (share.shape[0] * share.shape[1])
    columns: Tensor | None = None
    if baseline.leave_one_out:
        if without_corruption is not None:
            columns = without_corruption()
        else:
            columns = without_corruptions(objective.reduce, values)
    if latent:
        signal = share
        if baseline.leave_one_out:
            removed = without_latents(objective.reduce, values, objective.within_column)
            if removed is None and columns is not None:
                removed = columns.unsqueeze(0)
            signal = share if removed is None else bound - removed
        total = total + (scale * signal * sum(latent)).sum()
    if corruption:
        signal = share.sum(0) if columns is None else bound - columns
        total = total + (scale * signal * sum(part.squeeze(0) for part in corruption)).sum()
    return torch.as_tensor(total)
