"""The declaration of an experiment: its training, its measures, and the published values.

Importing this module does not import torch, so listing the experiments is quick.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyro_dvae.errors import InputError
from pyro_dvae.jobs.options import Options

# Options that affect where and how a run computes, but not its result.
WHERE_AND_HOW = ("data_folder", "device", "compiled", "importance_samples")


@dataclass(frozen=True)
class Published:
    """A published value: the mean over runs and, if given, their standard deviation."""

    mean: float
    deviation: float | None = None


@dataclass(frozen=True)
class Case:
    """One cell of an experiment's table.

    :param row: label of its row.
    :param column: label of its column.
    :param options: training options (:class:`~pyro_dvae.jobs.options.Options`) that differ from the
        experiment's, which may include ``epochs``.
    :param published: the value in the source.
    :param program: the program to train, a name of :data:`pyro_dvae.jobs.experiments.one_run.PROGRAMS`.
    :param train_size: number of training rows (the first ones); by default all.
    """

    row: str
    column: str
    options: Mapping[str, Any] = field(default_factory=dict)
    published: Published | None = None
    program: str = "dvae"
    train_size: int | None = None

    @property
    def name(self) -> str:
        """The row and the column, as ``--only`` matches them."""
        return f"{self.row}, {self.column}"


@dataclass(frozen=True)
class Claim:
    """A claim that one cell is better than another.

    :param text: the claim in words. Claims with the same text are one claim in several settings.
    :param better: row and column of the better cell.
    :param worse: row and column of the other cell.
    :param figure: name of the value to compare; by default the table's.
    :param lower: whether a lower value is better, as for an error.
    :param margin: loss up to which the claim holds ("as good as").
    :param setting: where it is tested, such as a row of the table.
    """

    text: str
    better: tuple[str, str]
    worse: tuple[str, str]
    figure: str | None = None
    lower: bool = False
    margin: float = 0.0
    setting: str = ""

    @property
    def name(self) -> str:
        """The setting and the claim in words."""
        return f"{self.setting}: {self.text}" if self.setting else self.text


@dataclass(frozen=True)
class Table:
    """The layout of an experiment's table.

    :param figure: name of the measured value in the cells.
    :param sign: -1 shows its negative, as the source does for a bound of probabilities.
    :param quantity: the quantity in words, with its unit.
    :param corner: meaning of rows and columns.
    :param digits: decimal places.
    """

    quantity: str
    figure: str = "bound"
    sign: int = 1
    corner: str = ""
    digits: int = 2


@dataclass(frozen=True)
class Experiment:
    """A table or figure of a source.

    :param name: name on the command line.
    :param title: title in one line.
    :param source: the publication.
    :param cases: the cells of its table.
    :param table: their layout.
    :param epochs: epochs of a run.
    :param seeds: number of runs of each case, with seeds 0, 1, ...
    :param options: training options of all cases that differ from the command's own.
    :param measures: measures of each trained pair besides its bound: names of
        :data:`pyro_dvae.jobs.experiments.measures.MEASURES`.
    :param picture: kind of picture, a name of :data:`pyro_dvae.jobs.experiments.pictures.PICTURES`.
    :param core_hours: time of all runs with one core each, as measured for the documentation.
    :param note: a note for readers of the table.
    :param claims: claims about its cells.
    :param of_source: whether its claims are the source's. The page of all verdicts has only those, of the
        table's value, with the mean over their settings; the experiment's own table has all.
    """

    name: str
    title: str
    source: str
    cases: tuple[Case, ...]
    table: Table
    epochs: int
    seeds: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    measures: tuple[str, ...] = ()
    picture: str = "lines"
    core_hours: float = 0.0
    note: str = ""
    claims: tuple[Claim, ...] = ()
    of_source: bool = True

    @property
    def rows(self) -> list[str]:
        """The labels of the table's rows, in order."""
        return list(dict.fromkeys(case.row for case in self.cases))

    @property
    def columns(self) -> list[str]:
        """The labels of its columns, in order."""
        return list(dict.fromkeys(case.column for case in self.cases))

    @property
    def cells(self) -> dict[tuple[str, str], Case]:
        """The cases by row and column."""
        return {(case.row, case.column): case for case in self.cases}


