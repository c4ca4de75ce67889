"""log p(x) of held-out data by annealed importance sampling."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from pyro_dvae import checks
from pyro_dvae.calling import calling
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.annealing.chunks import Counter, Weights, forward_weights, rows_at_once, stream
from pyro_dvae.evaluation.annealing.kernels import adapted_kernels, pilot_transitions
from pyro_dvae.evaluation.annealing.records import AnnealedLikelihood
from pyro_dvae.evaluation.annealing.settings import DEFAULT_MEMORY, AnnealingSettings
from pyro_dvae.evaluation.annealing.starts import programs_of
from pyro_dvae.evaluation.annealing.structure import PROBED, Program, ProperLatents, inspect
from pyro_dvae.evaluation.estimates import evaluation_mode
from pyro_dvae.evaluation.progress import progress_of
from pyro_dvae.programs.parameters import float_type
from pyro_dvae.rows import Data


def annealed_log_likelihood(
    model: Program,
    guide: Program | None,
    data: Any,
    *args: Any,
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

    with one HMC transition at each β in between. The weights follow Neal (2001), "Annealed importance
    sampling", and the setting Wu, Burda, Salakhutdinov and Grosse (2017), "On the quantitative analysis of
    decoder-based generative models". exp(log-weight) is unbiased for p(x) for any number of steps. Its
    logarithm, and that of a mean of weights, is below log p(x) in expectation; :func:`bidirectional` shows by
    how much.

    A pilot run of 4 chains, which costs an additional 4 / num_chains, finds the step size of each temperature
    and observation. These step sizes are fixed before the main run. Latents move in unconstrained space. All
    chains of as many rows as fit into ``memory`` run in one tensor computation; a transition runs the model
    with its gradient once for each leapfrog step. No parameter gets a gradient, and modules run in evaluation
    mode. Discrete latents are summed over, in one run with all combinations of their values.

    :param model: Pyro model of a batch, with one data plate and all latents inside it, some continuous.
    :param guide: Pyro guide of a batch; not used, and may be None, if ``start`` is ``"prior"``.
    :param data: data, shape [N, ...].
    :param args: further data for model and guide, N rows each, split like ``data``.
    :param kwargs: further arguments of model and guide, passed unchanged.
    :param num_steps: T, temperature increments.
    :param num_chains: C, independent chains per observation.
    :param start: ``"prior"`` or ``"guide"``: p_0.
    :param leapfrog_steps: number of leapfrog steps per transition.
    :param schedule: ``"sigmoid"`` (smaller steps near both ends) or ``"linear"``.
    :param target_acceptance: mean Metropolis acceptance to which the step sizes are adapted.
    :param seed: seed of the random streams; None draws it from the global stream. The draws also depend on
        the batch size, so on ``memory``.
    :param max_plate_nesting: number of dimensions of the user's plates; by default found by one run.
    :param memory: approximate number of bytes for a batch of rows, at least one row. Two small runs measure
        the memory that autograd needs for one row and all its chains, which is doubled for the gradients.
    :param progress: whether to show progress (None: in long evaluations), or a function of the numbers of
        finished and of all steps, pilot runs included.
    :returns: log p(x), standard error (nats) and effective number of chains of each observation.
    :raises InputError: if ``data`` is not a tensor, is empty or not finite, an option is out of range, or the
        model has no continuous latents, latents outside the data plate, or scaled sites.
    """
    settings = AnnealingSettings.checked(
        num_steps, num_chains, start, leapfrog_steps, schedule, target_acceptance, seed
    )
    checks.program("model", model)
    checks.optional(checks.program, "guide", guide)
    checks.progress(progress)
    checks.nesting("max_plate_nesting", max_plate_nesting)
    memory = checks.count("memory", memory)
    first = start_program(guide, settings)
    given = Data.opened("data", (data, *args), kwargs, float_type(model, guide))
    probed, proper = given[:PROBED], ProperLatents()(model)
    with evaluation_mode(proper, first, probed, given), progress_of("annealing", progress) as shown:
        structure = inspect(proper, first, given, max_plate_nesting)
        with stream(settings.seed, "memory"), calling("model, guide, data"):
            rows = rows_at_once(model, first, given, structure, num_chains, memory)
        count = Counter(shown, -(-len(given) // rows) * (pilot_transitions(num_steps) + num_steps))
        found = []
        for index, chunk in enumerate(given.split(rows)):
            with stream(settings.seed, "rows", index):
                programs = programs_of(model, first, chunk, structure)
            with stream(settings.seed, "pilot", index):
                kernels = adapted_kernels(programs, settings, count)
            with stream(settings.seed, "forward", index):
                found.append(forward_weights(programs, kernels, num_chains, count))
        weights = Weights.joined(found)
        return AnnealedLikelihood(weights.log_weight, weights.acceptance, settings)


def start_program(guide: Program | None, settings: AnnealingSettings) -> Program | None:
    """Return the guide if chains start at it, else None."""
    if settings.start == "prior":
        return None
    if guide is None:
        raise InputError(
            "guide: expected a guide for start='guide', got None; give one, or use start='prior'"
        )
    return guide
