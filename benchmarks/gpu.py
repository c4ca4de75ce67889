"""A GPU: a training step compared with others, many models at once, likelihoods, several ranks, its tests.

    python benchmarks/gpu.py --data-folder data --write docs/performance.md   # some minutes
    python benchmarks/gpu.py --device cpu --quick                             # shows that it runs, no more

The step is that of benchmarks/step.py: the network of the paper (784-200-200-z50-200-200-784), batch 100,
5 % salt-and-pepper noise, Adam at 1e-3, in float32 (TF32 and bfloat16 where a row says so), on binary MNIST,
or on stand-in images without --data-folder. Every contender is a process that sleeps while another works;
the times are medians over interleaved rounds. By hand, the whole step (forward, backward, Adam) is captured
in a CUDA graph, with an eager and with a compiled forward pass. NumPyro is JAX. Rows of fit_many are per
model.

The likelihood is that of held-out rows, with a network trained for ten epochs; a second call is timed, to
exclude the compiler. With several GPUs, two ranks train over NCCL. --write puts the tables between the marks
of a page, after each part.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import click
import pyro
import torch
from peers.contenders import ON_GPU
from peers.problem import Problem, binarised, save, stand_in
from peers.pyro_svi import dvae_of
from peers.rounds import Found, disagreement, measure
from torch import Tensor

import pyro_dvae as dv

ROOT = Path(__file__).parents[1]
MARKS = ("<!-- benchmarks/gpu.py writes from here -->", "<!-- to here -->")
ENVIRONMENT = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # all contenders share the GPU's memory
    "JAX_DEFAULT_MATMUL_PRECISION": "highest",  # float32, like torch's default
}


def tests(workers: int) -> list[str]:
    """Run the tests that need a GPU, which pass on their output; return their counts, and what failed."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-v", "-n", str(workers), "tests"]
    lines = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:
        for line in running.stdout or ():
            sys.stderr.write(line)
            lines.append(line.strip())
    failed = [line.split(" - ")[0] for line in lines if line.startswith(("FAILED", "ERROR"))]
    tally = re.sub(r" in .*|=", "", lines[-1]).strip() if lines else "no output"
    return [f"`pytest -m gpu`: {tally}.", *failed]


def steps(found: Found) -> list[str]:
    """Return the table of the step: milliseconds, and the ratio to the fastest step by hand."""
    by_hand = [n for n in ("captured-compiled", "captured") if found.get(n, {}).get("seconds")]
    base = statistics.median(found[by_hand[0]]["seconds"]) if by_hand else None
    lines = ["| | ms per step and model | of the step by hand |", "|---|---|---|"]
    for name, each in found.items():
        label = ON_GPU[name].label.removesuffix(", per model")
        if each.get("seconds"):
            middle = statistics.median(each["seconds"])
            lines.append(
                f"| {label} | {1e3 * middle:.3f} | {middle / base:.2f} |"
                if base
                else f"| {label} | {1e3 * middle:.3f} | |"
            )
        else:
            lines.append(f"| {label} | {' '.join(map(str, each.values()))} | |")
    off = disagreement(found)
    if off:
        lines += ["", f"Losses of the first two epochs agree within {100 * max(off.values()):.2f} %."]
    return lines


def likelihoods(problem: Problem, train: Tensor, test: Tensor, epochs: int, samples: int) -> list[str]:
    """Return the table of log-likelihoods: seconds, and the share of rows with a bad Pareto k."""
    pyro.clear_param_store()
    torch.manual_seed(problem.seed)
    pair = dvae_of(problem, train.shape[1])
    bound = dv.TraceDenoising_ELBO(max_plate_nesting=1)
    dv.fit(pair.model, pair.guide, train, loss=bound, epochs=epochs, compile=True, progress=False)
    lines = [
        f"| {len(test):,} held-out rows, {samples:,} samples each | s | log p(x) | k > 0.7 |",
        "|---|---|---|---|",
    ]
    for label, options in (("encoder's proposal", {}), ("refined", {"refine": True})):
        for _ in range(2):
            began = wait(test.device)
            found = dv.log_likelihood(
                *(pair.model, pair.guide, test), num_samples=samples, seed=0, progress=False, **options
            )
            seconds = wait(test.device) - began
        lines.append(f"| {label} | {seconds:.2f} | {found.mean:.2f} | {100 * found.share_unreliable:.1f} % |")
    return lines


