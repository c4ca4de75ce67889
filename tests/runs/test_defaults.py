"""What a run chooses automatically: its length, its noise, and the name of its folder."""

import pytest
import torch

from pyro_dvae.datasets import Dataset
from pyro_dvae.errors import InputError
from pyro_dvae.jobs.guess import by_size, fitting
from pyro_dvae.jobs.options import Options
from pyro_dvae.jobs.run_request import stem


def digits_of(rows):
    part = torch.zeros(1, 4)
    return Dataset("digits", part.expand(rows, 4), part, part, None, None, None, None, True, "")


@pytest.mark.parametrize(
    ("rows", "batch_size", "epochs", "validate_every"),
    [
        (50_000, 100, 50, 1),  # MNIST
        (50_000, 1000, 50, 1),
        (1_257, 100, 1923, 8),
        (200, 100, 2000, 8),
        (500_000, 100, 5, 1),
        (9_000_000, 100, 1, 1),
    ],
)
def test_the_default_length_is_a_number_of_steps(rows, batch_size, epochs, validate_every):
    options = Options(batch_size=batch_size)
    found = by_size(options, frozenset(), digits_of(rows), None)
    assert (found.epochs, found.validate_every) == (epochs, validate_every)


def test_a_length_that_was_given_stays():
    data = digits_of(1_257)
    assert by_size(Options(epochs=50), frozenset({"epochs"}), data, None).epochs == 50
    assert by_size(Options(epochs=1000), frozenset(), data, None).epochs == 1000  # set by a script
    assert by_size(Options(), frozenset(), data, {"options": {}}).epochs == 50  # resumed
    assert by_size(Options(validate_every=3), frozenset({"validate_every"}), data, None).validate_every == 3


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (Options(noise=0.1), "digits-dvae-noise0.1-seed0"),
        (Options(noise_kind="gaussian", seed=3), "digits-dvae-gaussian-noise0.05-seed3"),
        (Options(noise_pattern="mean-image"), "digits-dvae-noise0.05-noise-pattern-mean-image-seed0"),
        (
            Options(noise_schedule="linear", noise_end=0.01),
            "digits-dvae-noise0.05-noise-schedule-linear-noise-end0.01-seed0",
        ),
        (
            Options(hidden_layers=2, activation="tanh", learn_noise=True, bound="diwae"),
            "digits-diwae-noise0.05-learn-noise-hidden-layers2-activation-tanh-seed0",
        ),
        (
            Options(epochs=3, device="cpu", importance_samples=0, dataset="digits"),
            "digits-dvae-noise0.05-seed0",
        ),
    ],
)
def test_the_name_of_a_run_folder_says_what_differs(options, name):
    assert stem(options, digits_of(3)) == name


def test_an_option_without_effect_with_the_chosen_noise_is_refused():
    counts = torch.tensor([[0.0, 7.0], [3.0, 1.0]])
    data = Dataset("counts.csv", counts, counts, counts, None, None, None, None, False, "")
    given, options = frozenset({"salt"}), Options(salt="rate")
    with pytest.raises(InputError, match="salt: it has no effect without --noise-kind salt-and-pepper"):
        fitting(options, given, data)
    assert fitting(options, given | {"noise_kind"}, data)[0].noise_kind == "salt-and-pepper"
    assert fitting(Options(), given, data)[0].noise_kind == "thinning"  # the default was typed
    binary = Dataset("binary.csv", *((counts > 2).float(),) * 3, None, None, None, None, True, "")
    assert fitting(options, given, binary)[0].noise_kind == "salt-and-pepper"
