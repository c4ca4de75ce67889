"""Counts: their encoder, and decoders for Poisson, negative binomial and (Dirichlet-)multinomial counts.

With shares ``p = softmax(W h + b)`` of the columns, h = trunk(z), the mean count is ``ℓ p_j``. The library
size ℓ is the total of the row, as a known offset, or a number that depends on the latents. The corruption for
counts is :class:`~pyro_dvae.corruptions.BinomialThinning`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_dvae import checks
from pyro_dvae.distributions.counts import DirichletMultinomial, GivenTotal, Multinomial
from pyro_dvae.errors import InputError
from pyro_dvae.networks.decoders import Decoder
from pyro_dvae.networks.encoders import GaussianEncoder
from pyro_dvae.networks.mlp import last_dimension, linear, trunk

LIBRARIES = ("row", "latent")
_MINIMUM_DISPERSION = 1e-3  # keeps the gamma functions accurate in single precision
_INITIAL_DISPERSION, _INITIAL_SPREAD = 0.5, 0.01


class CountDecoder(Decoder):
    """The base of decoders of counts with a library size; a subclass gives :meth:`counts`.

    ``z`` is ``[..., latent_size]``; the result has batch shape ``[...]`` and event shape ``[data_size]``.

    :param library: ``"row"``: ℓ is the row's total n, known, so the likelihood is p(x | z, n). A row that is
        scored brings its own total; for a mean or a draw, pass ``total``. ``"latent"``: ℓ = exp(v·h + c).
    :param typical_total: ℓ of means and draws without a total, and the initial value of a latent one; by
        default one count in each column.
    """

    def __init__(
        self,
        data_size: int,
        latent_size: int,
        hidden_sizes: Sequence[int] = (200, 200),
        activation: str = "softplus",
        *,
        library: str = "row",
        typical_total: float | None = None,
    ) -> None:
        super().__init__(data_size, latent_size)
        self.library = checks.known("library", library, LIBRARIES)
        total = self.data_size if typical_total is None else typical_total
        self.typical_total = checks.positive("typical_total", total)
        self.trunk = trunk(self.latent_size, hidden_sizes, activation)
        self.head = linear(hidden_sizes[-1], self.data_size)
        if self.library == "latent":
            self.library_head = linear(hidden_sizes[-1], 1)
            nn.init.constant_(self.library_head.bias, math.log(self.typical_total))

    @property
    def discrete(self) -> bool:
        return True

    @property
    def takes_total(self) -> bool:
        """Whether the library size is the row's total, which the call may give."""
        return self.library == "row"

    @abstractmethod
    def counts(self, hidden: Tensor, total: Tensor) -> TorchDistribution:
        """Return p(x | z, ℓ) of event shape [D] for trunk(z) [..., H] and library sizes [..., 1]."""

    def forward(self, z: Tensor, total: Tensor | None = None) -> TorchDistribution:
        """Return p(x | z) of event shape [data_size].

        :param z: latents, [..., latent_size].
        :param total: library sizes, [..., 1], for ``library="row"``: ``x.sum(-1, keepdim=True)``. Without
            them, a value is scored by its own total, and mean and draws are those of the typical total.
        """
        last_dimension("z", z, self.latent_size, "latent_size")
        hidden = self.trunk(z)
        if self.library == "latent":
            if total is not None:
                raise InputError("total: expected none, because library='latent' explains the totals")
            return self.counts(hidden, self.library_head(hidden).exp())
        if total is not None:
            return self.counts(hidden, last_dimension("total", total, 1, "the row's total"))
        typical = hidden.new_full((), self.typical_total).expand(*hidden.shape[:-1], 1)
        return GivenTotal(lambda own: self.counts(hidden, own), typical)

    def log_rate(self, hidden: Tensor, total: Tensor) -> Tensor:
        """Return log(ℓ p), [..., D], above −80: smaller rates would round to 0, with an infinite loss."""
        tiny = torch.finfo(total.dtype).tiny  # of an empty row
        log_rate = total.clamp(min=tiny).log() + torch.log_softmax(self.head(hidden), -1)
        return log_rate.clamp(min=-80.0)


class _InflatedDecoder(CountDecoder):
    """Counts with extra zeros, on request: each column is 0 with probability sigmoid(V h + c)_j."""

    def __init__(
        self,
        data_size: int,
        latent_size: int,
        hidden_sizes: Sequence[int] = (200, 200),
        activation: str = "softplus",
        *,
        library: str = "row",
        typical_total: float | None = None,
        zero_inflated: bool = False,
    ) -> None:
        sizes = (data_size, latent_size, hidden_sizes, activation)
        super().__init__(*sizes, library=library, typical_total=typical_total)
        self.zero_inflated = checks.flag("zero_inflated", zero_inflated)
        if self.zero_inflated:
            self.gate_head = linear(hidden_sizes[-1], self.data_size)

    @abstractmethod
    def columns(self, log_rate: Tensor) -> TorchDistribution:
        """Return the distribution of each column without extra zeros."""

    def counts(self, hidden: Tensor, total: Tensor) -> dist.Independent:
        columns = self.columns(self.log_rate(hidden, total))
        if self.zero_inflated:
            columns = dist.ZeroInflatedDistribution(columns, gate_logits=self.gate_head(hidden))
        return columns.to_event(1)


