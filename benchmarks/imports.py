"""The time of imports and --help, compared with importing Pyro.

    python benchmarks/imports.py

Commands take turns, each in a new interpreter with existing bytecode; the table shows medians with quartiles,
and the median difference to importing Pyro in the same round.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import click
from peers.rounds import quartiles

EXAMPLE = str(Path(__file__).absolute().parents[1] / "examples" / "mnist_dvae.py")
BASE = "import pyro"
EVERY = "import pyro, pyro_dvae as dv; [getattr(dv, name) for name in dv.__all__]"
USED = "import pyro, pyro_dvae as dv; dv.TraceDenoising_ELBO, dv.SaltAndPepper, dv.corrupt"
CLI = "import sys; sys.argv[0] = 'pyro-dvae'; from pyro_dvae.cli import main; main(['--help'])"
COMMANDS = {
    "python, nothing": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    BASE: ["-c", BASE],
    "import pyro_dvae": ["-c", "import pyro_dvae"],
    "import pyro, and pyro_dvae's bound": ["-c", USED],
    "import pyro, and all of pyro_dvae": ["-c", EVERY],
    "pyro-dvae --help": ["-c", CLI],
    "examples/mnist_dvae.py --help": [EXAMPLE, "--help"],
}


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=15, show_default=True)
def main(rounds: int) -> None:
    found: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for command in COMMANDS.values():
        seconds(command)
    for index in range(rounds):
        names = list(COMMANDS)
        for name in names[index % len(names) :] + names[: index % len(names)]:
            found[name].append(seconds(COMMANDS[name]))
    print(f"{'':<36}{'seconds':>9}{'quartiles':>16}{f'over {BASE}':>18}")
    for name, each in found.items():
        lower, middle, upper = quartiles(each)
        over = statistics.median(mine - base for mine, base in zip(each, found[BASE], strict=True))
        print(f"{name:<36}{middle:>9.3f}{f'{lower:.3f}-{upper:.3f}':>16}{over:>+18.3f}")


if __name__ == "__main__":
    main()
