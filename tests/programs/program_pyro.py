"""A random program as a Pyro model and guide, once or in many independent copies."""

from __future__ import annotations

from contextlib import ExitStack

import pyro
import pyro.distributions as dist
import torch
from program_spec import ROWS, SIZE, Program
from pyro import poutine
from torch import nn
from torch.nn.functional import softplus

import pyro_dvae as dv
from pyro_dvae.corruptions import Corruption

OFFSETS = torch.tensor([0.0, 0.3], dtype=torch.float64)  # of copies and elements
READS = torch.tensor([0.8, -0.6], dtype=torch.float64)  # of the elements of x by the encoder
MASK = torch.tensor([True, False])  # of rows
LEVEL = 0.3  # logit, or softplus to be, of a level
KINDS = {
    "bit-flip": dv.BitFlip,
    "salt-and-pepper": dv.SaltAndPepper,
    "masking": dv.Masking,
    "gaussian": dv.GaussianNoise,
}


def data(program: Program) -> torch.Tensor:
    """Return the observations, [ROWS, SIZE]."""
    if program.likelihood == "bernoulli":
        return torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    return torch.tensor([[0.7, -0.4], [-1.1, 0.2]], dtype=torch.float64)


def numbers(program: Program) -> dict[str, float]:
    """Return the parameters' values."""
    generator = torch.Generator().manual_seed(program.seed)
    names = ["x.a", "x.b", "x.s"]
    for latent in program.latents:
        names += [f"{latent.name}.{part}" for part in ("a", "b", "s", "qa", "qb", "qs", "qv")]
    if program.auxiliary:
        names.append("u.s")
    if program.model_factor:
        names.append("factor.a")
    if program.guide_factor:
        names.append("factor.qa")
    return {
        name: 0.5 * float(torch.randn((), generator=generator)) - 0.3 * name.endswith("s") for name in names
    }


def family(name: str, eta: torch.Tensor, log_scale: torch.Tensor) -> dist.TorchDistribution:
    """Return the distribution of a family from a linear predictor and a parameter."""
    if name == "normal":
        return dist.Normal(eta, log_scale.exp())
    if name == "lognormal":
        return dist.LogNormal(0.3 * eta, 0.5 * log_scale.exp())
    if name == "gamma":
        return dist.Gamma(2 * (0.3 * eta).exp(), 1 + log_scale.exp())
    if name == "beta":
        return dist.Beta(1 + (0.3 * eta).exp(), 1 + log_scale.exp())
    if name == "bernoulli":
        return dist.Bernoulli(logits=eta)
    if name == "categorical":
        return dist.Categorical(logits=torch.stack(torch.broadcast_tensors(0 * eta, eta, log_scale), -1))
    assert name == "delta"
    return dist.Delta(eta)


class Shift(nn.Module):
    """The network of a level: raw = parameter + x / 2."""

    def __init__(self, raw):
        super().__init__()
        self.raw = nn.Parameter(raw)

    def forward(self, x):
        return self.raw + 0.5 * x


class Custom(Corruption):
    """A corruption that asks Pyro for its parameter."""

    def __init__(self, kind, shape):
        super().__init__()
        self.kind, self.shape = kind, shape

    def distribution(self, x):
        return KINDS[self.kind](_level(self.kind, pyro.param("level", torch.full(self.shape, LEVEL))))(x)


def _level(kind, raw):
    return softplus(raw) if kind == "gaussian" else torch.sigmoid(raw)


