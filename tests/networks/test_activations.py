import pytest
import torch

from pyro_dvae.errors import InputError
from pyro_dvae.networks import activation
from pyro_dvae.networks.mlp import ACTIVATIONS

EQUATIONS = {
    "relu": lambda a: a.clamp(min=0),
    "sigmoid": lambda a: 1 / (1 + (-a).exp()),
    "softplus": lambda a: (1 + a.exp()).log(),
    "tanh": lambda a: (a.exp() - (-a).exp()) / (a.exp() + (-a).exp()),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_is_its_equation(name):
    a = torch.linspace(-4, 4, 101, dtype=torch.float64)
    torch.testing.assert_close(activation(name)(a), EQUATIONS[name](a), rtol=0, atol=1e-12)


def test_each_call_gives_a_new_module():
    assert activation("tanh") is not activation("tanh")


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(
        InputError, match=r"activation: unknown name 'softpluss' \(did you mean 'softplus'\?\)"
    ):
        activation("softpluss")
