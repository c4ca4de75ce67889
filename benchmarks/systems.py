"""Trains every model, guide, prior, network and corruption for a few epochs, and measures them alike.

    python benchmarks/systems.py --list
    python benchmarks/systems.py --epochs 5 --output systems.jsonl     # all of them
    python benchmarks/systems.py guide-chain draw-attention            # some
    python benchmarks/systems.py --table --output systems.jsonl        # docs/systems.md's table of a file
    python benchmarks/systems.py dvae --quick                          # seconds, on the 8 x 8 digits

Defaults of entries in ``catalogue``: the 50,000 training images of MNIST, binarised once; x̃ by
5 % salt and pepper, salt = rate; encoder 784-200, latents 50, decoder 200-200-784, softplus; batches of 100,
Adam at 1e-3. Frey faces and 8 × 8 digits run 30 times the epochs, for about as many steps; Frey faces with
Gaussian noise of 0.05, the digits as counts with thinning.

The value is L_dvae of the 10,000 (Frey: 98) test images with clean input of the encoder and one draw of the
latents, with the standard error over the images (nats); a system with its own tighter bound also has that.

Every bound in an entry first runs for a loss and a gradient; the others must refuse the system. Rows are
appended as JSON to --output, and systems in it do not run again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pyro
from catalogue import SYSTEMS
from catalogue.run import Plan, measured
from catalogue.table import line, markdown

DATASETS = ("mnist", "frey", "digits")


def chosen(names: tuple[str, ...], dataset: str | None) -> list[str]:
    """Return the entries to run: the named ones, or all of a data set, each system once."""
    for name in names:
        if name not in SYSTEMS:
            raise click.UsageError(f"unknown system {name!r}; --list names them")
    wanted = names or tuple(
        name for name, system in SYSTEMS.items() if dataset is None or system.dataset == dataset
    )
    return list(dict.fromkeys(SYSTEMS[name].same_as or name for name in wanted))


def stored(output: Path | None) -> dict[str, dict[str, Any]]:
    """Return the rows of a file by name."""
    if output is None or not output.exists():
        return {}
    rows = [json.loads(text) for text in output.read_text().splitlines()]
    return {row["name"]: row for row in rows}


@click.command()
@click.argument("names", nargs=-1)
@click.option("--epochs", default=5, show_default=True, help="Passes over MNIST.")
@click.option("--dataset", type=click.Choice(DATASETS), help="Only the systems of this data set.")
@click.option("--data-folder", default="data", show_default=True, help="Folder of the data.")
@click.option("--seed", default=0, show_default=True, help="Seed.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="File of JSON lines.")
@click.option("--list", "listing", is_flag=True, help="Name the systems, and run none.")
@click.option("--table", is_flag=True, help="Print the table of --output for the docs, and run none.")
@click.option("--quick", is_flag=True, help="Small networks on a few digits: shows that it runs.")
def main(
    names: tuple[str, ...],
    epochs: int,
    dataset: str | None,
    data_folder: str,
    seed: int,
    output: Path | None,
    listing: bool,
    table: bool,
    quick: bool,
) -> None:
    """Train and measure the systems NAMES, or all."""
    if listing:
        for name, system in SYSTEMS.items():
            click.echo(f"{name:<30}{system.title} ({system.source})")
        return
    rows = stored(output)
    if table:
        click.echo(markdown(SYSTEMS, rows))
        return
    pyro.settings.set(module_local_params=True)  # many modules have the same names
    plan = Plan(epochs, data_folder, seed, quick)
    for name in chosen(names, dataset):
        if name in rows:
            continue
        row = measured(SYSTEMS[name], plan)
        click.echo(line(row))
        if output is not None:
            with output.open("a") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
