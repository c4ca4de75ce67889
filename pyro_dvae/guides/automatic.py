"""A denoising guide for a given model."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoNormal
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.distributions import biject_to
from torch.distributions.transforms import ReshapeTransform, Transform

from pyro_dvae import checks
from pyro_dvae.buffers import on_trial
from pyro_dvae.corruptions import Corruption, NoCorruption
from pyro_dvae.errors import InputError
from pyro_dvae.networks import GaussianEncoder
from pyro_dvae.registration import Module, register
from pyro_dvae.sites import corrupt, element_support, plain_support


@dataclass(frozen=True)
class LocalSite:
    """A latent of each row: its name, and the transform from real vectors of a given size to its support."""

    name: str
    size: int
    transforms: tuple[Transform, ...]


class AutoEncoderGuide(Module):
    """A denoising guide for a model with latents of each row, in one line::

        guide = dv.AutoEncoderGuide(model, corruption=dv.SaltAndPepper(0.1))

    The model's first argument holds the rows, [N, ...]. In the order of the model, each latent inside the
    plate is a diagonal Gaussian in unconstrained space, transformed to the support of its prior. A network of
    x̃ and of the preceding unconstrained latents gives location and scale::

        q(z1, …, zL | x̃) = Π_l q(z_l | x̃, z1, …, z_(l−1))

    Latents outside the plate are left to one of Pyro's automatic guides. Discrete latents that are marked for
    enumeration are left to ``TraceEnum_ELBO``. The first call runs the model once to find the latents and
    makes the networks; call :meth:`setup` to do so earlier. Sites: ``x_tilde`` (auxiliary) and those of the
    model.

    :param model: a Pyro program with a plate of the rows at dim −1.
    :param plate: name of that plate.
    :param corruption: corruption of the encoders' input; none by default.
    :param hidden_sizes: hidden layers of the network of each latent.
    :param activation: activation of these networks.
    :param global_guide: function from the model, with the latents inside the plate hidden, to a guide of the
        latents outside it.
    :raises InputError: at the first call, if the plate does not exist, a latent lies in further plates, or a
        discrete latent is not enumerated.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        plate: str = "data",
        corruption: Corruption | None = None,
        *,
        hidden_sizes: Sequence[int] = (200,),
        activation: str = "softplus",
        global_guide: Callable[..., Any] = AutoNormal,
    ) -> None:
        super().__init__()
        self._model = (
            checks.program("model", model),
        )  # in a tuple, so that its parameters are not the guide's
        self.plate = checks.text("plate", plate)
        corruption = NoCorruption() if corruption is None else corruption
        self.corruption: Corruption = checks.instance(
            "corruption", corruption, Corruption, "a pyro_dvae corruption"
        )
        self._sizes = (hidden_sizes, activation)
        GaussianEncoder(1, 1, hidden_sizes, activation)  # refuses bad sizes early
        self._global_guide = checks.program("global_guide", global_guide)
        self.sites: list[LocalSite] = []
        self.encoders = nn.ModuleDict()
        self.global_part: Any = None

    def setup(self, x: Tensor, *args: Any, **kwargs: Any) -> None:
        """Find the model's latents and make the networks at the first call."""
        if self.sites:
            return
        checks.floating("x", x)
        if x.dim() == 0:
            raise InputError("x: expected rows of shape [N, ...], got a single number")
        with on_trial(), torch.no_grad(), poutine.block():
            trace = poutine.trace(self._model[0]).get_trace(x, *args, **kwargs)
        latents = [
            site
            for _, site in trace.iter_stochastic_nodes()
            if not site_is_subsample(site) and not site["infer"].get("enumerate")
        ]
        frames = {
            frame.name: frame for site in trace.nodes.values() for frame in site.get("cond_indep_stack", ())
        }
        if self.plate not in frames:
            found = ", ".join(map(repr, frames)) or "none"
            raise InputError(f"plate: the model has no plate {self.plate!r}; its plates: {found}")
        frame = frames[self.plate]
        self._unsized = frame.size == -1  # what Pyro gives a plate without a size
        if frame.dim != -1 or not (self._unsized or len(x) in (frame.size, frame.full_size)):
            raise InputError(
                f"plate: expected {self.plate!r} at dim -1 with the {len(x)} rows of x, "
                f"got {frame.size} at dim {frame.dim}"
            )
        self._full_size = None if frame.full_size == frame.size else frame.full_size
        self._subsampled = None if self._unsized or len(x) == frame.size else frame.size
        local = [site for site in latents if frame in site["cond_indep_stack"]]
        if not local:
            raise InputError(
                f"model: expected a latent inside the plate {self.plate!r}, got none; "
                "use an AutoGuide of Pyro"
            )
        sites = [self._local(site) for site in local]
        self._make(sites, math.prod(x.shape[1:]), x)
        if rest := [site["name"] for site in latents if site not in local]:
            self.global_part = self._global_guide(poutine.block(self._model[0], expose=rest))

    def _make(self, sites: list[LocalSite], data_size: int, like: Tensor) -> None:
        size = data_size
        # All start in the middle of the support, because exp() and densities of logits would overflow.
        large = max(1.0, float(like.double().square().nanmean().sqrt()))
        for site in sites:
            encoder = GaussianEncoder(size, site.size, *self._sizes)
            with torch.no_grad():
                encoder.head.weight.div_(100.0 * large if site.transforms else large)
            self.encoders[site.name.replace(".", "_")] = encoder.to(like)
            size += site.size
        self.sites = sites

    def _local(self, site: dict[str, Any]) -> LocalSite:
        name, fn = site["name"], site["fn"]
        plates = [frame.name for frame in site["cond_indep_stack"]]
        if plates != [self.plate] or len(fn.batch_shape) != 1:
            raise InputError(
                f"model: expected the latent {name!r} in the plate {self.plate!r} alone, with other "
                f"dimensions in .to_event(), got plates {plates} and batch shape {tuple(fn.batch_shape)}"
            )
        if fn.support.is_discrete:
            raise InputError(
                f"model: the latent {name!r} is discrete; mark it infer={{'enumerate': 'parallel'}} and "
                "train with TraceEnum_ELBO, or write its guide (see BernoulliGuide)"
            )
        try:
            support = _of_every_row(plain_support(fn), fn.event_dim)
            transform = biject_to(support)
        except NotImplementedError as error:
            raise InputError(
                f"model: no bijection from real numbers to the support of the latent {name!r} is known "
                f"({error}); write its guide"
            ) from error
        shape = torch.Size(transform.inverse_shape(fn.event_shape))
        if fn.event_dim == 1 and _is_real(support):
            return LocalSite(name, shape.numel(), ())  # a plain Gaussian, for closed forms
        flat = torch.Size([shape.numel()])
        return LocalSite(name, shape.numel(), (ReshapeTransform(flat, shape), transform))

    def _data_plate(self, rows: int) -> Any:
        """Return the plate of the model, without a size if that has none."""
        if self._unsized:
            return pyro.plate(self.plate, dim=-1)
        count = self._subsampled or rows
        return pyro.plate(self.plate, self._full_size or count, subsample_size=count, dim=-1)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Sample all latents of the model given corrupted rows ``x`` [N, ...]; return them by name."""
        self.setup(x, *args, **kwargs)
        register("encoders", self.encoders)
        found: dict[str, Tensor] = {}
        if self.global_part is not None:
            found.update(self.global_part(x, *args, **kwargs))
        event_dim = x.dim() - 1
        with self._data_plate(len(x)) as index:
            rows = x if self._subsampled is None else x.index_select(0, index)
            x_tilde = corrupt("x_tilde", self.corruption, rows, event_dim)
            seen = x_tilde.flatten(x_tilde.dim() - event_dim) if event_dim else x_tilde.unsqueeze(-1)
            for site, encoder in zip(self.sites, self.encoders.values(), strict=True):
                loc, scale = encoder(seen)
                fn: Any = dist.Normal(loc, scale).to_event(1)
                # With a cache, a draw keeps its unconstrained value. Otherwise, at the edge of the support,
                # rounding would make its density too small, and the bound too large without limit.
                transforms = [transform.with_cache() for transform in site.transforms]
                if transforms:
                    fn = dist.TransformedDistribution(fn, transforms)
                value = found[site.name] = pyro.sample(site.name, fn)
                before = value
                for transform in reversed(transforms):
                    before = transform.inv(before)
                lead = torch.broadcast_shapes(seen.shape[:-1], before.shape[:-1])
                seen = torch.cat([seen.expand(*lead, -1), before.expand(*lead, -1)], -1)
        return found


def _of_every_row(support: Any, event_dim: int) -> Any:
    """Return a support whose bounds are of one row, where all rows have the same."""
    if isinstance(support, constraints.independent):
        base = _of_every_row(support.base_constraint, event_dim)
        return constraints.independent(base, support.reinterpreted_batch_ndims)
    spread = {
        name: bound
        for name, bound in vars(support).items()
        if isinstance(bound, Tensor) and bound.dim() > event_dim
    }
    if not spread:
        return support
    one = copy.copy(support)
    for name, bound in spread.items():
        if bool((bound != bound[:1]).any()):
            raise NotImplementedError(f"{name} differs between rows")
        setattr(one, name, bound[0])
    return one


def _is_real(support: Any) -> bool:
    return element_support(support) in (constraints.real, constraints.real_vector)
