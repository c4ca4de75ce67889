"""What :func:`~pyro_dvae.evaluation.measures.binary_code.binary_code` found."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_dvae.evaluation.measures.decoding import DecodingError
from pyro_dvae.evaluation.values import estimate_values, finite, plus_minus


@dataclass(frozen=True, eq=False)  # compared by identity: == of tensors has no single truth value
class BinaryCode:
    """The bits of the data.

    :param share: of the data with a 1, for each bit [d].
    :param from_real: error of the data decoded from the real-valued mean codes.
    :param from_bits: the same, decoded from the bits.
    :param data_size: D, the number of elements of a datum.
    :param dead: entropy below which a bit is dead.
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
        """The length of the code of a datum: the sum of the bits' entropies (bits)."""
        return float(self.entropy.sum())

    @property
    def compression(self) -> float:
        """How many elements of a datum a bit of its code stands for; of binary data the compression ratio."""
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
            f"binary code of {count} data of {self.data_size} elements",
            f"{'length':<12}  {self.bits:.1f} bits of {len(self.share)}, {each}",
            f"{'dead':<12}  {self.dead_share:.0%} of the bits",
        ]
        for name, error in (("from real", self.from_real), ("from bits", self.from_bits)):
            line = f"{name:<12}  squared "
            line += plus_minus(error.squared.mean, error.squared.standard_error, digits=5)
            if error.cross_entropy is not None:
                entropy = plus_minus(error.cross_entropy.mean, error.cross_entropy.standard_error)
                line += f"   cross-entropy {entropy} nats"
            lines.append(line)
        return "\n".join(lines)

    def to_dict(self, per_datum: bool = False) -> dict[str, Any]:
        """Return the record as JSON-able values; what is not a finite number is None."""
        found: dict[str, Any] = {
            "bits": self.bits,
            "compression": finite(self.compression),
            "entropy": self.entropy.tolist(),
            "dead_share": self.dead_share,
            "data_size": self.data_size,
        }
        for name, error in (("from_real", self.from_real), ("from_bits", self.from_bits)):
            entropy = error.cross_entropy
            found[name] = {
                "squared": estimate_values(error.squared, per_datum),
                "cross_entropy": None if entropy is None else estimate_values(entropy, per_datum),
            }
        return found
