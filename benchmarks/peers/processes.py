"""The parent's side of the workers: start, ask, stop."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from peers.contenders import Contender
from peers.problem import Problem

FOLDER = Path(__file__).parents[1]
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def limit_threads(threads: int) -> dict[str, str]:
    """Limit this process and its children to so many cores; return the environment with the same limit.

    JAX counts the cores that it may use, torch reads the variable. If there are fewer cores, or the system
    has no such call, all are used.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
        threads = len(os.sched_getaffinity(0))
    else:
        threads = min(threads, os.cpu_count() or 1)
    return os.environ | dict.fromkeys(THREADS, str(threads))


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    return models[0] if models else platform.processor()


class Worker:
    """A contender in its process, which sleeps except when epochs are requested."""

    def __init__(self, contender: Contender, problem: Problem, environment: dict[str, str]):
        self.prepared: dict[str, Any] = {}
        arguments = [json.dumps(contender.options), json.dumps(dataclasses.asdict(problem))]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "peers.worker", contender.module, contender.function, *arguments],
            cwd=FOLDER,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def prepare(self) -> bool:
        """Wait for the first epoch, with imports and compilation; return whether the contender exists."""
        self.prepared = self._answer()
        return "seconds" in self.prepared

    def epochs(self, number: int) -> dict[str, Any]:
        """Return seconds, losses and peak memory of a number of epochs.

        :raises RuntimeError: the contender failed.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(f"{number}\n")
        self._process.stdin.flush()
        answer = self._answer()
        if "failed" in answer:
            raise RuntimeError(answer["failed"])
        return answer

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            return {"failed": f"its process ended with status {self._process.wait()}"}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        self._process.stdin.close() if self._process.stdin else None
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
