"""The denoising variational lower bound."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pyro.distributions.util import is_identically_zero, scale_and_mask
from pyro.infer.util import MultiFrameTensor
from torch import Tensor, nn

from pyro_dvae import checks
from pyro_dvae.bounds.base import DenoisingELBO
from pyro_dvae.bounds.pathwise import total_derivative_surrogate
from pyro_dvae.bounds.reductions import MEAN
from pyro_dvae.bounds.score import baseline_of, has_score, own_baseline, score_surrogate
from pyro_dvae.distributions.divergence import closed_form_kl
from pyro_dvae.errors import InputError
from pyro_dvae.levels import Schedule
from pyro_dvae.programs.dependence import ancestors
from pyro_dvae.programs.draws import Draws, Term
from pyro_dvae.programs.looped import joined_terms
from pyro_dvae.programs.plates import draws_of
from pyro_dvae.programs.rerun import on_clean_input
from pyro_dvae.sites import CORRUPTIONS, DRAW_PLATES, PARTICLES


class TraceDenoising_ELBO(DenoisingELBO):
    """The denoising bound of Im et al. (2017), equations 8 and 11, per observation and in nats::

        L_dvae = E_{x̃ ~ p_π(x̃|x)} E_{z ~ q_φ(z|x̃)} [ log p_θ(x, z) − log q_φ(z|x̃) ]  ≤  log p_θ(x)

    estimated by the mean over M corruptions and K latents for each corruption. The model observes clean
    ``x``; only the guide sees ``x̃``. Without a corruption site it equals Pyro's ``Trace_ELBO`` with
    vectorised particles.

    :param gradient: estimator for reparameterised sites: ``"pathwise"``, or ``"stl"``, sticking the landing
        (Roeder et al. 2017), whose variance vanishes as the guide approaches the posterior.
    :param baseline: baseline for the score functions of all other sites, which are Rao-Blackwellised over
        plates as in ``Trace_ELBO``: ``"leave-one-out"`` over the K draws of a latent (over the M corruptions
        if K = 1) and over the M draws of a corruption; ``"none"``; or a network of the model's arguments,
        trained jointly (NVIL, Mnih and Gregor 2014). A site's own ``infer={"baseline": {...}}`` takes
        precedence over the first two.
    :param kl_weight: factor β of the latents' terms log p(z) − log q(z|x̃) in the gradient alone: a number, or
        a :class:`~pyro_dvae.levels.Schedule` of the epoch (KL warm-up: ``LinearSchedule(0, 1, epochs=20)``),
        which ``fit`` updates. Reported values remain those of the bound (β = 1), so that histories and
        validation can be compared. Only for ``gradient="pathwise"`` without a network as baseline.
    :param consistency: weight λ of −λ KL(q(z|x̃) ‖ q(z|x)) in the gradient alone, so that corruption changes
        the encoder's output less: the regulariser of CR-VAE (Sinha and Dieng 2021). As with ``kl_weight``,
        reported values remain those of the bound, and the same limits apply.

    See :class:`~pyro_dvae.bounds.base.DenoisingELBO` for the other arguments.
    """

    apart_from_results: ClassVar[tuple[str, ...]] = (*DenoisingELBO.apart_from_results, "_weight", "_weights")

    def __init__(
        self,
        *,
        num_corruptions: int = 1,
        num_particles: int = 1,
        gradient: str = "pathwise",
        baseline: str | nn.Module = "leave-one-out",
        kl_weight: float | Schedule = 1.0,
        consistency: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_corruptions=num_corruptions, num_particles=num_particles, **kwargs)
        if checks.text("gradient", gradient) == "dreg":
            raise InputError("gradient: 'dreg' is for importance-weighted bounds; use 'stl'")
        self.gradient = checks.known("gradient", gradient, ("pathwise", "stl"))
        self.baseline = baseline_of(
            baseline,
            "leave-one-out",
            {"vimco": "'vimco' is of the importance-weighted bounds; use 'leave-one-out'"},
        )
        self.kl_weight = (
            kl_weight if isinstance(kl_weight, Schedule) else checks.number("kl_weight", kl_weight, 0.0)
        )
        self._tempers = isinstance(kl_weight, Schedule) or kl_weight != 1
        if self._tempers and (self.gradient == "stl" or self.baseline.learned is not None):
            raise InputError("kl_weight: needs gradient='pathwise' and a baseline that is not a network")
        self.consistency = checks.number("consistency", consistency, 0.0)
        if consistency and (self.gradient == "stl" or self.baseline.learned is not None):
            raise InputError("consistency: needs gradient='pathwise' and a baseline that is not a network")
        # By device and type; changed in place, so that compiled steps read the new value.
        self._weights: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        self._weight = 1.0
        self.set_epoch(0)
        self._descent: tuple[Any, dict[str, frozenset[str]]] | None = None  # of the last pair

    def set_epoch(self, epoch: float) -> None:
        """Set a scheduled weight of the KL terms to its value at ``epoch`` (0 for the first)."""
        weight = self.kl_weight
        self._weight = checks.number(
            "kl_weight", weight(epoch) if isinstance(weight, Schedule) else weight, 0.0
        )
        for each in self._weights.values():
            each.fill_(self._weight)

    def _tempered(self, term: Term, value: Tensor) -> Tensor:
        """Return the value of a term with its weight in the gradient."""
        if not self._tempers or term.site["is_observed"]:
            return value
        kind = (value.device, value.dtype)
        if kind not in self._weights:
            self._weights[kind] = torch.tensor(self._weight, device=value.device, dtype=value.dtype)
        return value * self._weights[kind]

    def _needs_leaves(self) -> bool:
        return self.gradient == "stl"

    def _terms(self, draws: Draws) -> list[Term]:
        return [*draws.model_terms(), *draws.guide_terms()]

    def _per_datum(self, draws: Draws) -> Tensor:
        return MEAN.reduce(draws.log_weight(self._terms(draws)).values)

    def _bound_and_surrogate(self, draws: Draws) -> tuple[Tensor, Tensor]:
        terms = [(term, _scaled(term)) for term in self._terms(draws)]
        bound = sum((_mean_over_draws(value.detach(), term.site) for term, value in terms), torch.zeros(()))
        if not torch.is_grad_enabled():
            return bound, bound
        terms = [(term, self._tempered(term, value)) for term, value in terms]
        if self.consistency:
            terms += [(term, _scaled(term)) for term in consistency_terms(draws, self.consistency)]
        score = self._score_part(draws, terms)
        if self.gradient == "stl":
            log_weight = draws.log_weight()
            weights = log_weight.scale * MEAN.weights(log_weight.values.detach())
            return bound, log_weight.rest + total_derivative_surrogate(draws, weights, weights, score)
        parts = [_mean_over_draws(value, term.site) for term, value in terms if not _is_score(term)]
        return bound, sum(parts, torch.zeros(())) + score

    def _score_part(self, draws: Draws, terms: list[tuple[Term, Tensor]]) -> Tensor | float:
        sites = [site for site in [*draws.counted_sites(), *draws.auxiliary_sites()] if has_score(site)]
        if not sites:
            return 0.0
        if self.baseline.learned is not None:
            return score_surrogate(draws, draws.log_weight(self._terms(draws)), MEAN, self.baseline)
        cost = MultiFrameTensor()
        for term, value in terms:
            cost.add((term.site["cond_indep_stack"], value.detach()))
        total: Tensor | float = 0.0
        for site in sites:
            signal, loss = self._signal(draws, cost, site)
            total = (
                total
                - loss / draws_of(site)
                + _mean_over_draws(signal * site["score_parts"].score_function, site)
            )
        return total

    def _signal(
        self, draws: Draws, cost: MultiFrameTensor, site: dict[str, Any]
    ) -> tuple[Tensor, Tensor | float]:
        """Return a score-function site's learning signal, [K, M, *plates] or [M, *plates], and a loss.

        The loss trains the site's own baseline, if it has one.
        """
        names = {frame.name for frame in site["cond_indep_stack"]}
        layout = draws.layout
        joining = self._joining(draws, site, names)
        frames = tuple(f for f in site["cond_indep_stack"] if f.name not in joining)
        signal = cost.sum_to(frames)
        if layout.num_particles > 1 and PARTICLES not in names:
            signal = signal / layout.num_particles
        if (own := own_baseline(site, signal)) is not None:
            return signal - own[0], own[1]
        if not self.baseline.leave_one_out:
            return signal, 0.0
        if layout.num_particles > 1 and PARTICLES in names:
            return _leave_one_out(signal, layout.particle_dim), 0.0
        if layout.num_corruptions > 1 and CORRUPTIONS in names:
            return _leave_one_out(signal, layout.corruption_dim), 0.0
        return signal, 0.0

    def _joining(self, draws: Draws, site: dict[str, Any], names: set[str]) -> set[str]:
        """Return the plates of ``site`` over which each element needs the learning signal of all elements.

        A descendant of the site outside one of its plates may read all elements of the site in that plate,
        and affect every cost there. If a later latent lies outside, one more run of the guide finds the
        descendants (see
        :func:`~pyro_dvae.programs.dependence.ancestors`).
        """
        order = list(draws.guide_trace.nodes)
        later = set(order[order.index(site["name"]) + 1 :])
        plates = names.difference(DRAW_PLATES)
        outside = {
            each["name"]: plates.difference(frame.name for frame in each["cond_indep_stack"])
            for each in draws.counted_sites()
            if each["name"] in later
        }
        if not any(outside.values()):
            return set()
        of = (draws.pair.model, draws.pair.guide, draws.pair.kind, order)
        if self._descent is None or self._descent[0] != of:
            self._descent = of, ancestors(draws.pair)
        # A program that branches on its draws may lack a site in this run; assume that it is a descendant.
        known = self._descent[1]
        descended = [name for name in outside if name not in known or site["name"] in known[name]]
        return set().union(*(outside[name] for name in descended))


def _is_score(term: Term) -> bool:
    """Whether the term is a sampled −log q whose explicit gradient is a score, with mean zero.

    Pyro's entropy terms also omit it for sites that are not reparameterised. A closed form is kept.
    """
    if term.sign > 0 or term.value is not term.site["unscaled_log_prob"]:
        return False
    return bool(is_identically_zero(term.site["score_parts"].entropy_term))


def _scaled(term: Term) -> Tensor:
    return term.sign * scale_and_mask(term.value, term.site["scale"], term.site["mask"])


def _leave_one_out(signal: Tensor, dim: int) -> Tensor:
    """Subtract from each draw the mean of the other draws along ``dim``."""
    size = signal.shape[dim]
    return (signal - signal.mean(dim, keepdim=True)) * (size / (size - 1))


def _mean_over_draws(value: Tensor, site: dict[str, Any]) -> Tensor:
    """Return the sum over the user's plates, averaged over the draws of the site."""
    return value.sum() / draws_of(site)


def consistency_terms(draws: Draws, weight: float) -> list[Term]:
    """Return −λ KL(q(z|x̃) ‖ q(z|x)) by latent (Sinha and Dieng 2021), at the draws of its parents.

    It is in closed form if there is one, else sampled as log q(z|x̃) − log q(z|x).
    """
    if draws.runs:
        return joined_terms([consistency_terms(run, weight) for run in draws.runs], draws)
    clean = {site["name"]: site for site in on_clean_input(draws).counted_sites()}
    terms = []
    for site in draws.counted_sites():
        value = closed_form_kl(site["fn"], clean[site["name"]]["fn"])
        if value is None:
            value = site["unscaled_log_prob"] - clean[site["name"]]["unscaled_log_prob"]
        terms.append(Term(site, -1.0, weight * value))
    return terms
