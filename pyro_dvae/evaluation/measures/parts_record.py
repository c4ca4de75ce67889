"""What :func:`~pyro_dvae.evaluation.measures.parts.bound_parts` found."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_dvae.evaluation.estimates import Estimate
from pyro_dvae.evaluation.values import estimate_values, finite


@dataclass(frozen=True, eq=False)  # compared by identity: == of tensors has no single truth value
class BoundParts:
    """The bound of each datum, split: ``bound = reconstruction − Σ kl``; all in nats.

    :param reconstruction: log-density of the observed sites, per datum [N].
    :param kl: per latent site KL(q(z|x) ‖ p(z)), per datum [N].
    :param kl_per_dimension: per latent site the mean over the data for each of its dimensions, float64,
        shape [*inner plates, *event]; None where the site does not factorise over them.
    :param closed_form: the sites whose KL is the integral; that of the others is sampled log q − log p.
    """

    reconstruction: Estimate
    kl: dict[str, Estimate]
    kl_per_dimension: dict[str, Tensor | None]
    closed_form: tuple[str, ...]

    @property
    def total_kl(self) -> Estimate:
        """The KL of all latents together."""
        return Estimate(torch.stack([part.per_datum for part in self.kl.values()]).sum(0))

    @property
    def bound(self) -> Estimate:
        """The denoising bound: what the parts add up to."""
        return Estimate(self.reconstruction.per_datum - self.total_kl.per_datum)

    def __str__(self) -> str:
        return self.table()

    def table(self) -> str:
        """Return the parts as aligned text: mean over the data ± standard error, and how a KL was had."""
        rows = [("bound", self.bound, ""), ("reconstruction", self.reconstruction, "")]
        for name, part in self.kl.items():
            how = "closed form" if name in self.closed_form else "sampled"
            dimensions = self.kl_per_dimension[name]
            over = "" if dimensions is None else f", {dimensions.numel()} dimensions"
            rows.append((f"KL {name}", part, how + over))
        width = max(len(label) for label, _, _ in rows)
        lines = [f"parts of the bound of {len(self.reconstruction.per_datum)} data, nats per datum"]
        for label, part, note in rows:
            error = "n/a" if math.isnan(part.standard_error) else f"{part.standard_error:.3f}"
            lines.append(f"{label:<{width}}  {part.mean:>12.3f} ± {error}  {note}".rstrip())
        return "\n".join(lines)

    def to_dict(self, per_datum: bool = False) -> dict[str, Any]:
        """Return the record as JSON-able values; what is not a finite number is None.

        :param per_datum: with the values of each datum.
        """
        return {
            "num_data": len(self.reconstruction.per_datum),
            "unit": "nats per datum",
            "bound": estimate_values(self.bound, per_datum),
            "reconstruction": estimate_values(self.reconstruction, per_datum),
            "kl": {name: estimate_values(part, per_datum) for name, part in self.kl.items()},
            "kl_per_dimension": {
                name: None if v is None else finite(v.tolist()) for name, v in self.kl_per_dimension.items()
            },
            "closed_form": list(self.closed_form),
        }
