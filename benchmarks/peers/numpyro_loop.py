"""A VAE on MNIST in NumPyro, with SVI in a jitted scan over the mini-batches of an epoch."""

from __future__ import annotations

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array, lax, random
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.svi import SVIState

from peers.problem import Problem

PIXELS, HEADER = 784, 16


def images(folder: str, part: str) -> Array:
    """Return the grey images of a part of MNIST, [N, D]."""
    file = Path(folder) / "MNIST" / "raw" / f"{part}-images-idx3-ubyte"
    return jnp.asarray(np.fromfile(file, np.uint8, offset=HEADER).reshape(-1, PIXELS), jnp.float32) / 255


def main() -> None:
    """Train, and print the bound of the last sixth of the training file after every epoch."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-folder", required=True)
    parser.add_argument("--epochs", type=int, default=20)
    asked = parser.parse_args()
    problem = Problem("")
    data = images(asked.data_folder, "train")
    kept = len(data) - max(1, len(data) // 6)
    train, held_out = data[:kept], data[kept:]
    encoder, decoder = problem.weights(PIXELS)

    def apply(name: str, layers: list, x: Array) -> Array:
        for depth, (weight, bias) in enumerate(layers):
            x = x @ numpyro.param(f"{name}.weight.{depth}", jnp.asarray(weight.T))
            x = x + numpyro.param(f"{name}.bias.{depth}", jnp.asarray(bias))
            x = jax.nn.softplus(x) if depth + 1 < len(layers) else x
        return x

    def model(x: Array) -> None:
        with numpyro.plate("data", x.shape[0]):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(problem.latents), 1.0).to_event(1))
            pixels = dist.Bernoulli(logits=apply("decoder", decoder, z), validate_args=False)
            numpyro.sample("x", pixels.to_event(1), obs=x)

    def guide(x: Array) -> None:
        loc, log_variance = jnp.split(apply("encoder", encoder, x), 2, axis=-1)
        with numpyro.plate("data", x.shape[0]):
            numpyro.sample("z", dist.Normal(loc, jnp.exp(0.5 * log_variance)).to_event(1))

    svi = SVI(model, guide, numpyro.optim.Adam(problem.learning_rate), Trace_ELBO())

    @jax.jit
    def epoch(state: SVIState, key: Array) -> tuple[SVIState, Array]:
        order = random.permutation(key, kept)[: kept - kept % problem.batch].reshape(-1, problem.batch)
        state, _ = lax.scan(lambda state, rows: svi.update(state, train[rows]), state, order)
        return state, svi.evaluate(state, held_out)

    state = svi.init(random.key(0), train[: problem.batch])
    for number in range(asked.epochs):
        state, loss = epoch(state, random.key(number + 1))
        print(f"epoch {number + 1}: held-out {-float(loss) / len(held_out):.2f}", flush=True)


if __name__ == "__main__":
    main()
