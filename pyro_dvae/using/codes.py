"""Codes of rows: posterior means of the latents, standard deviations, and draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import Delta
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.measures.means import base_of, guide_sites, mean_of
from pyro_dvae.evaluation.measures.passes import (
    MEMORY,
    Program,
    by_row,
    checked_plate,
    measuring,
    rows_within,
)
from pyro_dvae.programs.parameters import float_type
from pyro_dvae.rows import Data
from pyro_dvae.sites import is_circular


@dataclass(frozen=True, eq=False)  # compared by identity: == of tensors has no single truth value
class Codes:
    """The posterior of the latents of N rows under a guide, by the name of the site; on the CPU.

    For an angle: mean direction μ and circular standard deviation (-2 log R)^½, where E[e^{iz}] = R e^{iμ}
    (Mardia and Jupp 2000, section 3.4).

    :param mean: E_q[z | x], each [N, *inner plates, *event].
    :param standard_deviation: of q(z | x), likewise.
    :param draws: samples of q(z | x), each [S, N, ...]; {} if none were requested.
    """

    mean: dict[str, Tensor]
    standard_deviation: dict[str, Tensor]
    draws: dict[str, Tensor]

    def __getitem__(self, site: str) -> Tensor:
        """Return the mean of a site."""
        return self.mean[checks.known("site", site, self.mean)]

    def __len__(self) -> int:
        return len(next(iter(self.mean.values())))

    def __str__(self) -> str:
        """Return a line for each site with its shape and average standard deviation."""
        lines = [f"codes of {len(self):,} rows"]
        for name, mean in self.mean.items():
            spread = float(self.standard_deviation[name].mean())
            lines.append(f"{name}  {list(mean.shape[1:])}  standard deviation {spread:.3g} on average")
        return "\n".join(lines)


def encode(
    model: Program,
    guide: Program,
    data: Any,
    *args: Any,
    num_draws: int = 0,
    num_samples: int = 100,
    clean: bool = True,
    seed: int | None = None,
    batch_size: int | None = None,
    memory: int = MEMORY,
    **kwargs: Any,
) -> Codes:
    """Return mean and standard deviation of q(z | x) for each row of ``data``, without a gradient.

    They are those of the guide's distributions. If a site may depend on an earlier draw of the guide (a
    deeper layer, or a corruption with ``clean=False``), they are averaged over ``num_samples`` runs: the mean
    of the means, and the law of total variance. For a distribution without a mean, its draws are averaged.

    :param model: Pyro model of a batch, with one data plate; it is run once, to check the guide against it.
    :param guide: Pyro guide of a batch.
    :param data: rows [N, ...], from any source (:mod:`pyro_dvae.rows`).
    :param args: further data for model and guide, N rows each, split like ``data``.
    :param kwargs: further arguments of model and guide, passed unchanged.
    :param num_draws: S, samples of the code of each row to return.
    :param num_samples: runs of the guide if one is not enough.
    :param clean: give the guide clean input; otherwise corrupt it.
    :param seed: seed of a separate random stream; None uses the global one.
    :param batch_size: rows at a time, at most; by default 2,000.
    :param memory: approximate number of bytes to use in addition to data and results.
    :raises InputError: the data are invalid, or there is no latent or data plate.
    """
    checks.pair(model, guide)
    given = Data.opened("data", (data, *args), kwargs, float_type(model, guide))
    num_draws = checks.count("num_draws", num_draws, minimum=0)
    num_samples = checks.count("num_samples", num_samples)
    checks.flag("clean", clean)
    parts: dict[str, dict[str, list[Tensor]]] = {"mean": {}, "variance": {}, "draws": {}}
    plate = ""
    size = rows_within(memory, given, batch_size)
    with measuring(model, guide, given[:2], clean, seed):
        for rows in given.split(size):
            plate = plate or checked_plate(model, guide, rows)
            for kind, found in _moments(guide, rows, plate, num_samples, num_draws).items():
                for name, value in found.items():
                    parts[kind].setdefault(name, []).append(value.cpu())
    mean, variance = (
        {name: torch.cat(blocks) for name, blocks in parts[kind].items()} for kind in ("mean", "variance")
    )
    drawn = {name: torch.cat(blocks, 1) for name, blocks in parts["draws"].items()}
    return Codes(mean, {name: each.clamp(min=0).sqrt() for name, each in variance.items()}, drawn)


def _moments(
    guide: Program, rows: Any, plate: str, num_samples: int, num_draws: int
) -> dict[str, dict[str, Tensor]]:
    """Return mean, variance and draws of every latent site of a chunk."""
    runs: dict[str, list[tuple[Tensor, Tensor]]] = {}
    values: dict[str, list[Tensor]] = {}
    angles = set()
    count = 1
    for run in range(max(num_samples, num_draws, 1)):
        if run >= max(count, num_draws):
            break
        random = False
        for site in guide_sites(guide, rows):
            name = site["name"]
            if not site["infer"].get("is_auxiliary"):
                value = by_row(site["value"], site, plate)
                if len(value) != len(rows):
                    raise InputError(f"guide: its plate {plate!r} lacks the {len(rows)} rows of a chunk")
                mean, variance = mean_of(site["fn"]), _variance_of(site["fn"])
                known = mean is not None and variance is not None and bool(torch.isfinite(mean).all())
                count = num_samples if random or not known else count
                if run < count:
                    own = value.double() if not value.is_floating_point() else value
                    centre = by_row(mean, site, plate) if known and mean is not None else own
                    spread = by_row(variance, site, plate) if known and variance is not None else own * 0
                    runs.setdefault(name, []).append((centre, spread))
                    if is_circular(site["fn"]):
                        angles.add(name)
                if run < num_draws:
                    values.setdefault(name, []).append(value)
            random = random or not isinstance(base_of(site["fn"]), Delta)
    found: dict[str, dict[str, Tensor]] = {"mean": {}, "variance": {}, "draws": {}}
    for name, pairs in runs.items():
        means, spreads = (torch.stack([pair[n] for pair in pairs]) for n in (0, 1))
        if name in angles:
            resultant = ((-spreads / 2).exp() * torch.exp(1j * means)).mean(0)
            found["mean"][name], found["variance"][name] = resultant.angle(), -2 * resultant.abs().log()
        else:
            found["mean"][name] = means.mean(0)
            found["variance"][name] = spreads.mean(0) + means.var(0, correction=0)
    found["draws"] = {name: torch.stack(each) for name, each in values.items()}
    return found


def _variance_of(fn: Any) -> Tensor | None:
    """Return the variance of a distribution; of an angle, the square of the circular standard deviation."""
    try:
        variance: Tensor = fn.variance
    except (NotImplementedError, AttributeError):
        return None
    # torch's variance of an angle is 1 - R.
    return -2 * torch.log1p(-variance) if is_circular(fn) else variance
