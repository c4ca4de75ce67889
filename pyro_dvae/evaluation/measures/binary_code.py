"""The binary code of rounded latents: its length and its reconstruction error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.errors import InputError, shown
from pyro_dvae.evaluation.estimates import finite
from pyro_dvae.evaluation.measures.codes import DecodingError, MeanCode, decoding_errors, gathered
from pyro_dvae.evaluation.measures.means import base_of
from pyro_dvae.evaluation.measures.passes import (
    Program,
    by_row,
    checked_plate,
    chunks,
    first_chunk,
    measuring,
)
from pyro_dvae.programs.parameters import float_type
from pyro_dvae.rows import Data


@dataclass(frozen=True, eq=False)  # compared by identity: == of tensors has no single truth value
class BinaryCode:
    """The code of rounded latents, and the errors of its reconstructions.

    :param share: share of the rows with a 1, for each bit [d].
    :param from_real: error of the data decoded from the real-valued mean codes.
    :param from_bits: error of the data decoded from the bits.
    :param data_size: D, the number of elements of an observation.
    :param dead: entropy (bits) below which a bit counts as dead.
    """

    share: Tensor
    from_real: DecodingError
    from_bits: DecodingError
    data_size: int
    dead: float

    @property
    def entropy(self) -> Tensor:
        """The entropy of each bit under its share, [d] (bits)."""
        p = self.share
        return -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)) / math.log(2)

    @property
    def bits(self) -> float:
        """The length of the code of an observation: the sum of the bits' entropies (bits)."""
        return float(self.entropy.sum())

    @property
    def compression(self) -> float:
        """Elements of an observation per bit of its code; for binary data the compression ratio."""
        return self.data_size / self.bits if self.bits else math.inf

    @property
    def dead_share(self) -> float:
        """The share of bits that are (almost) the same for all data."""
        return float((self.entropy < self.dead).double().mean())

    def __str__(self) -> str:
        return self.table()

    def table(self) -> str:
        """Return the code's length and the errors as aligned text, mean ± standard error over the data."""
        count, rate = len(self.from_bits.squared.per_datum), self.bits / self.data_size
        each = f"{rate:.4f} per element, 1 for {self.compression:.1f}"
        lines = [
            f"binary code of {count} rows of {self.data_size} elements",
            f"{'length':<12}  {self.bits:.1f} bits of {len(self.share)}, {each}",
            f"{'dead':<12}  {self.dead_share:.0%} of the bits",
        ]
        for name, error in (("from real", self.from_real), ("from bits", self.from_bits)):
            lines.append(f"{name:<12}  {error}")
        return "\n".join(lines)

    def to_dict(self, per_datum: bool = False) -> dict[str, Any]:
        """Return the record as JSON-able values; non-finite numbers are None."""
        return {
            "bits": self.bits,
            "compression": finite(self.compression),
            "entropy": self.entropy.tolist(),
            "dead_share": self.dead_share,
            "data_size": self.data_size,
            "from_real": self.from_real.to_dict(per_datum),
            "from_bits": self.from_bits.to_dict(per_datum),
        }


def binary_code(
    model: Program,
    guide: Program,
    data: Any,
    *args: Any,
    site: str = "z",
    threshold: float = 0.5,
    values: tuple[float, float] = (0.0, 1.0),
    data_site: str | None = None,
    dead: float = 0.01,
    clean: bool = True,
    batch_size: int | None = None,
    **kwargs: Any,
) -> BinaryCode:
    """Round the posterior mean of each row of ``data`` to bits, and compare the reconstructions.

    Bit i of an observation is 1 if the posterior mean of latent i exceeds ``threshold``. The decoder then
    gets the higher of ``values``, otherwise the lower. For latents near 0 and 1
    (:class:`~pyro_dvae.priors.GaussianPair`, bits) these are the defaults. Latents that are logits of a code
    in (0, 1) (:class:`~pyro_dvae.priors.SparseBeta`, :class:`~pyro_dvae.priors.ConcretePrior`) take
    ``threshold=0`` and ``values=(-inf, inf)``, whose codes are 0 and 1.

    A bit with a share p of ones among the rows costs its entropy −p log₂ p − (1 − p) log₂(1 − p). The sum
    over the bits is the code length if each bit is coded separately (an arithmetic coder comes within 2 bits
    of it), and an upper bound for better coders.

    :param model: Pyro model of a batch, with one data plate.
    :param guide: Pyro guide of a batch.
    :param data: rows [N, ...], from any source (:mod:`pyro_dvae.rows`).
    :param args: further data for model and guide, N rows each, split like ``data``.
    :param kwargs: further arguments of model and guide, passed unchanged.
    :param site: name of the latent, of one event dimension [d]; others keep their mean.
    :param threshold: between the two values of a bit.
    :param values: what the decoder gets for 0 and for 1.
    :param data_site: name of the model's observed site to compare; by default the only one, or ``x``.
    :param dead: entropy (bits) below which a bit counts as dead.
    :param clean: give the guide clean input; otherwise corrupt it.
    :param batch_size: rows of ``data`` at a time; by default 2,000.
    :raises InputError: if ``data`` is empty or not finite, a site does not exist, or a mean is not available.
    """
    given = Data.opened("data", (data, *args), kwargs, float_type(model, guide))
    checks.number("threshold", threshold)
    checks.number("dead", dead, 0.0, 1.0)
    checks.pair(model, guide)
    checks.flag("clean", clean)
    checks.text("site", site)
    numbers = isinstance(values, tuple | list) and all(isinstance(each, int | float) for each in values)
    if not numbers or len(values) != 2 or not values[0] < threshold < values[1]:
        raise InputError(f"values: expected a pair around the threshold {threshold:g}, got {shown(values)}")
    low, high = values
    ones: Tensor | None = None
    real, rounded = [], []
    plate, size = "", 0
    with measuring(model, guide, first_chunk(given, batch_size), clean, None):
        for rows in chunks(given, batch_size):
            plate, size = plate or checked_plate(model, guide, rows, site), rows.x[0].numel()
            setter = MeanCode()
            with setter:
                codes = rows.call(poutine.trace(guide).get_trace)
            if setter.unknown:
                kind = type(base_of(codes.nodes[setter.unknown[0]]["fn"])).__name__
                raise InputError(
                    f"guide: expected a distribution with a mean at {setter.unknown[0]!r}, got {kind}"
                )
            real.append(decoding_errors(model, codes, rows, data_site, plate))
            code = codes.nodes[site]
            above = code["value"] > threshold
            code["value"] = torch.where(above, high, low).to(code["value"])
            rounded.append(decoding_errors(model, codes, rows, data_site, plate))
            count = by_row(above, code, plate).sum(0).cpu()
            ones = count if ones is None else ones + count
    if ones is None or ones.dim() != 1:
        raise InputError(f"site: expected latents of one event dimension at {site!r}")
    return BinaryCode(ones.double() / len(given), gathered(real), gathered(rounded), size, dead)
