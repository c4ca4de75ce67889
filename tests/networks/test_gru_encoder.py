"""The recurrent encoder against torch's own GRU, fed with the repeated input."""

import math

import pytest
import torch
from torch import nn

from pyro_dvae.networks import GRUEncoder

D, d, H = 7, 3, 4


def pair(steps):
    """The encoder with random biases, and ``torch.nn.GRU`` with its weights."""
    torch.manual_seed(3)
    encoder, gru = GRUEncoder(D, d, H, steps).double(), nn.GRU(D, H).double()
    with torch.no_grad():
        for layer in (encoder.input_layer, encoder.recurrent_layer):
            layer.bias.normal_()
        gru.weight_ih_l0.copy_(encoder.input_layer.weight)
        gru.bias_ih_l0.copy_(encoder.input_layer.bias)
        gru.weight_hh_l0.copy_(encoder.recurrent_layer.weight)
        gru.bias_hh_l0.copy_(encoder.recurrent_layer.bias)
    return encoder, gru


@pytest.mark.parametrize("steps", [1, 2, 5, 9])
def test_values_and_gradients_equal_those_of_torchs_gru(steps):
    encoder, gru = pair(steps)
    x = torch.randn(6, D, dtype=torch.float64, requires_grad=True)
    repeated = x.detach().clone().requires_grad_()

    loc, scale = encoder(x)
    _, last = gru(repeated.expand(steps, 6, D))
    expected_loc, log_variance = encoder.head(last[0]).chunk(2, -1)
    expected_scale = (log_variance / 2).exp()
    torch.testing.assert_close(loc, expected_loc, rtol=0, atol=1e-14)
    torch.testing.assert_close(scale, expected_scale, rtol=0, atol=1e-14)

    layers = [encoder.input_layer, encoder.recurrent_layer]
    ours = [x, *(parameter for layer in layers for parameter in (layer.weight, layer.bias))]
    theirs = [repeated, gru.weight_ih_l0, gru.bias_ih_l0, gru.weight_hh_l0, gru.bias_hh_l0]
    weight = torch.randn(2, 6, d, dtype=torch.float64)
    found = torch.autograd.grad((weight * torch.stack([loc, scale])).sum(), ours, allow_unused=True)
    expected = torch.autograd.grad((weight * torch.stack([expected_loc, expected_scale])).sum(), theirs)
    for one, two in zip(found, expected, strict=True):
        # of one step from h = 0 the recurrent weights have no part
        one = torch.zeros_like(two) if one is None else one
        torch.testing.assert_close(one, two, rtol=0, atol=1e-12)


def test_five_steps_by_default_of_200_units():
    encoder = GRUEncoder(784, 50)
    assert (encoder.hidden_size, encoder.steps) == (200, 5)
    assert sum(p.numel() for p in encoder.parameters()) == 3 * 200 * (784 + 200 + 2) + 2 * 50 * (200 + 1)


def test_the_datum_is_projected_once(monkeypatch):
    encoder = GRUEncoder(D, d, H, steps=5)
    calls = []
    encoder.input_layer.register_forward_hook(lambda *_: calls.append("input"))
    encoder.recurrent_layer.register_forward_hook(lambda *_: calls.append("recurrent"))
    encoder(torch.rand(2, D))
    assert sorted(calls) == ["input"] + 4 * ["recurrent"]


def test_initialisation_gate_by_gate():
    torch.manual_seed(0)
    encoder = GRUEncoder(300, d, 200)
    limit = math.sqrt(6 / (300 + 200))
    for gate in encoder.input_layer.weight.detach().chunk(3):
        assert 0.999 * limit < gate.abs().max() <= limit
    for gate in encoder.recurrent_layer.weight.detach().chunk(3):
        torch.testing.assert_close(gate @ gate.T, torch.eye(200), rtol=0, atol=1e-5)
    assert torch.count_nonzero(encoder.input_layer.bias) == 0
    assert torch.count_nonzero(encoder.recurrent_layer.bias) == 0