class Form:
    """The model and the guide.

    :param copies: how many independent copies run in a plate of their own, each with parameters of its own
        and so with an estimate of each gradient; None for the program itself.
    """

    def __init__(self, program: Program, copies: int | None = None) -> None:
        self.program, self.copies = program, copies
        self.nest = 2 if program.inner else 1
        self.shape = () if copies is None else (copies,) + (1,) * self.nest
        self.numbers = numbers(program)
        self.runs: list[tuple[str, dict[str, torch.Tensor]]] = []
        self.corruption = self._make_corruption()
        for name in self.numbers:
            self.param(name)

    def param(self, name):
        return pyro.param(name, torch.full(self.shape, self.numbers[name], dtype=torch.float64))

    def gradients(self):
        """Return the gradient of each parameter, [] or [copies]."""
        found = {name: pyro.param(name) for name in self.numbers}
        if self.program.noise is not None and self.program.noise.level != "fixed":
            own = list(self.corruption.parameters()) if self.corruption is not None else []
            found["level"] = own[0] if own else pyro.param("level")
        zero = torch.zeros(() if self.copies is None else self.copies, dtype=torch.float64)
        return {n: zero if p.grad is None else p.grad.reshape(zero.shape) for n, p in found.items()}

    def clear(self):
        """Set all gradients to zero."""
        parameters = [*pyro.get_param_store()._params.values()]
        parameters += list(self.corruption.parameters()) if self.corruption is not None else []
        for parameter in parameters:
            parameter.grad = None

    # The parts of both programs.

    def begin(self, program, rows):
        """Make the plates of one run."""
        self.runs.append((program, {}))
        size = int(rows * self.program.subsampling)
        self.data_plate = pyro.plate("data", size, subsample_size=rows if size != rows else None, dim=-1)
        self.inner_plate = pyro.plate("inner", SIZE, dim=-2) if self.program.inner else None
        self.copies_plate = pyro.plate("copies", self.copies, dim=-self.nest - 1) if self.copies else None

    def plates(self, *, inner=False, outside=False):
        stack = ExitStack()
        program = self.program
        if "all" in program.scales:
            stack.enter_context(poutine.scale(scale=program.scales["all"]))
        if self.copies is not None:
            stack.enter_context(self.copies_plate)
        if not outside:
            stack.enter_context(self.data_plate)
        if inner:
            stack.enter_context(self.inner_plate)
        return stack

    def effect(self, names, values, of):
        """Return the sum of the effects of latents on a site in place ``of``."""
        total = torch.zeros(())
        for name in names:
            place = self.latent(name).place
            parts = [torch.tanh(0.7 * value.double()) for value in values[name]]
            if place == "event":
                parts = [part.sum(-1) for part in parts]
            if place == "inner" and of != "inner":
                parts = [part.sum(-2, keepdim=True) for part in parts]
            if place == "row" and of == "x":
                parts = [self.read(part) for part in parts]
            total = total + sum(parts)
        return total

    def read(self, part):
        """Return a latent as a careless model reads it."""
        if self.program.careless == "stack":
            return torch.stack([part[row] for row in range(ROWS)])
        if self.program.careless == "reshape":
            return part.reshape(ROWS)
        if self.program.careless == "expand":
            return part.expand(ROWS)
        return part

    def latent(self, name):
        return next(each for each in self.program.latents if each.name == name)

    def decorated(self, part, distribution):
        """Return a distribution with its mask, and the context with scale and mask, of a part."""
        stack, program = ExitStack(), self.program
        if part in program.scales:
            stack.enter_context(poutine.scale(scale=program.scales[part]))
        how = program.masks.get(part)
        if how == "poutine":
            stack.enter_context(poutine.mask(mask=MASK))
        if how == "distribution":
            shape = torch.broadcast_shapes(distribution.batch_shape, MASK.shape)
            distribution = distribution.expand(shape).mask(MASK)
        return distribution, stack

    def sample(self, latent, kind, eta, log_scale, part):
        """Sample the copies of a latent; return their values."""
        with self.plates(outside=latent.place == "global", inner=latent.place == "inner"):
            if latent.place == "event":
                eta, log_scale = eta.unsqueeze(-1) + OFFSETS, log_scale.unsqueeze(-1)
            if latent.place == "inner":
                eta = eta + OFFSETS.unsqueeze(-1)
            event = 1 if latent.place == "event" else 0
            if latent.place != "sequential":
                return [self.one(latent, latent.name, kind, eta, log_scale, event, part)]
            return [
                self.one(latent, f"{latent.name}_{j}", kind, eta + OFFSETS[j], log_scale, 0, part)
                for j in pyro.plate(f"sequence_{latent.name}", SIZE)
            ]

    def one(self, latent, name, kind, eta, log_scale, event, part):
        if latent.place == "global":
            part = "other"
        if kind == "transformed":
            normal = dist.Normal(0.3 * eta, 0.5 * log_scale.exp()).to_event(event)
            base, stack = self.decorated(part, normal)
            with stack:
                u = pyro.sample(f"{name}_base", base, infer={"is_auxiliary": True})
            jacobian = u.sum(-1) if event else u
            distribution = dist.Delta(u.exp(), log_density=-jacobian, event_dim=event)
        else:
            distribution = family(kind, eta, log_scale).to_event(event)
        distribution, stack = self.decorated(part, distribution)
        with stack:
            value = pyro.sample(name, distribution)
        self.runs[-1][1][name] = value
        return value

    # The programs.

    def model(self, x):
        self.begin("model", len(x))
        program, values = self.program, {}
        if program.model_factor:
            with self.plates(outside=program.model_factor == "outside"):
                pyro.factor("factor", self.param("factor.a"))
        if program.deterministic:
            with self.plates(outside=program.deterministic == "outside"):
                pyro.deterministic("tau", torch.ones(self.shape))
        for latent in program.latents:
            eta = self.param(f"{latent.name}.a") + self.param(f"{latent.name}.b") * self.effect(
                latent.parents, values, latent.place
            )
            log_scale = self.param(f"{latent.name}.s")
            values[latent.name] = self.sample(latent, latent.prior, eta, log_scale, "prior")
        inner = program.observed == "inner"
        with self.plates(inner=inner):
            names = [latent.name for latent in program.latents]
            of = "inner" if inner and not program.careless else "x"
            eta = self.param("x.a") + (1 + self.param("x.b")) * self.effect(names, values, of)
            log_scale = self.param("x.s")
            eta = eta + OFFSETS.unsqueeze(-1) if inner else eta.unsqueeze(-1) + OFFSETS
            log_scale = log_scale if inner else log_scale.unsqueeze(-1)
            likelihood = family(program.likelihood, eta, log_scale).to_event(0 if inner else 1)
            likelihood, stack = self.decorated("likelihood", likelihood)
            with stack:
                pyro.sample("x", likelihood, obs=x.mT if inner else x)

    def guide(self, x):
        self.begin("guide", len(x))
        program, values = self.program, {}
        reading = self.encode(x)
        if program.guide_factor:
            with self.plates():
                pyro.factor("guide_factor", 0.3 * reading + self.param("factor.qa"), has_rsample=True)
        for index in program.guide_order:
            latent = program.latents[index]
            eta = self.param(f"{latent.name}.qa")
            if latent.place != "global":
                eta = eta + self.param(f"{latent.name}.qv") * reading
                eta = eta + self.param(f"{latent.name}.qb") * self.effect(
                    latent.guide_parents, values, latent.place
                )
            log_scale = self.param(f"{latent.name}.qs")
            values[latent.name] = self.sample(latent, latent.posterior, eta, log_scale, "guide")

    def encode(self, x):
        """Return what the encoder reads off the corrupted data."""
        program, noise = self.program, self.program.noise
        if noise is None:
            reading = (x * READS).sum(-1)
        else:
            place = noise.place
            clean = x.mT if place == "pixels" else x
            if self.copies is not None:
                lead = () if place == "pixels" else (1,) * (self.nest - 1)
                clean = clean.expand(self.copies, *lead, *clean.shape)
            event = {"plate": 1, "pixels": 0, "outside": 1, "all": 2}[place]
            with self.plates(outside=place in ("outside", "all"), inner=place == "pixels"):
                corruption = self.corruption or self._live(noise)
                tilde = dv.corrupt("x_tilde", corruption, clean, event_dim=event)
            self.runs[-1][1]["x_tilde"] = tilde
            if place == "pixels":
                reading = (tilde * READS.unsqueeze(-1)).sum(-2, keepdim=True)
            else:
                reading = (tilde * READS).sum(-1)
        if program.auxiliary:
            with self.plates(outside=program.auxiliary == "shared"):
                scale = self.param("u.s")
                if program.auxiliary == "bernoulli":
                    u = dv.auxiliary("u", dist.Bernoulli(logits=scale))
                else:
                    u = dv.auxiliary("u", dist.Normal(0 * scale, scale.exp()))
            self.runs[-1][1]["u"] = u
            reading = reading + u
        if program.dropout:
            if self.copies is not None:
                reading = reading.expand(torch.broadcast_shapes(reading.shape, (*self.shape[:-1], ROWS)))
            mask = 2 * torch.bernoulli(torch.full_like(reading, 0.5))
            self.runs[-1][1]["dropout"] = mask
            reading = reading * mask
        return reading

    def _level_shape(self):
        if self.copies is None:
            return ()
        return self.shape if self.program.noise.place == "pixels" else (*self.shape, 1)

    def _make_corruption(self):
        noise = self.program.noise
        if noise is None or noise.level == "live":
            return None
        raw = torch.full(self._level_shape(), LEVEL, dtype=torch.float64)
        if noise.level == "custom":
            return Custom(noise.kind, self._level_shape())
        if noise.level == "network":
            return dv.NetworkCorruption(Shift(raw), noise.kind)
        return KINDS[noise.kind](_level(noise.kind, raw), learnable=noise.level == "learned")

    def _live(self, noise):
        raw = pyro.param("level", torch.full(self._level_shape(), LEVEL, dtype=torch.float64))
        return KINDS[noise.kind](_level(noise.kind, raw))
