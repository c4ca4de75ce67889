import itertools

import pytest
import torch
from torch import nn

from pyro_dvae.models.draw.networks import CELLS

THEIRS = {"lstm": nn.LSTMCell, "gru": nn.GRUCell}


def pair(name):
    """A cell, and torch's own with the same weights."""
    torch.manual_seed(0)
    ours, theirs = CELLS[name](3, 4).double(), THEIRS[name](3, 4).double()
    with torch.no_grad():
        for mine, yours in ((ours.input, "ih"), (ours.recurrent, "hh")):
            mine.weight.copy_(getattr(theirs, f"weight_{yours}"))
            mine.bias.copy_(getattr(theirs, f"bias_{yours}"))
    return ours, theirs


def states(cell, *leading):
    return tuple(torch.randn(*leading, 4, dtype=torch.float64, requires_grad=True) for _ in cell.start())


def test_every_cell_has_a_twin():
    assert set(CELLS) == set(THEIRS)


@pytest.mark.parametrize("name", CELLS)
def test_it_is_the_cell_of_torch_in_value_and_gradient(name):
    ours, theirs = pair(name)
    value, state = torch.randn(5, 3, dtype=torch.float64, requires_grad=True), states(ours, 5)
    found = ours(value, state)
    wanted = theirs(value, state[0] if name == "gru" else state)
    wanted = (wanted,) if name == "gru" else wanted
    for mine, yours in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, yours)
    own = [ours.input.weight, ours.recurrent.weight, ours.input.bias, ours.recurrent.bias]
    other = [theirs.weight_ih, theirs.weight_hh, theirs.bias_ih, theirs.bias_hh]
    mine = torch.autograd.grad(found[0].square().sum(), [value, *state, *own])
    yours = torch.autograd.grad(wanted[0].square().sum(), [value, *state, *other])
    for one, two in zip(mine, yours, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("name", CELLS)
def test_leading_dims_of_input_and_state_broadcast(name):
    ours, _ = pair(name)
    value, state = torch.randn(2, 1, 5, 3, dtype=torch.float64), states(ours, 4, 5)
    found = ours(value, state)
    assert found[0].shape == (2, 4, 5, 4)
    for k, m, n in itertools.product(range(2), range(4), range(5)):
        one = ours(value[k, 0, n], tuple(part[m, n] for part in state))
        for many, single in zip(found, one, strict=True):
            torch.testing.assert_close(many[k, m, n], single)


def test_the_forget_gate_starts_open():
    bias = CELLS["lstm"](3, 4).input.bias
    assert bias.tolist() == [0.0] * 4 + [1.0] * 4 + [0.0] * 8
