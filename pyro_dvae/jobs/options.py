"""The options of a training run and of an evaluation, each declared once as the field of a record.

Importing this module does not import torch, so ``--help`` is quick.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import click

import pyro_dvae
from pyro_dvae.errors import InputError
from pyro_dvae.files import unfit

NOISE_KINDS = ("salt-and-pepper", "bit-flip", "masking", "gaussian", "multiplicative", "thinning", "swap")
NOISE_PATTERNS = ("uniform", "mean-image")
NOISE_SCHEDULES = ("constant", "linear", "step")
BOUNDS = ("dvae", "mean-field", "diwae", "semi-implicit")
ACTIVATIONS = ("softplus", "tanh", "relu", "sigmoid")
ENCODERS = ("mlp", "convolutional", "gru")
DECODERS = ("mlp", "convolutional")
COUNTS = (
    *("poisson", "negative-binomial", "zero-inflated-poisson", "zero-inflated-negative-binomial"),
    *("multinomial", "dirichlet-multinomial"),
)
LIKELIHOODS = (
    *("auto", "bernoulli", "gaussian", "gaussian-per-pixel", "gaussian-columns", "table"),
    "continuous-bernoulli",
    *("discretised-logistic", "discretised-logistic-mixture"),
    *COUNTS,
    *("full-covariance", "low-rank-covariance"),
)
BINARISATIONS = ("static", "dynamic", "threshold", "none")
SCALES = ("auto", "none", "unit", "standardise", "bytes")
LOGS = ("csv", "tensorboard")
RATE_SCHEDULES = ("step", "constant", "paper")
PROPOSALS = ("auto", "clean", "corrupted", "mixture")
WEIGHTS = ("best", "last")
STARTS = ("guide", "prior")
EXECUTORS = ("local", "submitit", "dask")


LARGE = 1_000_000  # larger values of options that take memory are typing errors


def _option(
    default: Any,
    help_text: str,
    flag: str | None = None,
    within: tuple[int, int] | None = None,
    only_with: tuple[str, tuple[Any, ...]] | None = None,
    **click_arguments: Any,
) -> Any:
    """Declare an option, which may have an effect ``only_with`` some values of another one."""
    asked = {"help": help_text, "flag": flag, "within": within, "only_with": only_with}
    return field(default=default, metadata={**asked, "click": click_arguments})


@dataclass(frozen=True)
class Options:
    """The options of a training run, which are the content of ``config.json``."""

    noise: float = _option(0.05, "Noise level: a rate in [0, 1] or a standard deviation; 0: plain VAE.")
    noise_kind: str = _option(
        "salt-and-pepper", "Kind of noise.", type=click.Choice(NOISE_KINDS), show_choices=True
    )
    salt: str = _option(
        "0.5",
        "Share of salt among replaced pixels, or 'rate' as in the paper's code.",
        only_with=("noise_kind", ("salt-and-pepper",)),
    )
    noise_pattern: str = _option(
        "uniform",
        "Noise rate: equal for all pixels, or in proportion to the mean image with --noise as average.",
        type=click.Choice(NOISE_PATTERNS),
    )
    noise_schedule: str = _option(
        "constant",
        "Noise during training: constant, linear to --noise-end, or a step to it halfway.",
        type=click.Choice(NOISE_SCHEDULES),
    )
    noise_end: float = _option(
        0.0,
        "Level at which a linear or step schedule ends.",
        only_with=("noise_schedule", ("linear", "step")),
    )
    learn_noise: bool = _option(False, "Learn the level, starting at --noise.", is_flag=True)
    minimum_noise: float = _option(
        0.001, "Lower limit of a learned level.", only_with=("learn_noise", (True,))
    )
    bound: str = _option(
        "dvae",
        "Bound: denoising, the same with closed-form KL, importance-weighted, or semi-implicit.",
        type=click.Choice(BOUNDS),
    )
    corruptions: int = _option(1, "Corruptions per observation (M).", within=(1, LARGE))
    particles: int = _option(1, "Latent draws per corruption (K).", within=(1, LARGE))
    encoder: str = _option(
        "mlp",
        "Encoder: fully connected, convolutional, or recurrent (reads the observation five times).",
        type=click.Choice(ENCODERS),
    )
    decoder: str = _option("mlp", "Decoder: fully connected, or convolutional.", type=click.Choice(DECODERS))
    hidden_layers: int = _option(
        1, "Fully connected hidden layers of the encoder (1 to 4; gru: 1).", within=(1, 4)
    )
    decoder_layers: int = _option(2, "Fully connected hidden layers of the decoder (1 to 4).", within=(1, 4))
    width: int = _option(200, "Units of each hidden layer.", within=(1, LARGE))
    latent_size: int = _option(50, "Size of the latent space.", within=(1, LARGE))
    activation: str = _option("softplus", "Activation.", type=click.Choice(ACTIVATIONS))
    likelihood: str = _option(
        "bernoulli",
        "Distribution of a value. gaussian: mean in [0, 1], one scale; gaussian-per-pixel: scales from the "
        "decoder; gaussian-columns: any mean, a scale for each column. auto: chosen by the values.",
        type=click.Choice(LIKELIHOODS),
    )
    epochs: int = _option(
        50,
        "Passes over the training data. For data of another size than MNIST, the default takes 25,000 steps, "
        "but at most 2,000 epochs.",
        within=(1, 10**9),
    )
    batch_size: int = _option(100, "Observations per training step.", within=(1, 10**9))
    validate_every: int = _option(1, "Epochs between validations and between checkpoints.", within=(1, 10**9))
    learning_rate: float = _option(1e-3, "Learning rate of Adam.")
    rate_schedule: str = _option(
        "step",
        "Learning rate: x0.3 at 60 % and x0.1 at 85 % of the epochs; constant; or the ten stages of the "
        "paper's code.",
        type=click.Choice(RATE_SCHEDULES),
    )
    clip_norm: float | None = _option(
        None, "Clip the gradient to this norm (the paper's code: 5).", type=float
    )
    patience: int | None = _option(
        None,
        "Stop after this many epochs without a better validation bound.  [default: never]",
        type=int,
        within=(1, 10**9),
    )
    log: str | None = _option(
        None,
        "Also log epochs to a table log.csv, or curves, reconstructions and histograms to TensorBoard.",
        type=click.Choice(LOGS),
    )
    binarisation: str = _option(
        "static",
        "Pixels: drawn once from the seed, drawn in every epoch, thresholded at 0.5, or unchanged (the "
        "default for your own files).",
        type=click.Choice(BINARISATIONS),
    )
    dataset: str | None = _option(
        None,
        "mnist (the default), fashion-mnist, kmnist, frey, digits, ..., or your own file: .csv, .tsv, "
        ".parquet, .npy, .npz or .mat, or folder:PATH.",
        type=str,
    )
    scale: str = _option(
        "auto",
        "Values of a file: unchanged, scaled to [0, 1], standardised, or bytes divided by 255; auto refuses "
        "whole numbers.",
        type=click.Choice(SCALES),
    )
    columns: str | None = _option(None, "Columns of a file to keep, separated by commas.", type=str)
    drop: str | None = _option(None, "Columns of a file to leave out, separated by commas.", type=str)
    label_column: str | None = _option(None, "Column of the classes, not part of the data.", type=str)
    id_column: str | None = _option(None, "Column with names of the rows, not part of the data.", type=str)
    kinds: str | None = _option(
        None,
        "Kinds of columns that the values do not show, as NAME=KIND, separated by commas: categorical, "
        "count, heavy-tailed, ordinal, positive or real.",
        type=str,
    )
    array: str | None = _option(None, "Name of the array in an .npz or .mat file.", type=str)
    data_folder: str = _option("data", "Folder of the data, in torchvision's layout.")
    seed: int = _option(0, "Seed of weights, noise, order and binarisation.", within=(0, 2**32 - 1))
    device: str = _option("auto", "auto, cpu, cuda, cuda:N or mps.")
    compiled: bool | None = _option(
        None,
        "Record and compile the training step.  [default: from 5,000 steps, and with --bfloat16]",
        flag="--compile/--no-compile",
    )
    bfloat16: bool = _option(
        False, "Compiled matrix products in bfloat16.", is_flag=True, only_with=("compiled", (None, True))
    )
    importance_samples: int = _option(
        200, "Samples for the final importance-weighted bound; 0 omits it.", within=(0, LARGE)
    )

    def as_dict(self) -> dict[str, Any]:
        """Return the options as a JSON-able dictionary."""
        return dataclasses.asdict(self)

    def as_arguments(self, always: Sequence[str] = ()) -> list[str]:
        """Return the arguments of ``pyro-dvae train`` for these options, without defaults.

        :param always: names to include in any case.
        """
        return _arguments(self, always)

    @classmethod
    def from_dict(cls, values: dict[str, Any], written_by: str | None = None) -> Options:
        """Build options from the result of :meth:`as_dict`, after a check of names, types and choices.

        :param written_by: the version of this package that wrote them. For another version, missing options
            get their defaults; unknown names are refused.
        """
        fields = {each.name: each for each in dataclasses.fields(cls)}
        here = pyro_dvae.__version__
        other = written_by not in (None, here)
        author = f"written by pyro_dvae {written_by}, this is {here}: " if other else ""
        if odd := sorted(set(values) - set(fields)):
            raise InputError(f"config: {author}unknown option {odd[0]!r}")
        if (missing := sorted(set(fields) - set(values))) and not other:
            raise InputError(f"config: option {missing[0]!r} is missing")
        for name, kind in typing.get_type_hints(cls).items():
            if name in values:
                if fault := unfit(values[name], typing.get_args(kind) or kind, name):
                    raise InputError(f"config: {author}{fault}")
                choices = getattr(fields[name].metadata["click"].get("type"), "choices", None)
                if choices is not None and values[name] is not None and values[name] not in choices:
                    known = ", ".join(choices)
                    raise InputError(f"config: {author}{name}: unknown name {values[name]!r}; known: {known}")
        return cls(**values)


@dataclass(frozen=True)
class EvaluationOptions:
    """The options of an evaluation."""

    samples: int = _option(5000, "Importance samples per observation.")
    proposal: str = _option(
        "auto",
        "Proposal: q(z|x), q(z|x~) with new noise for each sample, a mixture of these, or the better one.",
        type=click.Choice(PROPOSALS),
    )
    corruptions: int = _option(10, "Size M of the mixture.", only_with=("proposal", ("auto", "mixture")))
    defensive: float = _option(0.0, "Share of samples from the prior, below 1.")
    widen: float = _option(1.0, "Factor for the guide's standard deviations.")
    refine: bool = _option(False, "Refine the proposal of each row with a bad Pareto k.", is_flag=True)
    count: int | None = _option(None, "Evaluate the first N test rows.  [default: all]", type=int)
    seed: int = _option(0, "Seed of all draws of the evaluation; the test data do not depend on it.")
    which: str = _option(
        "best", "Weights of the best epoch by validation, or of the last.", type=click.Choice(WEIGHTS)
    )
    memory: int = _option(512, "Memory for samples and chains, in megabytes.")
    bfloat16: bool = _option(False, "Matrix products in bfloat16: faster, less precise.", is_flag=True)
    no_compile: bool = _option(False, "Do not compile.", is_flag=True)
    annealed: int = _option(20, "Anneal the first N test rows (annealed importance sampling); 0: none.")
    annealing_start: str = _option(
        "guide", "Start of the chains: the guide or the prior.", type=click.Choice(STARTS)
    )
    annealing_steps: int = _option(300, "Temperatures of each chain.")
    chains: int = _option(8, "Chains per observation.")
    simulated: int = _option(
        20, "Rows simulated for bidirectional Monte Carlo (log p(x) from both sides); 0: none."
    )
    keep_weights: bool = _option(False, "Keep all log weights in the netCDF file.", is_flag=True)

    def as_arguments(self) -> list[str]:
        """Return the arguments of ``pyro-dvae evaluate RUN`` for these options, without defaults."""
        return _arguments(self)

    def as_dict(self) -> dict[str, Any]:
        """Return the options as a JSON-able dictionary."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class TrainRequest:
    """A request of the command line: options, names of the given options, and folders."""

    options: Options
    given: frozenset[str]
    output: str | None
    resume: str | None
    quiet: bool


def flag_of(entry: Any) -> str:
    """Return the flag of a field; ``--this/--no-this`` for a boolean."""
    return str(entry.metadata["flag"] or "--" + entry.name.replace("_", "-"))


def _arguments(options: Options | EvaluationOptions, always: Sequence[str] = ()) -> list[str]:
    typed = []
    for each in dataclasses.fields(options):
        value = getattr(options, each.name)
        if (value == each.default and each.name not in always) or value is None:
            continue
        if isinstance(value, bool):
            typed.append(flag_of(each).split("/")[0 if value else 1])
        else:
            typed += [flag_of(each), str(value)]
    return typed
