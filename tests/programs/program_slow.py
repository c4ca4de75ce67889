"""A random program computed by hand: its estimate from given draws, and the expectation over all draws.

Plain loops over corruptions, particles, rows and copies, with densities written out; nothing of pyro_dvae.
A draw comes from a source: one gives back recorded values (as functions of the parameters where they are
reparameterised), the other puts every value on a grid, with its probability (Gauss-Hermite nodes of normal
variables, all values of discrete ones, a fine grid of others).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from program_sources import Given, Grid, grid_of, log_density
from program_spec import ROWS, SIZE, Latent, Program
from torch import Tensor

OFFSETS, READS, MASK, LEVEL = (0.0, 0.3), (0.8, -0.6), (True, False), 0.3


class Term(NamedTuple):
    """A part of log p − log q of one row (None: of none), with its mask and scale."""

    site: str
    row: int | None
    sign: float
    value: Tensor
    scale: float


def _log_mean_exp(values: list[Tensor]) -> Tensor:
    wide = torch.stack(torch.broadcast_tensors(*values))
    return torch.logsumexp(wide, 0) - math.log(len(values))


class Slow:
    """The program with its parameters.

    :param parameters: leaves, by name; ``level`` is that of the corruption.
    :param x: observations, [ROWS, SIZE].
    """

    def __init__(self, program: Program, parameters: dict[str, float], x: Tensor) -> None:
        self.program, self.x = program, x
        self.p = {n: torch.tensor(v, dtype=torch.float64, requires_grad=True) for n, v in parameters.items()}
        if program.noise is not None and program.noise.level != "fixed":
            self.p["level"] = torch.tensor(LEVEL, dtype=torch.float64, requires_grad=True)
        self.outer_rows = int(ROWS * program.subsampling) / ROWS

    # Draws.

    def level(self, row: int, element: int) -> Tensor:
        noise = self.program.noise
        raw = self.p.get("level", torch.tensor(LEVEL))
        if noise.level == "network":
            raw = raw + 0.5 * self.x[row, element]
        return torch.log1p(raw.exp()) if noise.kind == "gaussian" else torch.sigmoid(raw)

    def corrupted(self, source, rows: list[int], m: int) -> dict[tuple, Tensor]:
        """Return the draws of the guide's uncounted sites."""
        found = {}
        for row in rows if self.program.noise is not None else []:
            for element in range(SIZE):
                clean, level = self.x[row, element], self.level(row, element)
                key = ("x_tilde", m, row, element)
                kind = self.program.noise.kind
                if kind == "gaussian":
                    found[key[2:]] = source.normal(key, clean, level, lambda v: v)
                    continue
                if kind == "salt-and-pepper":
                    points, shares = (clean, 1.0, 0.0), (1 - level, level / 2, level / 2)
                else:
                    points = (clean, 1 - clean if kind == "bit-flip" else 0.0)
                    shares = (1 - level, level)
                found[key[2:]] = source.choice(key, points, shares)
        if kind := self.program.auxiliary:
            for row in rows:
                own = 0 if kind == "shared" else row
                key = ("u", m, own)
                if ("u", own) in found:
                    pass
                elif kind == "bernoulli":
                    p = torch.sigmoid(self.p["u.s"])
                    found["u", own] = source.choice(key, (0.0, 1.0), (1 - p, p))
                else:
                    found["u", own] = source.normal(key, torch.zeros(()), self.p["u.s"].exp(), lambda v: v)
        return found

    def masked(
        self, source, rows: list[int], tilde: dict[tuple, Tensor], m: int, k: int
    ) -> dict[tuple, Tensor]:
        """Return the draws with a mask of dropout, which a loop draws anew for each particle."""
        if not self.program.dropout:
            return tilde
        masks = {row: source.choice(("dropout", m, k, row), (0.0, 2.0), (0.5, 0.5)) for row in rows}
        return tilde | {("dropout", row): mask for row, mask in masks.items()}

    def reading(self, tilde: dict[tuple, Tensor], row: int) -> Tensor:
        noisy = self.program.noise is not None
        total = sum(READS[d] * (tilde[row, d] if noisy else self.x[row, d]) for d in range(SIZE))
        if self.program.auxiliary:
            total = total + tilde["u", 0 if self.program.auxiliary == "shared" else row]
        return total * tilde["dropout", row] if self.program.dropout else total

    def _keys(self, latent: Latent, rows: list[int]) -> list[tuple[int | None, int]]:
        return [
            (row, c) for row in ([None] if latent.place == "global" else rows) for c in range(latent.copies)
        ]

    def _effect(self, names, values, of_inner: bool, row, copy) -> Tensor:
        total = torch.zeros(())
        for latent in self.program.latents:
            if latent.name not in names:
                continue
            own = None if latent.place == "global" else row
            copies = [copy] if latent.place == "inner" and of_inner else range(latent.copies)
            total = total + sum(torch.tanh(0.7 * values[latent.name, own, c]) for c in copies)
        return total

    def _offset(self, latent: Latent, copy: int) -> float:
        return OFFSETS[copy] if latent.copies > 1 else 0.0

    def posterior(self, latent: Latent, values, tilde, row, copy) -> tuple[Tensor, Tensor]:
        """Return predictor and parameter of a latent in the guide."""
        p, name = self.p, latent.name
        eta = p[f"{name}.qa"]
        if row is not None:
            inner = latent.place == "inner"
            effect = self._effect(latent.guide_parents, values, inner, row, copy)
            eta = eta + p[f"{name}.qv"] * self.reading(tilde, row) + p[f"{name}.qb"] * effect
        return eta + self._offset(latent, copy), p[f"{name}.qs"]

    def latents(self, source, rows, tilde, m: int, k: int) -> dict[tuple, Tensor]:
        """Return one draw of the latents from the guide."""
        values: dict[tuple, Tensor] = {}
        for index in self.program.guide_order:
            latent = self.program.latents[index]
            for row, copy in self._keys(latent, rows):
                eta, s = self.posterior(latent, values, tilde, row, copy)
                values[latent.name, row, copy] = self._one(
                    source, latent.posterior, (latent.name, row, copy, m, k), eta, s
                )
        return values

    def prior(self, source, rows) -> dict[tuple, Tensor]:
        """Return one draw of the latents from the model."""
        values: dict[tuple, Tensor] = {}
        for latent in self.program.latents:
            for row, copy in self._keys(latent, rows):
                eta, s = self._predictor(latent, values, row, copy)
                values[latent.name, row, copy] = self._one(
                    source, latent.prior, (latent.name, row, copy), eta, s
                )
        return values

    def _predictor(self, latent: Latent, values, row, copy) -> tuple[Tensor, Tensor]:
        p, name = self.p, latent.name
        effect = self._effect(latent.parents, values, latent.place == "inner", row, copy)
        return p[f"{name}.a"] + p[f"{name}.b"] * effect + self._offset(latent, copy), p[f"{name}.s"]

    def _one(self, source, family: str, key, eta: Tensor, s: Tensor) -> Tensor:
        if family == "normal":
            return source.normal(key, eta, s.exp(), lambda v: v)
        if family in ("lognormal", "transformed"):
            return source.normal(key, 0.3 * eta, 0.5 * s.exp(), torch.log).exp()
        if family == "delta":
            return eta
        if family == "bernoulli":
            p = torch.sigmoid(eta)
            return source.choice(key, (0.0, 1.0), (1 - p, p))
        if family == "categorical":
            points = [torch.tensor(float(i), dtype=torch.float64) for i in range(3)]
            return source.choice(key, points, [log_density(family, i, eta, s).exp() for i in points])
        return source.density(key, grid_of(family), lambda v: log_density(family, v, eta, s))

    # Densities.

    def _scale(self, row, part: str | None) -> float:
        scale = self.program.scales.get("all", 1.0) * (1.0 if row is None else self.outer_rows)
        return scale * (self.program.scales.get(part, 1.0) if row is not None else 1.0)

    def _masked(self, value: Tensor, row, part: str) -> Tensor:
        hidden = row is not None and part in self.program.masks and not MASK[row]
        return 0 * value if hidden else value

    def model_terms(self, values, rows) -> list[Term]:
        terms, p, program = [], self.p, self.program
        for latent in program.latents:
            for row, copy in self._keys(latent, rows):
                eta, s = self._predictor(latent, values, row, copy)
                lp = log_density(latent.prior, values[latent.name, row, copy], eta, s)
                terms.append(
                    Term(latent.name, row, 1.0, self._masked(lp, row, "prior"), self._scale(row, "prior"))
                )
        if program.shared and program.model_factor == "outside":  # a part of what all rows are together
            terms.append(Term("factor", None, 1.0, p["factor.a"], self._scale(None, None)))
        names = [latent.name for latent in program.latents]
        inner = program.observed == "inner" and not program.careless
        for row in rows:
            for d in range(SIZE):
                eta = p["x.a"] + (1 + p["x.b"]) * self._effect(names, values, inner, row, d) + OFFSETS[d]
                lp = log_density(program.likelihood, self.x[row, d], eta, p["x.s"])
                lp = self._masked(lp, row, "likelihood")
                terms.append(Term("x", row, 1.0, lp, self._scale(row, "likelihood")))
            if program.model_factor == "row":
                terms.append(Term("factor", row, 1.0, p["factor.a"], self._scale(row, None)))
        return terms

    def guide_terms(self, values, tilde, rows) -> list[Term]:
        terms = []
        for row in rows if self.program.guide_factor else []:
            factor = 0.3 * self.reading(tilde, row) + self.p["factor.qa"]
            terms.append(Term("guide_factor", row, -1.0, factor, self._scale(row, None)))
        for latent in self.program.latents:
            for row, copy in self._keys(latent, rows):
                eta, s = self.posterior(latent, values, tilde, row, copy)
                lq = log_density(latent.posterior, values[latent.name, row, copy], eta, s)
                terms.append(
                    Term(latent.name, row, -1.0, self._masked(lq, row, "guide"), self._scale(row, "guide"))
                )
        return terms

    # Bounds.

    def rest(self) -> Tensor:
        """Return the terms that belong to no row and are the same in every draw."""
        if self.program.shared or self.program.model_factor != "outside":
            return torch.zeros(())
        return self._scale(None, None) * self.p["factor.a"]

    def bound(self, make_source: Callable[[], Given | Grid], expected: bool) -> Tensor:
        """Return the estimate of the bound, or (``expected``) its mean over all draws; in nats."""
        total = self.rest()
        for rows in self.program.rows:
            source = make_source()
            outer, value = self._of(source, rows, expected)
            total = total + outer * ((source.weight * value).sum() if expected else value)
        return total

    def per_row(self, source: Given) -> list[Tensor]:
        """Return the estimate of each row, or of all together, without the scale of the plate."""
        return [self._of(source, rows, False)[1] for rows in self.program.rows]

    def _of(self, source, rows, expected: bool) -> tuple[float, Tensor]:
        """Return the scale that stays outside, and the estimate of some rows without it."""
        program = self.program
        m_count, k_count = program.option("num_corruptions"), program.option("num_particles")
        j_count = program.option("num_mixture", 0)
        kind = program.bound if program.bound != "semi-implicit" or j_count else "mean"
        if expected and kind in ("mean", "mean field", "semi-implicit"):
            m_count = k_count = 1
        if expected and kind == "average":
            m_count = 1
        tildes = [self.corrupted(source, rows, m) for m in range(m_count)]
        redrawn = [self.corrupted(source, rows, -1 - j) for j in range(j_count)]
        redrawn = [self.masked(source, rows, tilde, -1 - j, 0) for j, tilde in enumerate(redrawn)]
        weights = {}
        for m in range(m_count):
            for k in range(k_count):
                tilde = self.masked(source, rows, tildes[m], m, k)
                values = self.latents(source, rows, tilde, m, k)
                own = self.guide_terms(values, tilde, rows)
                terms = [*self.model_terms(values, rows), *own]
                outer = self._outer(terms)
                if kind not in ("mixture", "semi-implicit"):
                    weights[k, m] = sum(t.scale / outer * t.sign * t.value for t in terms)
                    continue
                others = [tilde, *redrawn]
                if kind == "mixture":
                    others = [self.masked(source, rows, each, own_m, 0) for own_m, each in enumerate(tildes)]
                densities = [
                    sum(term.value for term in self.guide_terms(values, other, rows)) for other in others
                ]
                joint = sum(t.scale / outer * t.value for t in self.model_terms(values, rows))
                scales = {round(t.scale / outer, 12) for t in own}
                assert len(scales) <= 1
                weights[k, m] = joint - max(scales, default=1.0) * _log_mean_exp(densities)
        if kind in ("mean", "mean field", "semi-implicit"):
            return outer, sum(weights.values()) / len(weights)
        if kind == "average":
            columns = [_log_mean_exp([weights[k, m] for k in range(k_count)]) for m in range(m_count)]
            return outer, sum(columns) / m_count
        return outer, _log_mean_exp(list(weights.values()))

    def _outer(self, terms: list[Term]) -> float:
        """Return the scale that stays outside of the logarithm."""
        scales = {round(term.scale, 12) for term in terms}
        if len(scales) == 1:
            return terms[0].scale
        return 1.0 if self.program.shared else self.outer_rows
