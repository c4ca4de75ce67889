"""Interleaved rounds of contenders, and statistics of their times."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from peers.contenders import CONTENDERS, Contender
from peers.problem import Problem
from peers.processes import Worker

Found = dict[str, dict[str, Any]]
COMPARED = 2  # epochs: later losses differ too much between contenders to be compared


def measure(
    names: Sequence[str],
    problem: Problem,
    steps: int,
    *,
    rounds: int,
    warm_up: int,
    environment: dict[str, str],
    quiet: bool = False,
    contenders: Mapping[str, Contender] = CONTENDERS,
    prepared_together: bool = False,
) -> Found:
    """Return the record of each contender: seconds per step in each round, losses and memory, or a reason.

    All are prepared and warmed up first, one after another. In each round every contender runs an untimed
    epoch for the caches, then a timed one; the order changes from round to round.

    :param steps: steps of an epoch.
    :param prepared_together: start all processes at once, which is faster but makes "prepared" meaningless.
    """
    found: Found = {}
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        started: dict[str, Worker] = {}

        def start(name: str) -> Worker:
            worker = Worker(contenders[name], problem, environment)
            stack.callback(worker.close)
            return worker

        if prepared_together:
            started = {name: start(name) for name in names}
        for name in names:
            label = contenders[name].label
            worker = started[name] if prepared_together else start(name)
            if worker.prepare():
                workers[name] = worker
                warm = worker.epochs(warm_up)
                first = worker.prepared
                found[name] = {
                    "prepared_seconds": first["seconds"],
                    "threads": first["threads"],
                    "losses": first["losses"] + warm["losses"],
                    "peak_bytes_preparing": warm["peak"]["peak"],
                    "seconds": [],
                }
            else:
                found[name] = {
                    key: worker.prepared[key] for key in ("skipped", "failed") & worker.prepared.keys()
                }
            if not quiet:
                said = "; ".join(found[name].values()) if name not in workers else "prepared"
                print(f"  {label}: {said}", file=sys.stderr, flush=True)
        for index in range(rounds):
            order = list(workers)
            for name in order[index % len(order) :] + order[: index % len(order)] if order else []:
                workers[name].epochs(1)
                answer = workers[name].epochs(1)
                record = found[name]
                record["seconds"].append(answer["seconds"] / steps / contenders[name].models(problem))
                record["peak_bytes"] = max(record.get("peak_bytes", 0), answer["peak"]["peak"])
                record["resident_bytes"] = answer["peak"]["now"]
    return found


def ratios(found: Found, name: str, base: str) -> list[float]:
    """Return the ratio of the times of two contenders in each round; empty if one is missing."""
    of, to = (found.get(each, {}).get("seconds", []) for each in (name, base))
    return [a / b for a, b in zip(of, to, strict=True)] if of and to else []


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile."""
    if len(values) < 2:
        return (values[0],) * 3
    lower, middle, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, middle, upper


def disagreement(found: Found) -> dict[str, float]:
    """Return the relative deviation of each contender's losses of the first epochs from the medians.

    All start from the same weights and differ only in noise and order, so the deviation is some tenths of a
    per cent if they do the same work.
    """
    losses = {name: each["losses"] for name, each in found.items() if "losses" in each}
    known = {name: values for name, values in losses.items() if values[0] == values[0]}
    if not known:
        return {}
    known = {name: values[:COMPARED] for name, values in known.items()}
    middle = [statistics.median(each) for each in zip(*known.values(), strict=True)]
    return {
        name: max(abs(value / m - 1) for value, m in zip(values, middle, strict=True))
        for name, values in known.items()
    }
