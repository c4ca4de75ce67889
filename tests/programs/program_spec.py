"""Specifications of small random programs, independent of how they are written or evaluated."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

ROWS = 2  # observations of each program
SIZE = 2  # elements of an observation, and copies of a latent that has several


@dataclass(frozen=True)
class Latent:
    """A latent site, or several copies of one.

    :param place: ``row`` in the data plate; ``event`` there, with two elements; ``inner`` in a plate inside
        it; ``sequential`` in a sequential plate there; ``global`` outside.
    :param prior: family in the model.
    :param posterior: family in the guide.
    :param parents: the latents that its prior depends on.
    :param guide_parents: the latents that the guide draws it from.
    """

    name: str
    place: str
    prior: str
    posterior: str
    parents: tuple[str, ...] = ()
    guide_parents: tuple[str, ...] = ()

    @property
    def copies(self) -> int:
        return 1 if self.place in ("row", "global") else SIZE


@dataclass(frozen=True)
class Noise:
    """A corruption of the data.

    :param kind: name of the corruption.
    :param level: how its level is given: ``fixed``, ``learned``, ``live``, ``custom`` or ``network``.
    :param place: ``plate``, ``pixels`` (in the inner plate), ``outside`` of the plate, or ``all`` (outside,
        with the rows as part of the event).
    """

    kind: str
    level: str
    place: str


@dataclass(frozen=True)
class Program:
    """A model, a guide, and the bound of them."""

    seed: int
    latents: tuple[Latent, ...]
    guide_order: tuple[int, ...]
    likelihood: str
    observed: str  # "event" or "inner"
    noise: Noise | None
    auxiliary: str | None  # other noise of the guide: "row", "shared", "bernoulli"
    subsampling: float  # size of the data plate / its rows
    scales: dict[str, float]  # of "all", "prior", "likelihood", "guide"
    masks: dict[str, str]  # of "prior", "likelihood", "guide": "poutine" or "distribution"
    model_factor: str | None  # "row", "outside"
    guide_factor: bool
    deterministic: str | None  # "row", "outside"
    dropout: bool  # of what the encoder reads, drawn outside of any site
    careless: str | None  # how the model reads a latent, where that does not vectorise
    validation: bool  # Pyro's
    bound: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def inner(self) -> bool:
        """Whether there is a plate inside the data plate."""
        pixels = self.noise is not None and self.noise.place == "pixels"
        return self.observed == "inner" or pixels or any(each.place == "inner" for each in self.latents)

    @property
    def shared(self) -> bool:
        """Whether rows share a latent, or something that a single draw cannot show to be constant."""
        if any(each.place == "global" for each in self.latents):
            return True
        single = self.option("num_corruptions") * self.option("num_particles") == 1
        looped = not self.option("vectorize_particles", True) and self.option("num_mixture", 0) > 1
        mixed = self.bound == "semi-implicit" and self.option("num_mixture", 0) > 0
        return mixed and single and not looped and self.model_factor == "outside"

    @property
    def rows(self) -> list[list[int]]:
        """The rows of an importance weight."""
        return [list(range(ROWS))] if self.shared else [[row] for row in range(ROWS)]

    def option(self, name: str, default: Any = 1) -> Any:
        return self.options.get(name, default)


FAMILIES = {  # prior: posteriors
    "normal": ("normal", "normal", "normal", "delta"),
    "lognormal": ("lognormal", "transformed", "gamma"),
    "gamma": ("gamma", "lognormal", "transformed"),
    "beta": ("beta",),
    "bernoulli": ("bernoulli",),
    "categorical": ("categorical",),
}
BOUNDS = ("mean", "mean", "mean field", "average", "pooled", "mixture", "semi-implicit")


def draw_program(seed: int) -> Program:
    """Return the program of a seed."""
    rng = random.Random(seed)

    def maybe(probability: float, *values: Any) -> Any:
        return rng.choice(values) if rng.random() < probability else None

    count = rng.choice((1, 1, 2))
    latents: list[Latent] = []
    shared = rng.random() < 0.2
    for index in range(count):
        is_global = shared and index == 0
        place = "global" if is_global else rng.choice(("row",) * 5 + ("event", "inner", "sequential"))
        prior = rng.choice(("normal",) * 3 + ("bernoulli",) * 2 + tuple(FAMILIES))
        parents = tuple(each.name for each in latents if rng.random() < 0.7)
        latents.append(Latent(f"z{index}", place, prior, rng.choice(FAMILIES[prior]), parents, ()))
    # The guide draws them in the model's order or, where none is shared, the other way round.
    order = list(range(count))
    if not shared and rng.random() < 0.3:
        order.reverse()
    for position, index in enumerate(order):
        earlier = [latents[i] for i in order[:position]]
        if latents[index].place != "global":
            chosen = tuple(each.name for each in earlier if rng.random() < 0.6)
            latents[index] = Latent(**{**latents[index].__dict__, "guide_parents": chosen})
    likelihood = rng.choice(("bernoulli", "normal"))
    observed = rng.choice(("event", "event", "inner"))
    noise = None
    if rng.random() < 0.7:
        kind = rng.choice(("bit-flip", "salt-and-pepper", "masking", "gaussian"))
        level = rng.choice(("fixed", "learned", "live", "custom", "network"))
        place = rng.choice(("plate",) * 6 + ("pixels", "outside", "all"))
        noise = Noise(kind, level, place)
    scales = {}
    for name in ("all", "prior", "likelihood", "guide"):
        if rng.random() < 0.12:
            scales[name] = rng.choice((0.3, 0.5, 2.0))
    masks = {}
    if rng.random() < 0.25:
        for name in rng.choice((("likelihood",), ("prior", "guide"), ("prior",), ("guide",))):
            masks[name] = rng.choice(("poutine", "distribution"))
    bound = rng.choice(BOUNDS)
    options: dict[str, Any] = {
        "num_corruptions": rng.choice((1, 1, 2, 2, 3)),
        "num_particles": rng.choice((1, 1, 2, 2, 3)),
    }
    if bound == "mixture":
        options["num_corruptions"] = max(2, options["num_corruptions"])
    if bound == "semi-implicit":
        options["num_mixture"] = rng.choice((0, 1, 2, 3))
    if rng.random() < 0.25:
        options["baseline"] = "none"
    if bound == "mean" and rng.random() < 0.3:
        options["gradient"] = "stl"
    if bound in ("average", "pooled") and rng.random() < 0.4:
        options["gradient"] = "dreg"
    if rng.random() < 0.12:
        options["vectorize_particles"] = False
    if bound not in ("mean", "mean field") and all(each.place == "inner" for each in latents):
        observed = "event"  # else a weight is of an element, not of a row
    dropout = rng.random() < 0.08
    if dropout and bound == "semi-implicit":
        options.pop("vectorize_particles", None)  # a loop draws a mask for each component and draw
    reads_rows = observed == "event" and not any(each.place == "inner" for each in latents)
    reads_rows = reads_rows and (noise is None or noise.place != "pixels")
    row_latents = [each for each in latents if each.place == "row"]
    return Program(
        seed=seed,
        latents=tuple(latents),
        guide_order=tuple(order),
        likelihood=likelihood,
        observed=observed,
        noise=noise,
        auxiliary=maybe(0.12, "row", "shared", "bernoulli"),
        subsampling=rng.choice((1.0, 1.0, 1.0, 3.0)),
        scales=scales,
        masks=masks,
        model_factor=maybe(0.1, "row", "outside"),
        guide_factor=rng.random() < 0.07,
        deterministic=maybe(0.15, "row", "outside"),
        dropout=dropout,
        careless=maybe(0.06, "stack", "reshape", "expand") if row_latents and reads_rows else None,
        validation=noise is None or noise.place != "outside",  # Pyro itself checks for undeclared dimensions
        bound=bound,
        options=options,
    )
