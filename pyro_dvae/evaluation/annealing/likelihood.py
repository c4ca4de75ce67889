"""log p(x) of held-out data by annealed importance sampling."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.calling import calling
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.annealing.chunks import Counter, Weights, forward_weights, rows_at_once, stream
from pyro_dvae.evaluation.annealing.kernels import adapted_kernels, pilot_transitions
from pyro_dvae.evaluation.annealing.records import AnnealedLikelihood
from pyro_dvae.evaluation.annealing.settings import DEFAULT_MEMORY, AnnealingSettings
from pyro_dvae.evaluation.annealing.starts import programs_of
from pyro_dvae.evaluation.annealing.structure import PROBED, Program, ProperLatents, inspect
from pyro_dvae.evaluation.arguments import Arguments
from pyro_dvae.evaluation.counting import counting
from pyro_dvae.evaluation.estimates import evaluation_mode


def annealed_log_likelihood(
    model: Program,
    guide: Program | None,
    data: Tensor,
    *args: Tensor,
    num_steps: int = 500,
    num_chains: int = 16,
    start: str = "prior",
    leapfrog_steps: int = 10,
    schedule: str = "sigmoid",
    target_acceptance: float = 0.65,
    seed: int | None = None,
    max_plate_nesting: int | float = math.inf,
    memory: int = DEFAULT_MEMORY,
    progress: bool | Callable[[int, int], None] | None = None,
    **kwargs: Any,
) -> AnnealedLikelihood:
    """Estimate log p(x) of each row of ``data`` by annealed importance sampling with Hamiltonian transitions.

    Chains go from z ~ p_0, the prior of the latents or the guide on clean input, to the posterior, along

        log f_β(z) = (1 − β) log p_0(z) + β log p(x, z),   0 = β_0 < β_1 < ... < β_T = 1,

    by one HMC transition at each β in between; the weights are those of Neal (2001), "Annealed importance
    sampling", and the set-up that of Wu, Burda, Salakhutdinov and Grosse (2017), "On the quantitative
    analysis of decoder-based generative models". exp(log-weight) is unbiased for p(x) whatever the number
    of steps; its logarithm, and that of a mean of them, is below log p(x) in expectation, and
    :func:`bidirectional` tells by how much.

    The step size of each temperature and datum is found by a pilot run of 4 chains, which costs about
    4 / num_chains on top, and frozen before the run that counts. Latents move in unconstrained space. All
    chains of as many data as fit into ``memory`` are one tensor computation; a transition costs one run of
    the model with its gradient for each leapfrog step. No parameter gets a gradient, and modules are in
    evaluation mode meanwhile.

    :param model: Pyro model of a batch, with one data plate and continuous latents inside of it.
    :param guide: Pyro guide of a batch; not used, and may be None, where ``start`` is ``"prior"``.
    :param data: data, shape [N, ...].
    :param args: further data of model and guide, N rows each, cut like ``data``.
    :param kwargs: further arguments of model and guide, passed whole.
    :param num_steps: T, temperature increments.
    :param num_chains: C, independent chains per observation.
    :param start: ``"prior"`` or ``"guide"``: p_0.
    :param leapfrog_steps: of each transition.
    :param schedule: ``"sigmoid"`` (smaller steps near both ends) or ``"linear"``.
    :param target_acceptance: mean Metropolis acceptance that the step sizes are adapted to.
    :param seed: start of the streams that the draws are from; None draws it from the global stream. The
        draws also depend on the size of the chunks, so on ``memory``.
    :param max_plate_nesting: how many dimensions the user's plates take; found by one run where omitted.
    :param memory: bytes, about, that a chunk of data may take: what autograd keeps for one observation and
        all its chains is measured by two small runs, and doubled for the gradients. One datum is the least.
    :param progress: show progress (None: on long evaluations), or a function of the steps done and in all,
        over pilots and chunks.
    :returns: per observation log p(x), standard error and effective chains (nats).
    :raises InputError: ``data`` is no tensor, empty or not finite, an option is out of range, or the model is
        not of this kind: a latent that is discrete or lies outside the data plate, scaled sites.
    """
    settings = AnnealingSettings.checked(
        num_steps, num_chains, start, leapfrog_steps, schedule, target_acceptance, seed
    )
    checks.program("model", model)
    checks.optional(checks.program, "guide", guide)
    checks.progress(progress)
    checks.nesting("max_plate_nesting", max_plate_nesting)
    checks.count("memory", memory)
    first = start_program(guide, settings)
    given = Arguments.checked(data, args, kwargs)
    probed, proper = given[:PROBED].rows, ProperLatents()(model)
    with evaluation_mode(proper, first, *probed, **kwargs), counting("annealing", progress) as shown:
        structure = inspect(proper, first, given, max_plate_nesting)
        with stream(settings.seed, "memory"), calling("model, guide, data"):
            rows = rows_at_once(model, first, given, structure, num_chains, memory)
        chunks = list(given.split(rows))
        count = Counter(shown, len(chunks) * (pilot_transitions(num_steps) + num_steps))
        found = []
        for index, chunk in enumerate(chunks):
            with stream(settings.seed, "rows", index):
                programs = programs_of(model, first, chunk, structure)
            with stream(settings.seed, "pilot", index):
                kernels = adapted_kernels(programs, settings, count)
            with stream(settings.seed, "forward", index):
                found.append(forward_weights(programs, kernels, num_chains, count))
        weights = Weights.joined(found)
        return AnnealedLikelihood(weights.log_weight, weights.acceptance, settings)


def start_program(guide: Program | None, settings: AnnealingSettings) -> Program | None:
    """Return the guide where chains start at it, else None."""
    if settings.start == "prior":
        return None
    if guide is None:
        raise InputError("guide: expected one to start from (start='guide'), got None; or use start='prior'")
    return guide
