import math

import numpy as np
import pytest
import torch

from pyro_dvae import checks
from pyro_dvae.errors import InputError


@pytest.mark.parametrize("value", [0.5, 1, 0, torch.tensor(0.5), torch.tensor([0.25])])
def test_numbers(value):
    result = checks.number("rate", value, 0.0, 1.0)
    assert type(result) is float
    assert result == value


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (-0.1, "-0.1"),
        (1.5, "1.5"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        ("a", "'a'"),
        (True, "True"),
        (None, "None"),
        ([0.5], r"\[0.5\]"),
        (torch.tensor([0.1, 0.2]), r"tensor\(\[0.1000, 0.2000\]\)"),
        (1j, "1j"),
    ],
)
def test_what_is_no_number_in_range_is_refused(value, shown):
    with pytest.raises(InputError, match=rf"^rate: expected a number in \[0, 1\], got {shown}$"):
        checks.number("rate", value, 0.0, 1.0)


@pytest.mark.parametrize("value", [True, False, np.True_, np.bool_(False)])
def test_flags_of_python_and_numpy(value):
    assert checks.flag("compile", value) is bool(value)
    with pytest.raises(InputError, match=r"^compile: expected True or False, got 1$"):
        checks.flag("compile", 1)


def test_infinity_is_no_number_even_without_limits():
    with pytest.raises(InputError, match=r"^lr: expected a number in \[-inf, inf\], got inf$"):
        checks.number("lr", math.inf)


def test_positive():
    assert checks.positive("epochs", 0.5) == 0.5
    for value in (0, -1.0):
        with pytest.raises(InputError, match=rf"^epochs: expected a number above 0, got {value}$"):
            checks.positive("epochs", value)
    with pytest.raises(InputError, match=r"^epochs: expected a number in"):
        checks.positive("epochs", "a")


def test_count():
    assert checks.count("size", 1) == 1
    assert checks.count("event_dim", 0, minimum=0) == 0
    for value, minimum in ((0, 1), (2, 3), (-1, 0), (1.0, 1), (True, 1), ("3", 1), (None, 1)):
        message = rf"^size: expected a whole number of at least {minimum}, got {value!r}$"
        with pytest.raises(InputError, match=message):
            checks.count("size", value, minimum)


def test_known():
    names = ("tanh", "softplus", "relu")
    assert checks.known("activation", "tanh", names) == "tanh"
    with pytest.raises(
        InputError, match=r"^activation: unknown name 'softpuls' \(did you mean 'softplus'\?\); "
    ):
        checks.known("activation", "softpuls", names)
    with pytest.raises(InputError, match=r"^activation: unknown name 'zzz'; known: relu, softplus, tanh$"):
        checks.known("activation", "zzz", names)
    with pytest.raises(InputError, match=r"^activation: unknown name 3; "):
        checks.known("activation", 3, names)


def test_floating():
    value = torch.rand(2)
    assert checks.floating("x", value) is value
    with pytest.raises(
        InputError, match=r"^x: expected floating-point values, got torch.uint8 \(try .float\(\)\)$"
    ):
        checks.floating("x", torch.zeros(2, dtype=torch.uint8))
    with pytest.raises(InputError, match=r"^x: expected a tensor, got ndarray$"):
        checks.floating("x", value.numpy())


def test_finite():
    for value in (torch.rand(2, 3), torch.arange(3)):
        assert checks.finite("x", value) is value
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(InputError, match=r"^x: expected finite values, got 1 NaN or infinite of 2$"):
            checks.finite("x", torch.tensor([0.0, bad]))
    with pytest.raises(InputError, match=r"^x: expected at least one element, got shape \(0, 3\)$"):
        checks.finite("x", torch.rand(0, 3))


def test_unit_interval():
    value = torch.tensor([0.0, 0.5, 1.0])
    assert checks.unit_interval("x", value) is value
    for bad in ([0.0, 1.25], [-0.25, 1.0]):
        message = rf"^x: expected values in \[0, 1\], got the range \[{bad[0]:g}, {bad[1]:g}\]$"
        with pytest.raises(InputError, match=message):
            checks.unit_interval("x", torch.tensor(bad))
    with pytest.raises(InputError, match=r"^x: expected finite values"):
        checks.unit_interval("x", torch.tensor([math.nan]))


def test_an_input_error_is_a_value_error_of_one_line():
    with pytest.raises(ValueError, match=r"rate") as caught:
        checks.number("rate", 2, 0, 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1.0], "x: expected a tensor, got list"),
        (torch.tensor(1.0), "x: expected data of shape"),
        (torch.zeros(0, 2), "x: expected at least one element"),
        (torch.tensor([1.0, math.inf]), "x: expected finite values"),
    ],
)
def test_data_are_rows(value, message):
    with pytest.raises(InputError, match=message):
        checks.data("x", value)
    rows = torch.ones(2, 3)
    assert checks.data("x", rows) is rows


def test_a_missing_device_is_named_without_advice_to_developers_of_torch():
    with pytest.raises(InputError, match=r"^d: 'xla' cannot be used here \(.*backend\); use cpu"):
        checks.device("d", "xla")
