"""The command ``pyro-dvae``. Each command imports what it needs when it runs, so ``--help`` is quick."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

import pyro_dvae
from pyro_dvae.files import user_path
from pyro_dvae.jobs.click_options import (
    evaluation_options,
    executor_choice,
    rows_elsewhere,
    sweep_options,
    training_options,
    typed,
)
from pyro_dvae.jobs.command import CommandGroup, go_on_by_repeating
from pyro_dvae.jobs.options import EvaluationOptions, TrainRequest
from pyro_dvae.text import counted, show


@click.group(
    cls=CommandGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(pyro_dvae.__version__, prog_name="pyro-dvae")
@click.pass_context
def main(context: click.Context) -> None:
    """Denoising variational autoencoders in Pyro."""
    if context.invoked_subcommand is None:
        show(context.get_help())


@main.command()
@training_options
def train(request: TrainRequest) -> None:
    """Train a denoising VAE and evaluate it."""
    from pyro_dvae.jobs.train import TrainingRun
    from pyro_dvae.models import DVAE

    run = TrainingRun(request)
    dvae = DVAE(run.encoder, run.decoder, run.corruption)
    trainer = run.trainer(dvae.model, dvae.guide, run.bound)
    for epoch in trainer:
        for x in epoch:
            trainer.step(x)
    run.finish(trainer)


@main.command()
@click.argument("run")
@evaluation_options
@click.option("--output", default=None, help="Folder of the results.  [default: RUN/evaluation]")
@click.option("--data-folder", default=None, help="Current folder of the data.  [default: as in the run]")
@click.option(
    "--dataset", default=None, help="Current path of the run's own data file.  [default: as in the run]"
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@rows_elsewhere
@click.option("--quiet", is_flag=True, help="Do not show progress.")
def evaluate(
    run: str,
    options: EvaluationOptions,
    output: str | None,
    data_folder: str | None,
    dataset: str | None,
    device: str,
    quiet: bool,
    workers: Any,
) -> None:
    """Estimate log p(x) of the test data of the run folder RUN, and the reliability of the estimate.

    To continue a stopped evaluation, repeat the command.
    """
    from pyro_dvae.jobs.evaluate import evaluate_run
    from pyro_dvae.jobs.evaluation_table import table

    go_on_by_repeating()
    where = {"output": output, "data_folder": data_folder, "dataset": dataset}
    content = evaluate_run(run, options, **where, device=device, quiet=quiet, workers=workers)
    show(table(content))


@main.command()
@click.argument("run")
@click.option("--count", default=100, show_default=True, help="Number of rows; with --given, of each row.")
@click.option("--seed", default=0, show_default=True, help="Seed of the draws.")
@click.option("--output", default=None, help="Picture (.png), table (.csv, .parquet) or array (.npy).")
@click.option("--pixels", is_flag=True, help="Draw pixels from the likelihood instead of taking their means.")
@click.option("--given", default=None, help="File of rows whose missing cells to draw given the others.")
def sample(run: str, count: int, seed: int, output: str | None, pixels: bool, given: str | None) -> None:
    """Draw images, or rows of a table in the units of the data, from the model of the run folder RUN."""
    from pyro_dvae.jobs.sampling import save_samples

    path, rows = save_samples(run, output, count, seed, pixels, given)
    show(f"{counted(rows, 'image' if path.suffix == '.png' else 'row')} in {path}")


def _applied(verb: str, samples: int | None, text: str, in_parts: bool = False) -> None:
    """Add a command that applies a trained model to the rows of a file, in parts if asked.

    :param samples: default number of draws of the latents; None if the command draws nothing.
    """

    def of_draws(function: Callable[..., None]) -> Callable[..., None]:
        if samples is None:
            return function
        function = click.option("--seed", default=0, show_default=True, help="Seed of the draws.")(function)
        text = "Draws of the latents of each row."
        return click.option("--samples", default=samples, show_default=True, help=text)(function)

    @main.command(verb, help=f"{text}\n\nFILE holds the same columns as the data of the run folder RUN.")
    @click.argument("run")
    @click.argument("file")
    @click.option(
        "--output", default=None, help=f"Table (.csv, .parquet) or array (.npy).  [default: {verb}.csv]"
    )
    @of_draws
    @click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:N or mps.")
    @(rows_elsewhere if in_parts else lambda function: function)
    def command(run: str, file: str, output: str | None, **settings: Any) -> None:
        from pyro_dvae.jobs.applying import apply

        path, count = apply(verb, run, file, output, **settings)
        show(f"{counted(count, 'row')} in {path}")


_applied("encode", None, "Write the posterior means of the latents of each row of FILE.")
_applied("reconstruct", 20, "Write the reconstruction of each row of FILE, in the units of the data.")
_applied("denoise", 20, "Remove the noise from each row of FILE.")
_applied(
    "impute",
    1000,
    "Write the rows of FILE with missing cells filled: by their means under the model, categories by their "
    "most frequent draw.",
    in_parts=True,
)
_applied("score", 1000, "Write log p(x) of each row of FILE, with its error and reliability.", True)


@main.command()
@click.argument("run")
@click.option("--format", default="safetensors", show_default=True, help="safetensors (weights) or onnx.")
@click.option("--output", default=None, help="Folder of the files.  [default: RUN/export]")
def export(run: str, format: str, output: str | None) -> None:  # noqa: A002
    """Write encoder and decoder of the run folder RUN for other programs, and check them on a batch."""
    from pyro_dvae.jobs.export import export as write

    show("\n".join(map(str, write(run, format, output))))


@main.command()
@click.argument("run")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--config", is_flag=True, help="Print the options as a TOML file for --config.")
def info(run: str, as_json: bool, config: bool) -> None:
    """Describe the run folder RUN."""
    from pyro_dvae.jobs.config_file import toml
    from pyro_dvae.jobs.folder import describe, lines, options_of, read_config

    if config:
        options = options_of(read_config(run)).as_dict()
        show(json.dumps(options, indent=2, ensure_ascii=False) if as_json else toml(options))
        return
    content = describe(run)
    show(json.dumps(content, indent=2, ensure_ascii=False) if as_json else lines(content))


@main.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option(
    "--output", default=None, help="HTML file.  [default: RUN/report.html; for several runs: report.html]"
)
@click.option(
    "--diagnose/--no-diagnose", default=None, help="Diagnose each run.  [default: if it was not evaluated]"
)
@click.option("--data-folder", default=None, help="Current folder of the data.  [default: as in the run]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--quiet", is_flag=True, help="Do not show progress.")
def report(runs: tuple[str, ...], output: str | None, **options: Any) -> None:
    """Write one HTML page about the run folders RUN, side by side if there are several."""
    from pyro_dvae.jobs.report.write import write_report

    show(f"report: {write_report(runs, output, **options)}")


@main.command()
@click.argument("run")
@click.option("--steps", default=100, show_default=True, type=click.IntRange(1), help="Steps to compare.")
@click.option("--data-folder", default=None, help="Current folder of the data.  [default: as in the run]")
@click.option("--dataset", default=None, help="Current path of the run's own data file.")
@click.option("--device", default=None, help="Device.  [default: that of the run]")
def verify(
    run: str, steps: int, data_folder: str | None, dataset: str | None, device: str | None
) -> int | None:
    """Repeat the first steps of the run folder RUN and compare them bit for bit.

    If they differ, print the first step that differs and exit with 1.
    """
    from pyro_dvae.jobs.verify import verify as compare

    same, text = compare(run, steps, data_folder=data_folder, dataset=dataset, device=device)
    show(text)
    return None if same else 1


@main.command()
@click.option(
    "--search",
    multiple=True,
    metavar="NAME=VALUES",
    help="An option to search: NAME=LOW:HIGH, NAME=LOW:HIGH:log or NAME=CHOICE,CHOICE,...; repeatable.",
)
@click.option(
    "--trials", default=40, show_default=True, type=click.IntRange(1, 10**6), help="Total number of trials."
)
@click.option(
    "--objective",
    type=click.Choice(["validation", "iwae"]),
    default="validation",
    show_default=True,
    help="Best validation bound, or importance-weighted bound of the validation data "
    "(--importance-samples draws).",
)
@click.option("--pruning/--no-pruning", default=True, show_default=True, help="End poor trials early.")
@click.option(
    "--jobs",
    type=click.IntRange(1, 10_000),
    help="Trials at a time.  [default: one per core; all of an executor]",
)
@executor_choice
@sweep_options
def sweep(request: TrainRequest, search: tuple[str, ...], **settings: Any) -> None:
    """Search training options for the best validation bound, and evaluate the best trial on the test data.

    To join from another terminal or machine that shares the folder, or to continue after an interruption,
    repeat the command.
    """
    go_on_by_repeating()
    from pyro_dvae.jobs.sweep import sweeping

    # A search takes precedence over options in a file, but not over those on the line.
    show(sweeping()(request, search, typed=typed(), **settings))


@main.command()
@click.argument("name", required=False)
@click.option("--list", "listing", is_flag=True, help="List the experiments and their times; run nothing.")
@click.option(
    "--seeds", type=click.IntRange(1, 10_000), help="Runs of each case.  [default: the experiment's]"
)
@click.option("--epochs", type=click.IntRange(1, 10**9), help="Epochs of a run.  [default: the experiment's]")
@click.option(
    "--only",
    multiple=True,
    metavar="TEXT",
    help="Only cases with these whole words in row or column; repeatable.",
)
@click.option(
    "--output", default="reproduction", show_default=True, help="Folder with a subfolder for each experiment."
)
@click.option("--data-folder", default="data", show_default=True, help="Folder of the data.")
@click.option("--dataset", default=None, help="Another data set, to try out an experiment.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option(
    "--jobs",
    type=click.IntRange(1, 10_000),
    help="Runs at a time.  [default: one per core; 40 on a GPU; all of an executor]",
)
@executor_choice
@click.option("--bfloat16", is_flag=True, help="Compiled matrix products in bfloat16.")
@click.option("--keep-checkpoints", is_flag=True, help="Keep the checkpoints of finished runs.")
@click.option("--table-only", is_flag=True, help="Run nothing; write table and picture of finished runs.")
@click.option("--quiet", is_flag=True, help="Do not show progress.")
def reproduce(name: str | None, listing: bool, output: str, table_only: bool, **options: Any) -> None:
    """Run the published experiment NAME and compare the results with the published numbers.

    To continue after an interruption, repeat the command; finished runs are not repeated.
    """
    from pyro_dvae.jobs.experiments.catalogue import experiment, listed

    if listing or name is None:
        show(listed())
        return
    declared = experiment(name)
    from pyro_dvae.jobs.experiments.running import run

    go_on_by_repeating()
    show(run(declared, user_path("output", output), train=not table_only, **options))