def wait(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def ranks(data_folder: str | None) -> list[str]:
    """Train with one and with two ranks if there are two GPUs; return the results."""
    if torch.cuda.device_count() < 2:
        return ["Two ranks over NCCL: not run, there is one GPU."]
    said = []
    for number in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={number}"]
            command += [str(ROOT / "examples/mnist_dvae.py"), "--epochs", "3", "--batch-size", "1000"]
            command += ["--output", folder, "--overwrite", "--importance-samples", "2"]
            command += ["--data-folder", data_folder] if data_folder else ["--dataset", "digits"]
            began = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        outcome = (
            f"{time.perf_counter() - began:.0f} s in all" if done.returncode == 0 else done.stderr[-300:]
        )
        said.append(f"{number} rank{'s' if number > 1 else ''} over NCCL, 3 epochs: {outcome}.")
    return said


def write(page: Path, lines: list[str]) -> None:
    """Put the lines between the marks of a page.

    :raises click.ClickException: the page has no marks.
    """
    text = page.read_text(encoding="utf-8")
    if not all(mark in text for mark in MARKS):
        raise click.ClickException(f"{page} has no line {MARKS[0]!r} and {MARKS[1]!r}")
    before, rest = text.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    page.write_text("\n".join([before + MARKS[0], "", *lines, MARKS[1] + after]), encoding="utf-8")


@click.command(help=__doc__)
@click.option("--device", default="cuda", show_default=True)
@click.option("--data-folder", default=None, help="Folder of MNIST.  [default: stand-in images]")
@click.option("--rows", type=click.IntRange(1), default=10_000, show_default=True, help="Training data.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--only", multiple=True, type=click.Choice(list(ON_GPU)), help="These contenders of the step.")
@click.option("--workers", type=click.IntRange(0), default=4, show_default=True, help="Processes of tests.")
@click.option("--skip-tests", is_flag=True, help="Leave out the tests.")
@click.option("--write", "page", type=click.Path(path_type=Path, exists=True), help="Page for the tables.")
@click.option("--quick", is_flag=True, help="A tiny problem, one round, no tests.")
def main(
    device: str,
    data_folder: str | None,
    rows: int,
    rounds: int,
    only: tuple[str, ...],
    workers: int,
    skip_tests: bool,
    page: Path | None,
    quick: bool,
) -> None:
    """Run all parts, print the tables, and write them to a page if asked."""
    where = torch.device(device)
    if where.type == "cuda" and not torch.cuda.is_available():
        raise click.ClickException(f"--device {device}: torch sees no GPU here")
    held_out, epochs, samples = 1000, 10, 500
    names, warm_up = list(only or ON_GPU), 3
    if quick:
        rows, rounds, warm_up, held_out, epochs, samples, skip_tests = 200, 1, 1, 10, 1, 50, True
        names = list(only or ("stock", "captured", "compiled", "fit-many-8"))
    if data_folder is None:
        images = stand_in(rows + held_out, 784)
    else:
        data = dv.load_dataset("mnist", root=data_folder, download=False)
        images = binarised(torch.cat([data.train[:rows], data.test[:held_out]]).numpy())
    x = torch.as_tensor(images).float().to(where)
    card = torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu"
    lines: list[str] = []

    def say(part: list[str]) -> None:
        lines.extend([*part, ""])
        click.echo("\n".join(part) + "\n")
        if page is not None:
            write(page, lines)

    say([f"{card}, torch {torch.__version__}."])
    with tempfile.TemporaryDirectory() as folder:
        problem = Problem(save(images[:rows], Path(folder)), device=device)
        if quick:
            problem = replace(problem, hidden=(16, 16), latents=4, batch=20)
        found = measure(
            *(names, problem, rows // problem.batch),
            rounds=rounds,
            warm_up=warm_up,
            environment=dict(os.environ) | ENVIRONMENT,
            contenders=ON_GPU,
            prepared_together=where.type == "cuda",
        )
    say(steps(found))
    say(likelihoods(problem, x[:rows], x[rows:], epochs, samples))
    if where.type == "cuda":
        say(ranks(data_folder))
    if not skip_tests:
        say(tests(workers))
    if any("failed" in each for each in found.values()) or any("FAILED" in line for line in lines):
        sys.exit("a contender or a test failed")


if __name__ == "__main__":
    main()
