"""``diagnose``: is this fit good enough, and what to do if it is not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.bounds import TraceDenoising_ELBO
from pyro_dvae.calling import calling
from pyro_dvae.conditioning.condition import condition
from pyro_dvae.conditioning.gaps import inference_gaps
from pyro_dvae.conditioning.programs import cells
from pyro_dvae.conditioning.result import Conditioned
from pyro_dvae.errors import DataError, InputError
from pyro_dvae.evaluation.estimates import Estimate, evaluate_bound, plus_minus
from pyro_dvae.evaluation.importance.log_likelihood import log_likelihood
from pyro_dvae.evaluation.importance.result import TOO_MANY
from pyro_dvae.evaluation.measures.activity import active_units
from pyro_dvae.evaluation.refinement.settings import Refinement
from pyro_dvae.programs.parameters import float_type
from pyro_dvae.random_state import derived_seed, start_seed
from pyro_dvae.rows import Arguments, Data
from pyro_dvae.using.diagnosis import Diagnosis, Finding

Program = Callable[..., Any]
NATS_PER_UNIT = 0.1
_MISSED = 0.05  # tolerance of the coverage of an interval
_ROWS_OF_BOUND = 5000

_ENCODER = (
    "train longer, or with a larger encoder; noise on its input helps it on new rows; refine=True corrects "
    "it row by row when you use the model"
)
_COVARIANCE = "use a FullCovarianceGuide: a full covariance takes most of this gap"
_FAMILY = "use a richer guide: FlowGuide or MixtureGuide, or train with TraceDenoisingIWAE_ELBO"
_TIGHTER = "train longer, with a larger encoder or a richer guide, or with TraceDenoisingIWAE_ELBO"
_MORE_SAMPLES = "log p(x) of these rows is too low: estimate it with more samples or defensive=0.1"
_REFINE = "log p(x) of these rows is too low: estimate it with refine=True"
_RAISE_KL = "raise the weight of the KL slowly (kl_weight=LinearSchedule(...))"
_COLLAPSED = f"the latents carry nothing: {_RAISE_KL}, weaken the noise, or use a weaker decoder"
_UNUSED = f"a smaller latent space is enough; for more active units {_RAISE_KL}, or weaken the noise"
_NARROW = "predictions are too certain: learn the decoder's scale, add noise, stop earlier, or use more data"
_WIDE = "predictions are too uncertain: learn the decoder's scale, or train a larger decoder longer"
_OVER_FITTED = "stop earlier (callbacks=[EarlyStopping()]), add noise, use smaller networks or more data"


def diagnose(
    model: Program,
    guide: Program,
    data: Any,
    *args: Any,
    training: Any = None,
    num_rows: int = 200,
    num_samples: int = 1000,
    hidden: float = 0.2,
    level: float = 0.9,
    tolerance: float | None = None,
    refine: Refinement | None = None,
    seed: int | None = None,
    memory: int = 2**29,
    compile: bool | None = None,  # noqa: A002 - torch's own word for it
    progress: bool | Callable[[int, int], None] | None = None,
    max_plate_nesting: int | float = math.inf,
    **kwargs: Any,
) -> Diagnosis:
    """Say whether a fit is good enough by several measures, and what to do if it is not::

        print(dv.diagnose(model, guide, test, training=train))

    - **bound**: the encoder's bound on clean input, compared with log p(x). The two gaps split the
      difference; if they do not exist, the bound itself is judged. Its ``value`` is the difference.
    - **approximation gap**: log p(x) minus the bound of the best Gaussian of each row (or of the guide, if
      that is better).
    - **amortisation gap**: that bound minus the encoder's (see :func:`~pyro_dvae.inference_gaps`).
    - **Pareto k**: share of rows with unreliable importance weights; good up to 1 %.
    - **active units**: latents that depend on the data; good if they are at least half.
    - **calibration**: share of hidden cells within the central interval of their draws given the other cells
      (:func:`~pyro_dvae.condition`), in rows with reliable weights; good within 5 % of ``level``. Ties of
      discrete values are ranked at random, so that the share is exact for them too.
    - **over-fitting**: the bound of the training rows minus that of ``data``, on up to 5,000 rows of each.

    A difference in nats is not good if it exceeds ``tolerance``, a coverage if it misses by more than 5 %,
    both by two standard errors. What does not exist for the model is left out, with the reason.

    :param model: Pyro model of a batch, with one data plate.
    :param guide: Pyro guide of a batch.
    :param data: rows the model was not trained on, [N, ...], from any source.
    :param args: further data for model and guide, N rows each.
    :param kwargs: further arguments of model and guide, passed unchanged.
    :param training: rows the model was trained on; if there are ``args``, a tuple of all data arguments.
    :param num_rows: rows behind the expensive measures, spread evenly over ``data``.
    :param num_samples: draws of the latents of each row.
    :param hidden: share of the cells of each row to hide for the calibration.
    :param level: nominal coverage of the intervals.
    :param tolerance: largest gap in nats per row; by default 0.1 for each active unit, as if each standard
        deviation of the posterior were off by a third.
    :param refine: how the Gaussian of a row is fitted; by default as in ``inference_gaps`` and ``condition``.
    :param seed: seed of the random streams; None draws it from the global stream.
    :param memory: approximate number of bytes to use in addition to data and results.
    :param compile: compile the model's density and its gradient; None does so if it saves time.
    :param progress: whether to show progress, or a function of the numbers of finished rows and all rows of
        each part in turn.
    :param max_plate_nesting: number of dimensions of the user's plates; by default found by one run.
    :raises InputError: an argument is invalid, or no measure exists for this model.
    """
    checks.pair(model, guide)
    num_rows = checks.count("num_rows", num_rows, minimum=2)
    num_samples = checks.count("num_samples", num_samples, minimum=25)
    memory = checks.count("memory", memory)
    for name, share in (("hidden", hidden), ("level", level)):
        if not 0 < checks.number(name, share, 0.0, 1.0) < 1:
            raise InputError(f"{name}: expected a share between 0 and 1, got {share:g}")
    checks.optional(checks.positive, "tolerance", tolerance)
    if refine is not None:
        checks.instance("refine", refine, Refinement, "a Refinement")
    checks.optional(checks.flag, "compile", compile)
    checks.progress(progress)
    checks.nesting("max_plate_nesting", max_plate_nesting)
    floats = float_type(model, guide)
    given = Data.opened("data", (data, *args), kwargs, floats)
    trained = None if training is None else _opened(training, len(args), kwargs, floats)
    start, few = start_seed(seed), _spread(given, num_rows)
    options: dict[str, Any] = {"memory": memory, "compile": compile, "progress": progress}
    options["max_plate_nesting"] = max_plate_nesting
    pair = _Diagnosed((model, guide), few, num_samples, tolerance, start, options)
    active = pair.tried("active units", pair.activity)  # first: the tolerance depends on them
    found = [
        *pair.tried("approximation and amortisation gap", lambda: pair.gaps(refine)),
        *pair.tried("Pareto k", pair.weights),
        *active,
        *pair.tried("calibration", lambda: pair.calibration(hidden, level, refine or True)),
        *pair.tried("over-fitting", lambda: pair.over_fitting(trained, given)),
    ]
    if not found:
        raise InputError(next(iter(pair.left_out.values())))
    return Diagnosis(tuple(found), pair.left_out, len(few), start)


def _opened(training: Any, further: int, kwargs: Any, floats: torch.dtype) -> Data:
    parts = training if further else (training,)
    if not isinstance(parts, tuple | list) or len(parts) != further + 1:
        raise InputError(f"training: expected a tuple of the {further + 1} data arguments")
    return Data.opened("training", tuple(parts), kwargs, floats)


def _spread(given: Data, count: int) -> Data:
    """Return at most ``count`` rows, evenly spread."""
    if len(given) <= count:
        return given
    return given.chosen(torch.linspace(0, len(given) - 1, count).round().long())


@dataclass
class _Diagnosed:
    """A model and guide with some rows, a given tolerance, and the measures that cannot be computed."""

    pair: tuple[Program, Program]
    rows: Data
    num_samples: int
    given_tolerance: float | None
    seed: int
    options: dict[str, Any]
    active: int = 1
    refinable: bool = False
    left_out: dict[str, str] = field(default_factory=dict)

    def tried(self, name: str, measure: Callable[[], Iterator[Finding]]) -> list[Finding]:
        """Return the result of a measure, or record the reason why it cannot be computed."""
        try:
            with calling("model, guide, data"):
                return list(measure())
        except DataError:
            raise
        except InputError as error:
            self.left_out[name] = str(error)
            return []

    @property
    def tolerance(self) -> float:
        """The tolerated difference, in nats per row."""
        return NATS_PER_UNIT * self.active if self.given_tolerance is None else self.given_tolerance

    def seed_of(self, part: str) -> int:
        return derived_seed(self.seed, "diagnose", part)

    def nats(self, name: str, value: float, error: float, remedy: str, text: str | None = None) -> Finding:
        """Return a finding in nats per row, which is good up to the tolerance."""
        good = value - 2 * (error if math.isfinite(error) else 0.0) <= self.tolerance
        text = f"{plus_minus(value, error, digits=2)} nats" if text is None else text
        return Finding(name, value, error, "nats", text, good, "" if good else remedy)

    def against(self, bound: Tensor, log_likelihood: Tensor, judged: bool) -> Finding:
        """Return a finding from the bound and the log p(x) of each row, both [N]."""
        text = f"{float(bound.mean()):.2f}, log p(x) {float(log_likelihood.mean()):.2f} nats"
        found = self.nats("bound", *_moments(log_likelihood - bound), _TIGHTER, text)
        return found if judged else replace(found, good=None, remedy="")

    def activity(self) -> Iterator[Finding]:
        found = active_units(*self.pair, self.rows, seed=self.seed_of("activity"))
        self.active = max(1, found.count)
        share = found.count / found.total
        remedy = "" if share >= 0.5 else _UNUSED if found.count else _COLLAPSED
        text = f"{found.count} of {found.total}"
        yield Finding("active units", share, math.nan, "share", text, share >= 0.5, remedy)

    def gaps(self, refine: Refinement | None) -> Iterator[Finding]:
        options = self.options | {"num_samples": self.num_samples, "seed": self.seed_of("gaps")}
        found = inference_gaps(*self.pair, self.rows, refine=refine, **options)
        self.refinable = True
        yield self.against(found.encoder, found.log_likelihood, judged=False)
        # A guide of a richer family may be better than the best diagonal Gaussian.
        best = max(found.diagonal, found.encoder, key=lambda each: float(each.mean()))
        half = (found.log_likelihood - best).mean() / 2
        remedy = _COVARIANCE if bool(found.full.mean() - best.mean() > half) else _FAMILY
        yield self.nats("approximation gap", *_moments(found.log_likelihood - best), remedy)
        yield self.nats("amortisation gap", *_moments(best - found.encoder), _ENCODER)

    def weights(self) -> Iterator[Finding]:
        options = self.options | {"num_samples": self.num_samples, "seed": self.seed_of("weights")}
        found = log_likelihood(*self.pair, self.rows, **options)
        if not self.refinable:
            yield self.against(self.bound(self.rows).per_datum, found.log_likelihood, judged=True)
        share = found.share_unreliable
        text = f"{100 * share:.1f} % of rows above {found.threshold:.2f}"
        good = share <= TOO_MANY
        remedy = "" if good else _REFINE if self.refinable else _MORE_SAMPLES
        yield Finding("Pareto k", share, math.nan, "share", text, good, remedy)

    def bound(self, rows: Data) -> Estimate:
        loss = TraceDenoising_ELBO(max_plate_nesting=self.options["max_plate_nesting"])
        return evaluate_bound(*self.pair, rows, loss=loss, seed=self.seed_of("bound"))

    def over_fitting(self, training: Data | None, given: Data) -> Iterator[Finding]:
        if training is None:
            raise InputError("needs rows of the training data: training=...")
        parts = [self.bound(_spread(rows, _ROWS_OF_BOUND)) for rows in (training, given)]
        difference = parts[0].mean - parts[1].mean
        error = math.hypot(*(each.standard_error for each in parts))
        yield self.nats("over-fitting", difference, error, _OVER_FITTED)

    def calibration(self, hidden: float, level: float, refine: Refinement | bool) -> Iterator[Finding]:
        rows = self.rows[:]
        x = rows.x if rows.x.is_floating_point() else rows.x.float()
        chosen = _hidden(self.pair[0], rows.of(x), hidden, self.seed_of("cells"))
        options = self.options | {"num_samples": self.num_samples, "seed": self.seed_of("condition")}
        data = (torch.where(chosen, math.nan, x), *rows.rows[1:])
        found = condition(*self.pair, *data, refine=refine, **options | dict(rows.kwargs))
        share, error = _coverage(chosen, x, found, level, self.seed_of("ties"))
        missed = share - level
        good = abs(missed) - 2 * (error if math.isfinite(error) else 0.0) <= _MISSED
        remedy = "" if good else _NARROW if missed < 0 else _WIDE
        text = f"{100 * level:g} % intervals hold {100 * share:.1f} ± {100 * error:.1f} %"
        yield Finding("calibration", share, error, "share", text, good, remedy)


def _hidden(model: Program, rows: Arguments, share: float, seed: int) -> Tensor:
    """Choose observed cells [N, ...] at random in each row; keep at least one cell if there are two."""
    observed = torch.zeros(rows.x.numel(), dtype=torch.bool)
    for position in cells(model, rows).values():
        observed[position.flatten().cpu()] = True
    observed = observed.reshape(len(rows), -1)
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(observed.shape, generator=generator).masked_fill(~observed, 2.0).argsort(1)
    count = observed.sum(1, keepdim=True)
    number = torch.minimum((share * count).round(), count - 1).clamp(min=1)
    chosen = (order.argsort(1) < number) & observed
    return chosen.reshape(rows.x.shape).to(rows.x.device)


def _coverage(hidden: Tensor, x: Tensor, found: Conditioned, level: float, seed: int) -> tuple[float, float]:
    """Return the share of hidden cells in the central interval of their draws, and its error.

    The rank of a cell among draws from its own distribution is uniform if ties are broken at random.
    """
    truth, draws = x[hidden].cpu(), found.cell_draws.cpu()
    row = hidden.nonzero()[:, 0].cpu()
    kept = found.reliable.cpu()[row]
    if not bool(kept.any()):
        raise InputError("no row has reliable importance weights given its other cells")
    zero_or_one = bool(((draws == 0) | (draws == 1)).all())
    if zero_or_one and not bool(((truth == 0) | (truth == 1)).all()):
        raise InputError("the likelihood draws only 0 and 1, but the rows hold values between")
    generator = torch.Generator().manual_seed(seed)
    equal = (draws == truth).sum(0).double()
    rank = (draws < truth).sum(0) + torch.rand(len(truth), generator=generator) * (equal + 1)
    inside = ((2 * rank / (len(draws) + 1) - 1).abs() <= level).double()[kept]
    share = float(inside.mean())
    # The cells of a row are dependent.
    each = torch.zeros(len(x), dtype=torch.float64).index_add(0, row[kept], inside - share)
    return share, float(each.square().sum().sqrt()) / len(inside)


def _moments(values: Tensor) -> tuple[float, float]:
    return Estimate(values).mean, Estimate(values).standard_error
