import math

import pytest
import torch
from torch import nn

from pyro_dvae.errors import InputError
from pyro_dvae.networks import mlp


def test_layers_and_activations_alternate():
    net = mlp([4, 3, 2], activation="relu")
    assert [type(layer) for layer in net] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU]
    assert [(net[i].in_features, net[i].out_features) for i in (0, 2)] == [(4, 3), (3, 2)]


def test_forward_equals_the_hand_written_computation():
    torch.manual_seed(0)
    net = mlp([4, 3, 2], activation="tanh").double()
    x = torch.randn(7, 4, dtype=torch.float64)
    first = torch.tanh(x @ net[0].weight.T + net[0].bias)
    expected = torch.tanh(first @ net[2].weight.T + net[2].bias)
    torch.testing.assert_close(net(x), expected, rtol=0, atol=1e-14)


def test_initialisation_is_glorot_uniform_with_zero_biases():
    torch.manual_seed(0)
    layer = mlp([300, 500])[0]
    limit = math.sqrt(6 / (300 + 500))
    weight = layer.weight.detach()
    assert torch.count_nonzero(layer.bias) == 0
    assert weight.abs().max() <= limit
    assert weight.abs().max() > 0.999 * limit
    # uniform: variance limit²/3, standard error of the sample variance limit² sqrt(4/45/n)
    standard_error = limit**2 * math.sqrt(4 / 45 / weight.numel())
    assert abs(weight.var().item() - limit**2 / 3) < 5 * standard_error


@pytest.mark.parametrize("sizes", [[], [3], "34", 5, [3, 0], [3, 2.5], [3, True]])
def test_bad_sizes_are_refused(sizes):
    with pytest.raises(InputError, match="sizes: expected"):
        mlp(sizes)