@dataclass(frozen=True)
class Planned:
    """One run: a case with a seed and all its options."""

    experiment: str
    case: Case
    options: Options
    measures: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The case and the seed."""
        return f"{self.case.name}, seed {self.options.seed}"

    @property
    def key(self) -> str:
        """A digest of everything that affects the run's results, without options at their defaults."""
        usual = Options().as_dict()
        chosen = {
            name: value
            for name, value in self.options.as_dict().items()
            if name not in WHERE_AND_HOW and value != usual[name]
        }
        content = [self.case.program, self.case.train_size, chosen]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def plan(
    experiment: Experiment,
    *,
    seeds: int | None = None,
    epochs: int | None = None,
    only: tuple[str, ...] = (),
    overrides: Mapping[str, Any] | None = None,
) -> list[Planned]:
    """Return the runs of an experiment: all cases of the first seed, then of the second, and so on.

    :param seeds: number of runs of each case, instead of the experiment's.
    :param epochs: epochs of a run, instead of the experiment's.
    :param only: keep cases whose name (row and column) contains one of these texts as whole words, ignoring
        case: ``0 %`` is not in ``10 %``.
    :param overrides: options that replace those of every run.
    :returns: runs whose paths of data are absolute, so that they may start in another working directory.
    :raises InputError: ``only`` leaves no case, or one of its texts is empty.
    """
    from pyro_dvae.jobs.run_request import absolute  # imports torch, which listing does without

    if not all(map(str.strip, only)):
        raise InputError("only: expected words of a row or column, got an empty text")
    patterns = [re.compile(rf"(?<![\w.]){re.escape(text)}(?![\w.])", re.IGNORECASE) for text in only]
    wanted = [
        case for case in experiment.cases if not only or any(each.search(case.name) for each in patterns)
    ]
    if not wanted:
        known = "; ".join(case.name for case in experiment.cases)
        raise InputError(
            f"only: {', '.join(map(repr, only))} matches no case of {experiment.name}; cases: {known}"
        )
    found = []
    for seed in range(experiment.seeds if seeds is None else seeds):
        for case in wanted:
            options = {"epochs": experiment.epochs, **experiment.options, **case.options, "seed": seed}
            options |= {} if epochs is None else {"epochs": epochs}
            options |= overrides or {}
            planned = Planned(experiment.name, case, absolute(_options(options)), experiment.measures)
            found.append(planned)
    return found


def alternatives(
    experiment: Experiment,
    *,
    seeds: int,
    epochs: Sequence[int | None] = (None,),
    overrides: Mapping[str, Any] | None = None,
) -> list[Planned]:
    """Return the runs that a table may show, in order of preference, for :func:`.results.of_table`.

    Products in bfloat16 hardly change a result, so a run with the other choice is better than none.

    :param epochs: numbers of epochs, the preferred first; None is the experiment's.
    """
    given = dict(overrides or {})
    wanted = bool(given.get("bfloat16", False))
    return [
        each
        for count in epochs
        for rounded in (wanted, not wanted)
        for each in plan(experiment, seeds=seeds, epochs=count, overrides=given | {"bfloat16": rounded})
    ]


def _options(values: Mapping[str, Any]) -> Options:
    names = {each.name for each in dataclasses.fields(Options)}
    if odd := sorted(set(values) - names):
        raise InputError(f"options: an experiment names {odd[0]!r}, which is not a training option")
    return Options(**values)


FREY: dict[str, Any] = {"dataset": "frey", "binarisation": "none", "likelihood": "gaussian-per-pixel"}
MNIST_AND_FREY: dict[str, dict[str, Any]] = {"MNIST": {"dataset": "mnist"}, "Frey": {**FREY, "epochs": 1000}}
"""Options by column: the Frey faces, of which there are few, in more epochs."""

DVAE: dict[str, Any] = {"bound": "dvae"}
DIWAE: dict[str, Any] = {"bound": "diwae", "particles": 5, "activation": "tanh"}
"""As Im et al. (2017) train: K = 5 latents, and tanh in place of softplus."""

_METHODS = {"DVAE, K = 1": DVAE, "DVAE, K = 5": {**DVAE, "particles": 5}, "DIWAE, K = 5": DIWAE}
Figures = Sequence[tuple[float, float]]


def by_method_and_noise(
    published: Mapping[tuple[str, int], Figures], noise: Sequence[float], column: Callable[[float], str]
) -> tuple[Case, ...]:
    """Return the cases of Tables 1 and 2 of Im et al. (2017).

    :param published: mean and standard deviation at each level of noise, by method and layers of the encoder.
    :param column: returns the label of a level.
    """
    return tuple(
        Case(
            f"{method}, {layers} layer{'s' if layers > 1 else ''}",
            column(level),
            {**_METHODS[method], "hidden_layers": layers, "noise": level},
            Published(*figure),
        )
        for (method, layers), figures in published.items()
        for level, figure in zip(noise, figures, strict=True)
    )
