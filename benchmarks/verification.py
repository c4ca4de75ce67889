"""The cost of verifying a compiled step: comparisons, and checks for changes before each step.

    python benchmarks/verification.py --steps 20000

The paper's network (784-200-200-z50-200-200-784), batch 100, salt and pepper, on random data.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from unittest.mock import patch

import click
import torch
from pyro.optim import Adam

import pyro_dvae as dv
from pyro_dvae.engine.surroundings import Surroundings, global_settings
from pyro_dvae.engine.verification import Verification
from pyro_dvae.networks import BernoulliDecoder, GaussianEncoder

ROUNDS = 25  # the median counts, because other programs may run


def milliseconds(function: Callable[[], object], repeats: int) -> float:
    began = time.perf_counter()
    for _ in range(repeats):
        function()
    return 1e3 * (time.perf_counter() - began) / repeats


@click.command()
@click.option("--steps", default=20_000, show_default=True, help="Compiled steps.")
def main(steps: int) -> None:
    """Print the share of time of the comparisons."""
    torch.manual_seed(0)
    encoder, decoder = GaussianEncoder(784, 50, (200, 200)), BernoulliDecoder(784, 50, (200, 200))
    pair = dv.DVAE(encoder, decoder, dv.SaltAndPepper(0.05))
    bound = dv.TraceDenoising_ELBO(max_plate_nesting=1)
    svi = dv.CompiledSVI(pair.model, pair.guide, Adam({"lr": 1e-3}), bound, generator="hashed")
    x = (torch.rand(100, 784) < 0.3).float()
    spent, compared = 0.0, 0
    before = Verification.before

    def timed(self: Verification, tensors: object, keys: object) -> torch.Tensor | None:
        nonlocal spent, compared
        began = time.perf_counter()
        result = before(self, tensors, keys)  # type: ignore[arg-type]
        spent += time.perf_counter() - began
        compared += result is not None
        return result

    began = time.perf_counter()
    with patch.object(Verification, "before", timed):
        for _ in range(2):
            svi.step(x)
        compiled = time.perf_counter() - began
        for _ in range(steps):
            svi.step(x)
    whole = time.perf_counter() - began
    (recorded,) = svi._recordings.all
    surroundings: Surroundings = recorded.gradient.recording.surroundings
    rounds = [
        (
            milliseconds(lambda: svi.step(x), 40),
            milliseconds(surroundings.unchanged, 100) + milliseconds(global_settings, 100),
        )
        for _ in range(ROUNDS)
    ]
    step = statistics.median(step for step, _ in rounds)
    looking = statistics.median(looking / step for step, looking in rounds)
    comparing = spent / (whole - compiled)
    click.echo(f"{steps} steps in {whole:.1f} s, {compiled:.1f} s of them until the first compiled one")
    click.echo(f"one step {step:.2f} ms")
    click.echo(f"{compared} comparisons: {spent:.2f} s, {100 * comparing:.2f} % of the time")
    click.echo(
        f"looking for changes: {1e3 * looking * step:.0f} microseconds, {100 * looking:.2f} % of a step"
    )
    click.echo(f"together: {100 * (comparing + looking):.2f} %")


if __name__ == "__main__":
    main()
