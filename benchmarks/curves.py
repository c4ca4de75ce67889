"""The held-out bound against the seconds since the start of a command: ours, NumPyro, Pyro, torch, pythae.

    python benchmarks/curves.py docs/images/curves.png --data-folder data     # pip install -e ".[bench]"
    python benchmarks/curves.py curves.png --quick                            # shows that it runs and no more

All train the paper's network (784-200-200-z50-200-200-784, softplus) without noise on the first 50,000 grey
images of MNIST, batch 100, Adam at 1e-3, and print the bound of the other 10,000 (one draw for each) after
every epoch, Pyro's example after every fifth. This process measures the seconds until each line: imports,
compilation and the held-out bounds are included. Ours runs twice, the first time with an empty folder for the
compiler's files. The commands run one after another, on the same cores (--threads).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
from end_to_end import EXAMPLE, NETWORK, QUIET, ROOT, SETTING
from peers.idx import write_stand_in
from peers.processes import limit_threads

Curve = list[tuple[float, float]]  # seconds, held-out bound
LINE = re.compile(r"^\s*epoch \d+.*?(?:validation|held-out) (-?\d+\.\d+)")
PEERS = {
    "NumPyro, jitted scan": "peers.numpyro_loop",
    "Pyro's example": "peers.pyro_example",
    "torch loop, DataLoader": "peers.torch_loop",
    "pythae's trainer": "peers.pythae_trainer",
}


def curve(command: list[str], environment: dict[str, str], folder: Path) -> Curve:
    """Run a command; return its held-out bounds with their times."""
    began, found = time.perf_counter(), []
    with subprocess.Popen(
        command, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            match = LINE.match(line)
            if match:
                found.append((time.perf_counter() - began, float(match[1])))
    if process.returncode:
        raise click.ClickException("".join(lines[-20:]))
    return found


def commands(data: str, epochs: int, folder: Path) -> dict[str, list[str]]:
    common = ["--data-folder", data, "--epochs", str(epochs)]
    quiet = [word for word in QUIET if word != "--quiet"]
    ours = [sys.executable, EXAMPLE, *NETWORK, *SETTING, *quiet, *common, "--compile", "--output"]
    found = {
        "ours, first run": [*ours, str(folder / "first")],
        "ours, second run": [*ours, str(folder / "second")],
    }
    return found | {name: [sys.executable, "-u", "-m", module, *common] for name, module in PEERS.items()}


def draw(curves: dict[str, Curve], title: str, picture: Path) -> None:
    """Draw the picture with a logarithmic axis of seconds."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for name, points in curves.items():
        style = {"color": "black", "linewidth": 2} if name.startswith("ours") else {}
        style |= {"linestyle": "--"} if "first" in name else {}
        axes.plot(*zip(*points, strict=True), marker=".", label=name, **style)
    axes.set(xscale="log", xlabel="seconds since the start", ylabel="held-out bound, nats per image")
    seconds = [second for points in curves.values() for second, _ in points]
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500) if min(seconds) < tick < max(seconds)]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_title(title, fontsize="medium")
    best = max(bound for points in curves.values() for _, bound in points)
    axes.set_ylim(best - 40, best + 2)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(picture, dpi=150)


@click.command()
@click.argument("picture", type=click.Path(path_type=Path))
@click.option("--epochs", type=click.IntRange(1), default=20, show_default=True)
@click.option("--threads", type=click.IntRange(1), help="Cores for each.  [default: all]")
@click.option("--data-folder", default="data", show_default=True, help="Where MNIST is.")
@click.option("--only", multiple=True, help="The curves whose names contain this.")
@click.option("--quick", is_flag=True, help="One epoch on some hundred images that are not MNIST.")
def main(
    picture: Path, epochs: int, threads: int | None, data_folder: str, only: tuple[str, ...], quick: bool
) -> None:
    """Draw PICTURE, and write its points beside it as JSON."""
    environment = limit_threads(threads or os.cpu_count() or 1)
    path = os.pathsep.join(filter(None, [str(ROOT / "benchmarks"), environment.get("PYTHONPATH")]))
    curves: dict[str, Curve] = {}
    with tempfile.TemporaryDirectory() as name:
        folder, data = Path(name), Path(data_folder).absolute()
        if quick:
            epochs, data = 1, folder / "data"
            write_stand_in(data, 300, 100)
        environment |= {"PYTHONPATH": path, "TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled")}
        for label, command in commands(str(data), epochs, folder).items():
            if only and not any(word in label for word in only):
                continue
            try:
                curves[label] = curve(command, environment, folder)
            except click.ClickException as error:
                click.echo(f"{label}: left out: {error.message.strip().splitlines()[-1]}", err=True)
                continue
            seconds, bound = curves[label][-1]
            click.echo(f"{label:<26}{seconds:8.1f} s{bound:10.2f} nats")
    cores = environment["OMP_NUM_THREADS"]
    draw(curves, f"{epochs} epochs of MNIST, {cores} cores, imports and compilation counted", picture)
    picture.with_suffix(".json").write_text(json.dumps(curves) + "\n")


if __name__ == "__main__":
    main()
