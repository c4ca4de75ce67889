"""Trains and measures one system, and returns its row."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import nn

import pyro_dvae as dv
from catalogue.system import BOUNDS, Setting, System
from pyro_dvae.datasets import binarisation, binarise_dataset

BATCH, LEARNING_RATE = 100, 1e-3
SMALL_PASSES = 30  # for Frey and the digits, which have fewer rows: about as many steps as on MNIST


@dataclass(frozen=True)
class Plan:
    """The settings of all runs.

    :param epochs: epochs on MNIST.
    :param quick: use the first rows of the 8 × 8 digits instead of every data set, and small networks.
    """

    epochs: int
    data_folder: str
    seed: int
    quick: bool = False

    def dataset(self, system: System) -> str:
        return "digits" if self.quick else system.dataset

    def epochs_of(self, system: System) -> int:
        return self.epochs * (1 if self.quick or system.dataset == "mnist" else SMALL_PASSES)


def measured(system: System, plan: Plan) -> dict[str, Any]:
    """Train the system and return its row."""
    pyro.set_rng_seed(plan.seed)
    data = dv.load_dataset(plan.dataset(system), plan.data_folder)
    train, _, test = binarise_dataset(data, system.binarisation, plan.seed)
    if plan.quick:
        train, test = train[:300], test[:100]
    visit, epochs = binarisation(system.binarisation).visit, plan.epochs_of(system)
    train, test = train * system.times, test * system.times
    test = binarisation("static" if system.binarisation == "dynamic" else system.binarisation).visit(test)
    cpu, wall = time.process_time(), time.perf_counter()

    def fit(model: nn.Module, guide: nn.Module, bound: Any) -> None:
        dv.fit(
            model,
            guide,
            train,
            loss=bound,
            epochs=epochs,
            batch_size=BATCH,
            learning_rate=LEARNING_RATE,
            transform=visit,
            seed=plan.seed,
            progress=False,
        )

    sizes: dict[str, Any] = {"latent_size": 5, "encoder_sizes": (20,), "decoder_sizes": (20, 20)}
    setting = Setting(visit(train), fit, **(sizes if plan.quick else {}), small=plan.quick)
    made = system.build(setting)
    check_bounds(system, setting, made.model, made.guide)
    pyro.set_rng_seed(plan.seed)
    fit(made.model, made.guide, system.bound(setting))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    pair = (made.model, made.guide) if made.evaluated is None else made.evaluated
    row: dict[str, Any] = {
        "name": system.name,
        "dataset": data.name,
        "binarisation": system.binarisation,
        "train_images": len(train),
        "test_images": len(test),
        "epochs": epochs,
        "seed": plan.seed,
        "trained_by": system.trained_by,
        "applies": list(system.applies),
        "bound": None,
        "trained_bound": None,
        "more": {},
        "cpu_seconds": round(cpu, 1),
        "wall_seconds": round(wall, 1),
        "torch": torch.__version__,
    }
    if system.applies:
        row["bound"] = figure(
            dv.evaluate_bound(*pair, test, loss=BOUNDS["denoising"](setting), seed=plan.seed)
        )
        if system.bound in (BOUNDS["importance-weighted"], BOUNDS["semi-implicit"]):
            found = dv.evaluate_bound(*pair, test, loss=system.bound(setting), seed=plan.seed, batch_size=100)
            row["trained_bound"] = figure(found)
    for measure in system.measures:
        row["more"] |= {name: round(value, 5) for name, value in measure(*pair, test, plan.seed).items()}
    return row


def figure(found: dv.Estimate) -> dict[str, float]:
    """Return mean and standard error (nats)."""
    return {"mean": round(found.mean, 3), "standard_error": round(found.standard_error, 3)}


def check_bounds(system: System, setting: Setting, model: nn.Module, guide: nn.Module) -> None:
    """Compute loss and gradient of every bound that applies; other bounds must refuse the system."""
    for name, make in BOUNDS.items() if system.applies else ():
        refusal = None
        try:
            loss = make(setting).loss_and_grads(model, guide, setting.train[:20])
        except dv.InputError as error:
            refusal = error
        if (refusal is None) != (name in system.applies):
            raise RuntimeError(f"{system.name}: applies says otherwise of the {name} bound: {refusal}")
        if refusal is None and not math.isfinite(loss):
            raise RuntimeError(f"{system.name}: the {name} bound is {loss}")
    for parameter in itertools.chain(model.parameters(), guide.parameters()):
        parameter.grad = None
