"""The process of one contender, which runs epochs on request and sleeps in between.

    python -m peers.worker MODULE FUNCTION OPTIONS PROBLEM      (by :mod:`peers.processes`)

It reads a number of epochs per line and answers with a line of JSON.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any, TextIO

from peers.problem import Problem, Skipped

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def main() -> None:
    """Build the contender and serve it until its input ends."""
    started = time.perf_counter()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of libraries is no answer
    module, function, options, problem = sys.argv[1:]
    try:
        values = json.loads(problem)
        build = getattr(importlib.import_module(f"peers.{module}"), function)
        epoch = build(Problem(**values | {"hidden": tuple(values["hidden"])}), **json.loads(options))
        losses = [epoch()]
        tell(answers, seconds=time.perf_counter() - started, losses=losses, threads=threads())
        for line in sys.stdin:
            started, busy = time.perf_counter(), time.process_time()
            losses = [epoch() for _ in range(int(line))]
            taken = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - busy}
            tell(answers, **taken, losses=losses, peak=peak_and_restart())
    except Skipped as error:
        tell(answers, skipped=str(error))
    except Exception as error:
        traceback.print_exc()
        tell(answers, failed=f"{type(error).__name__}: {error}".splitlines()[0])


def tell(answers: TextIO, **values: Any) -> None:
    """Write one line of JSON."""
    print(json.dumps(values), file=answers, flush=True)


def peak_and_restart() -> dict[str, int]:
    """Return the largest resident set (bytes) since the last call, and the current one; reset the peak."""
    if not STATUS.exists():
        unit = 1 if sys.platform == "darwin" else 1024
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return {"peak": largest, "now": largest}
    # Not getrusage, whose value includes the parent process.
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines() if ":" in line)
    found = {name: 1024 * int(lines[key].split()[0]) for name, key in (("peak", "VmHWM"), ("now", "VmRSS"))}
    with contextlib.suppress(OSError):
        CLEAR.write_text("5")
    return found


def threads() -> int:
    """Return the number of threads of this process, including libraries."""
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.exists() else 0


if __name__ == "__main__":
    main()
