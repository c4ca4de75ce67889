"""The corruption site of a guide, which the encoder reads and no bound counts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.score_parts import ScoreParts
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.corruptions import Corruption
from pyro_dvae.errors import InputError
from pyro_dvae.internals import frame
from pyro_dvae.random_state import forked
from pyro_dvae.registration import register

_REMEDY = (
    "a learned discrete corruption needs a score-function gradient, which this ELBO does not have: "
    "use pyro_dvae.TraceDenoising_ELBO (or pyro.infer.Trace_ELBO)"
)

# The plates of draws, which are not the user's. The last one is that of Pyro's own bounds.
CORRUPTIONS = "_num_corruptions"
PARTICLES = "_num_particles"
REDRAWS = "_num_redraws"
DRAW_PLATES = (CORRUPTIONS, PARTICLES, REDRAWS, "num_particles_vectorized")

_CIRCULAR = (dist.VonMises, dist.SineBivariateVonMises, dist.SineSkewed)


class _NoEntropy(float):
    """Zero for estimators that ignore it; refuses estimators that would differentiate it."""

    def sum(self) -> Tensor:
        raise NotImplementedError(_REMEDY)


class Auxiliary(dist.TorchDistribution):
    """A distribution that is sampled but has log-probability 0, whatever the value.

    With a corruption wrapped in it, any Pyro ELBO computes the denoising bound; a counted site would add the
    entropy of the corruption. A discrete distribution that depends on parameters keeps its true score
    function, so their gradient can be estimated. A reparameterised distribution has pathwise gradients. The
    log-density shows whether the distribution depends on parameters, wherever they are stored.

    :param base_dist: the distribution of the value.
    :param clean: the value without corruption, of the same shape; None for noise that belongs to the guide
        and remains on clean input.
    """

    arg_constraints: ClassVar[dict[str, dist.constraints.Constraint]] = {}

    def __init__(self, base_dist: dist.TorchDistribution, clean: Tensor | None = None) -> None:
        self.base_dist = base_dist
        self.clean = clean
        super().__init__(base_dist.batch_shape, base_dist.event_shape, validate_args=False)

    @cached_property
    def learned(self) -> bool:
        """Whether the log-density has a gradient that the draws do not have."""
        if not torch.is_grad_enabled():
            return False
        if self.clean is not None:
            # The clean value may have density 0, which does not affect whether there is a gradient.
            with suppress(ValueError):
                return bool(self.base_dist.log_prob(self.clean).requires_grad)
        with forked():
            return bool(self.base_dist.log_prob(self.base_dist.sample()).requires_grad)

    @property
    def has_rsample(self) -> bool:
        """Whether the draws have the whole gradient, which is always true if nothing is learned."""
        pathwise = self.base_dist.has_rsample or not self.learned
        # Pyro's mean-field ELBO refuses a site by this attribute; name the alternative here.
        if not pathwise and frame(1).f_code.co_name == "check_fully_reparametrized":
            raise NotImplementedError(_REMEDY)
        return bool(pathwise)

    @property
    def support(self) -> dist.constraints.Constraint:
        return self.base_dist.support

    def expand(self, batch_shape: torch.Size, _instance: dist.TorchDistribution | None = None) -> Auxiliary:
        batch_shape = torch.Size(batch_shape)
        clean = None if self.clean is None else self.clean.expand(batch_shape + self.event_shape)
        return Auxiliary(self.base_dist.expand(batch_shape), clean)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """Draw values of shape ``sample_shape + batch_shape + event_shape``, in new memory."""
        value: Tensor = self.base_dist(sample_shape)
        # A guide may change its input in place, which without noise would be the data.
        return value.clone() if is_point(self.base_dist) else value

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draw values of shape ``sample_shape + batch_shape + event_shape``, in new memory."""
        return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return zeros of the batch shape (nats)."""
        shape = torch.broadcast_shapes(self.batch_shape, value.shape[: value.dim() - self.event_dim])
        return torch.zeros((), dtype=value.dtype, device=value.device).expand(shape)

    def score_parts(self, value: Tensor) -> ScoreParts:
        """Return log-probability 0 and, for a learned discrete corruption, its true score function."""
        nothing = self.log_prob(value)
        if self.has_rsample:
            return ScoreParts(nothing, 0, nothing)
        return ScoreParts(nothing, self.base_dist.log_prob(value), _NoEntropy())

    def without_noise(self) -> Auxiliary:
        """Return a distribution that always gives the clean value; noise of the guide remains."""
        if self.clean is None:
            return self
        return Auxiliary(dist.Delta(self.clean, event_dim=self.event_dim), self.clean)


def corrupt(name: str, corruption: Corruption, x: Tensor, event_dim: int = 1) -> Tensor:
    """Sample the corruption site ``x̃ ~ p_π(x̃|x)`` in a guide (Im et al. 2017, section 3).

    Call it before the latent sites, inside the same plate, and pass the result to the encoder. The site adds
    nothing to any bound. This function registers the parameters of a learned corruption with Pyro.

    :param name: name of the site.
    :param corruption: the corruption.
    :param x: clean data, shape ``batch + event``.
    :param event_dim: number of rightmost dimensions of ``x`` that form one observation.
    :returns: corrupted data, shaped like ``x`` (with further dimensions on the left under several draws).
    :raises InputError: if ``x`` is not a floating-point tensor, has too few dimensions, consists of single
        numbers although ``event_dim`` is 1, or, while Pyro's validation is on, has NaN or infinite values.
    """
    checks.text("name", name)
    event_dim = checks.count("event_dim", event_dim, minimum=0)
    checks.instance("corruption", corruption, Corruption, "a pyro_dvae corruption")
    checks.floating("x", x)
    if x.dim() < event_dim:
        raise InputError(
            f"x: expected at least event_dim = {event_dim} dimensions, got shape {tuple(x.shape)}"
        )
    register(name, corruption, by_name=True)  # a guide may make it in each call
    if x.dim() > event_dim:
        return auxiliary(name, corruption(x).to_event(event_dim), clean=x)
    with _OfOneRow(x):
        return auxiliary(name, corruption(x).to_event(event_dim), clean=x)


class _OfOneRow(Messenger):
    """Refuses an ``x`` that is one observation but has the length of the plate around it."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = x

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        for plate in msg["cond_indep_stack"]:
            own = plate.vectorized and plate.name not in DRAW_PLATES
            if own and self.x.dim() and plate.size == len(self.x) > 1:
                raise InputError(
                    f"x: {msg['name']!r} takes shape {tuple(self.x.shape)} for one observation, but plate "
                    f"{plate.name!r} has {plate.size} elements; give a single row as x[None], rows in "
                    "batches (torch.utils.data.DataLoader), and event_dim=0 if a row is a single number"
                )