class PoissonDecoder(_InflatedDecoder):
    """Independent Poisson counts of mean ℓ p: ``log p(x_j) = x_j log(ℓ p_j) − ℓ p_j − log x_j!``

    ``z`` is ``[..., latent_size]``, h = trunk(z), p = softmax(W h + b); the result has batch shape ``[...]``
    and event shape ``[data_size]``.

    :param library: ``"row"`` (the row's total, known) or ``"latent"``; see :class:`CountDecoder`.
    :param typical_total: ℓ of means and draws without a total, and where a latent one starts.
    :param zero_inflated: each column is 0 with a further probability sigmoid(V h + c)_j (Lambert 1992).
    """

    def columns(self, log_rate: Tensor) -> dist.Poisson:
        return dist.Poisson(log_rate.exp())


class NegativeBinomialDecoder(_InflatedDecoder):
    """Independent negative binomial counts of mean μ = ℓ p and variance μ + φ_j μ² (Lopez et al. 2018)::

        log p(x) = log Γ(x + r) − log Γ(r) − log x! + r log(r / (r + μ)) + x log(μ / (r + μ)),   r = 1 / φ_j

    The dispersion φ_j = 10⁻³ + softplus(u_j) is learned for each column. ``z`` is ``[..., latent_size]``, h =
    trunk(z), p = softmax(W h + b); the result has batch shape ``[...]`` and event shape ``[data_size]``.

    :param library: ``"row"`` (the row's total, known) or ``"latent"``; see :class:`CountDecoder`.
    :param typical_total: ℓ of means and draws without a total, and where a latent one starts.
    :param zero_inflated: each column is 0 with a further probability sigmoid(V h + c)_j.
    """

    def __init__(
        self,
        data_size: int,
        latent_size: int,
        hidden_sizes: Sequence[int] = (200, 200),
        activation: str = "softplus",
        *,
        library: str = "row",
        typical_total: float | None = None,
        zero_inflated: bool = False,
    ) -> None:
        sizes = (data_size, latent_size, hidden_sizes, activation)
        super().__init__(*sizes, library=library, typical_total=typical_total, zero_inflated=zero_inflated)
        start = math.log(math.expm1(_INITIAL_DISPERSION))
        self.unconstrained_dispersion = nn.Parameter(torch.full((self.data_size,), start))

    @property
    def dispersion(self) -> Tensor:
        """φ, [D]."""
        return _MINIMUM_DISPERSION + softplus(self.unconstrained_dispersion)

    def columns(self, log_rate: Tensor) -> dist.NegativeBinomial:
        dispersion = self.dispersion
        return dist.NegativeBinomial(1 / dispersion, logits=log_rate + dispersion.log())


class MultinomialDecoder(CountDecoder):
    """Counts of a row given their total: ``x ~ Multinomial(n, p)``, with its own n for each row.

    For bags of words and ratings (Liang et al. 2018): ``log p(x | n) = log n! − Σ log x_j! + Σ x_j log p_j``.
    ``z`` is ``[..., latent_size]``, h = trunk(z), p = softmax(W h + b); the result has batch shape ``[...]``
    and event shape ``[data_size]``.

    :param typical_total: n of means and draws without a total.
    """

    def __init__(
        self,
        data_size: int,
        latent_size: int,
        hidden_sizes: Sequence[int] = (200, 200),
        activation: str = "softplus",
        *,
        typical_total: float | None = None,
    ) -> None:
        super().__init__(data_size, latent_size, hidden_sizes, activation, typical_total=typical_total)

    def counts(self, hidden: Tensor, total: Tensor) -> TorchDistribution:
        return Multinomial(self.head(hidden), total.squeeze(-1))


class DirichletMultinomialDecoder(MultinomialDecoder):
    """A multinomial whose shares vary around p: ``x ~ Multinomial(n, π)``, ``π ~ Dirichlet(p / φ)``::

        log p(x | n) = log B(1/φ, n) n − Σ_j log B(p_j/φ, x_j) x_j    (terms with x_j = 0 are 0)

    The spread φ = 10⁻⁴ + softplus(u) is learned; as it falls, the distribution becomes the multinomial. ``z``
    is ``[..., latent_size]``, h = trunk(z), p = softmax(W h + b); the result has batch shape ``[...]`` and
    event shape ``[data_size]``.

    :param typical_total: n of means and draws without a total.
    """

    def __init__(
        self,
        data_size: int,
        latent_size: int,
        hidden_sizes: Sequence[int] = (200, 200),
        activation: str = "softplus",
        *,
        typical_total: float | None = None,
    ) -> None:
        super().__init__(data_size, latent_size, hidden_sizes, activation, typical_total=typical_total)
        self.unconstrained_spread = nn.Parameter(torch.tensor(math.log(math.expm1(_INITIAL_SPREAD))))

    @property
    def spread(self) -> Tensor:
        """φ, a single number."""
        return 1e-4 + softplus(self.unconstrained_spread)

    def counts(self, hidden: Tensor, total: Tensor) -> TorchDistribution:
        concentration = torch.log_softmax(self.head(hidden), -1) - self.spread.log()
        return DirichletMultinomial(concentration.clamp(min=-40.0).exp(), total.squeeze(-1))


class CountEncoder(GaussianEncoder):
    """The fully connected recognition network of log(1 + x): counts differ by orders of magnitude.

    ``x`` is ``[..., data_size]``; location and scale are ``[..., latent_size]``.
    """

    def features(self, x: Tensor) -> Tensor:
        return super().features(x.clamp(min=0).log1p())
