import pytest
import torch
from torch.nn.functional import softplus

from pyro_dvae.errors import InputError
from pyro_dvae.networks import GaussianEncoder
from pyro_dvae.networks.mlp import ACTIVATIONS as REGISTERED


def test_forward_equals_the_hand_written_computation():
    torch.manual_seed(0)
    encoder = GaussianEncoder(5, 2, hidden_sizes=(4, 3)).double()
    x = torch.rand(6, 5, dtype=torch.float64)
    hidden = x
    for layer in (encoder.trunk[0], encoder.trunk[2]):
        hidden = softplus(hidden @ layer.weight.T + layer.bias)
    outputs = hidden @ encoder.head.weight.T + encoder.head.bias
    loc, scale = encoder(x)
    torch.testing.assert_close(loc, outputs[:, :2], rtol=0, atol=1e-14)
    torch.testing.assert_close(scale.square().log(), outputs[:, 2:], rtol=0, atol=1e-13)


ACTIVATIONS = {"softplus": softplus, "tanh": torch.tanh, "relu": torch.relu, "sigmoid": torch.sigmoid}


@pytest.mark.parametrize("hidden_sizes", [(6,), (6, 5), (6, 5, 4), [6, 5, 4, 3]])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_one_to_four_hidden_layers_with_each_activation(hidden_sizes, activation):
    encoder = GaussianEncoder(7, 2, hidden_sizes, activation).double()
    weights = [p for name, p in encoder.named_parameters() if name.startswith("trunk") and p.ndim == 2]
    assert [tuple(w.shape) for w in weights] == list(zip(hidden_sizes, [7, *hidden_sizes[:-1]], strict=True))
    x = torch.rand(3, 7, dtype=torch.float64)
    hidden = x
    for layer in encoder.trunk[::2]:
        hidden = ACTIVATIONS[activation](hidden @ layer.weight.T + layer.bias)
    outputs = hidden @ encoder.head.weight.T + encoder.head.bias
    loc, scale = encoder(x)
    torch.testing.assert_close(loc, outputs[:, :2], rtol=0, atol=1e-13)
    torch.testing.assert_close(scale, (outputs[:, 2:] / 2).exp(), rtol=0, atol=1e-13)


def test_every_registered_activation_is_tested():
    assert set(ACTIVATIONS) == set(REGISTERED)


def test_gradients_match_finite_differences():
    torch.manual_seed(0)
    encoder = GaussianEncoder(3, 2, hidden_sizes=(4,), activation="tanh").double()
    x = torch.rand(2, 3, dtype=torch.float64)
    names, values = zip(*encoder.named_parameters(), strict=True)

    def forward(*parameters):
        return torch.func.functional_call(encoder, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(forward, values)


@pytest.mark.parametrize("hidden_sizes", [(), 200, "20", (0,), (2.0,), None])
def test_bad_hidden_sizes_are_refused(hidden_sizes):
    with pytest.raises(InputError, match="hidden_sizes: expected"):
        GaussianEncoder(5, 2, hidden_sizes)


def test_the_message_of_a_wrong_shape():
    with pytest.raises(
        InputError, match=r"^x: expected a last dimension of 784 \(data_size\), got shape \(3, 5\)$"
    ):
        GaussianEncoder(784, 2)(torch.rand(3, 5))


def test_the_scale_of_rows_far_away_is_finite_and_above_zero():
    encoder = GaussianEncoder(2, 3, (4,))
    x = torch.tensor([[1e10, -1e10], [-1e10, 1e10], [0.3, -0.2]])
    with torch.no_grad():
        scale = encoder(x)[1]
        log_variance = encoder.head(encoder.features(x)).chunk(2, -1)[1]
    assert bool((scale.isfinite() & (scale > 0)).all())
    assert float(log_variance[:2].abs().max()) > 1e6
    assert torch.equal(scale[2], (0.5 * log_variance[2]).exp())