def auxiliary(name: str, fn: dist.TorchDistribution, clean: Tensor | None = None) -> Tensor:
    """Sample a guide site that no bound counts, for noise that the guide integrates over.

    A guide with such a site is a mixture, and the bound is that of its components. Without the density of the
    auxiliary variable, it is still a lower bound of log p(x) (Im et al. 2017, Theorem 1). A site that is only
    marked ``infer={"is_auxiliary": True}`` counts, as in Pyro.

    :param name: name of the site.
    :param fn: distribution of the noise.
    :param clean: the value that :func:`clean_input` uses instead; None keeps the noise.
    :returns: a draw.
    :raises InputError: if ``fn`` is not a Pyro distribution, or ``clean`` is not a tensor.
    """
    checks.text("name", name)
    checks.instance("fn", fn, TorchDistributionMixin, "a distribution of Pyro")
    checks.optional(checks.dense, "clean", clean)
    return pyro.sample(name, Auxiliary(fn, clean), infer={"is_auxiliary": True})


def layers(distribution: Any) -> list[Any]:
    """Return a distribution and its nested base distributions, from the outermost."""
    found = [distribution]
    while hasattr(found[-1], "base_dist"):
        found.append(found[-1].base_dist)
    return found


def plain_support(distribution: Any) -> Any:
    """Return the support of a distribution; of a mixture that of its components.

    :raises NotImplementedError: it has none, or each component of a mixture has its own.
    """
    return _of_components(distribution.support)


def _of_components(support: Any) -> Any:
    inner = getattr(support, "base_constraint", None)
    if inner is None:
        return support
    found = _of_components(inner)
    if isinstance(support, dist.constraints.independent):
        return dist.constraints.independent(found, support.reinterpreted_batch_ndims)
    if has_several_bounds(inner):
        raise NotImplementedError(f"{support} has bounds of each component")
    return found


def element_support(support: Any) -> Any:
    """Return the support of a single element."""
    while isinstance(support, dist.constraints.independent):
        support = support.base_constraint
    return support


def has_several_bounds(support: Any) -> bool:
    """Whether the bounds of a support differ between rows, components or columns."""
    return any(
        isinstance(each, Tensor) and each.numel() > 1 for each in vars(element_support(support)).values()
    )


def is_circular(distribution: Any) -> bool:
    """Whether values are angles: the density repeats outside of −π to π, where there are no draws."""
    found = layers(distribution)
    found += [each.component_distribution for each in found if hasattr(each, "component_distribution")]
    return any(isinstance(each, _CIRCULAR) for each in found)


def is_point(distribution: Any) -> bool:
    """Whether a distribution is a ``Delta``, also inside wrappers."""
    return any(isinstance(each, dist.Delta) for each in layers(distribution))


def is_uncounted(site: dict[str, Any]) -> bool:
    """Whether a site of a guide adds nothing to a bound: a corruption, or another :func:`auxiliary` site."""
    return isinstance(site["fn"], Auxiliary)


class CleanInputMessenger(Messenger):
    """Effect handler under which every corruption site returns its clean input."""

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if isinstance(msg["fn"], Auxiliary) and not msg["is_observed"]:
            msg["fn"] = msg["fn"].without_noise()


def clean_input(fn: Callable[..., Any] | None = None) -> Any:
    """Turn corruption off, as a context manager or as a wrapper of a guide.

    Im et al. (2017) train on corrupted input and report test bounds on clean input::

        with dv.clean_input():
            loss = bound.loss(model, guide, x)
    """
    messenger = CleanInputMessenger()
    return messenger if fn is None else messenger(checks.program("fn", fn))
