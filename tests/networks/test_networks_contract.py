"""What every exported network keeps to: built by its two sizes, any leading dims, any dtype."""

import copy
import itertools

import pytest
import torch
from torch import nn

from pyro_dvae import networks
from pyro_dvae.errors import InputError

D, d = 6, 2
CLASSES = {
    name: member
    for name in networks.__all__
    if isinstance(member := getattr(networks, name), type) and issubclass(member, nn.Module)
}


def build(name, **options):
    sizes = {"data_size": D, "latent_size": d}
    return CLASSES[name](**sizes, **options)


def in_size(name):
    return D if name.endswith("Encoder") else d


def outputs(network, value):
    """The tensors that a network computes: parameters of q(z | x̃), or mean and log-density of p(x | z)."""
    result = network(value)
    if isinstance(result, tuple):
        return result
    target = torch.full((D,), 0.25, dtype=value.dtype, device=value.device)
    return result.mean, result.log_prob(target)


@pytest.fixture(params=CLASSES)
def name(request):
    torch.manual_seed(0)
    return request.param


def test_every_class_is_an_encoder_or_a_decoder(name):
    assert name.endswith(("Encoder", "Decoder"))


def test_sizes_are_attributes(name):
    network = build(name)
    assert (network.data_size, network.latent_size) == (D, d)


@pytest.mark.parametrize("leading", [(), (3,), (4, 2, 3), (4, 1, 2, 3)])
def test_leading_dims_are_computed_one_by_one(name, leading):
    network = build(name).double()
    value = torch.rand(*leading, in_size(name), dtype=torch.float64)
    batched = outputs(network, value)
    for index in itertools.product(*map(range, leading)):
        single = outputs(network, value[index])
        for many, one in zip(batched, single, strict=True):
            torch.testing.assert_close(many[index], one, rtol=0, atol=1e-12)
    last = (d, d) if name.endswith("Encoder") else (D, None)
    for result, size in zip(batched, last, strict=True):
        assert result.shape == leading if size is None else (*leading, size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dtype_of_the_network_is_kept(name, dtype):
    value = torch.rand(3, in_size(name), dtype=dtype)
    assert {result.dtype for result in outputs(build(name).to(dtype), value)} == {dtype}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_the_accelerator_agrees_with_the_processor(name):
    network, value = build(name).double(), torch.rand(3, in_size(name), dtype=torch.float64)
    expected = outputs(network, value)
    for result, reference in zip(outputs(network.cuda(), value.cuda()), expected, strict=True):
        assert result.device.type == "cuda"
        torch.testing.assert_close(result.cpu(), reference, rtol=0, atol=1e-10)


def test_gradients_reach_every_parameter(name):
    network = build(name)
    sum(result.square().sum() for result in outputs(network, torch.rand(5, in_size(name)))).backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.count_nonzero(parameter.grad) > 0, parameter_name


def test_state_dict_round_trip(name, tmp_path):
    network, other = build(name), build(name)
    value = torch.rand(3, in_size(name))
    assert not torch.equal(outputs(network, value)[0], outputs(other, value)[0])
    torch.save(network.state_dict(), tmp_path / "network.pt")
    other.load_state_dict(torch.load(tmp_path / "network.pt", weights_only=True))
    for one, two in zip(outputs(network, value), outputs(other, value), strict=True):
        assert torch.equal(one, two)


def test_copies_are_independent(name):
    network = build(name)
    other = copy.deepcopy(network)
    value = torch.rand(3, in_size(name))
    before = outputs(network, value)[0]
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    assert torch.equal(outputs(network, value)[0], before)


@pytest.mark.parametrize("shape", [(), (0,), (3, 5), (6, 1), (2, 7)])
def test_a_wrong_last_dimension_is_refused(name, shape):
    message = rf"^[xz]: expected a last dimension of {in_size(name)} \(\w+_size\), got shape \("
    with pytest.raises(InputError, match=message):
        build(name)(torch.rand(shape))


@pytest.mark.parametrize("value", [[0.0] * 6, torch.ones(3, 6, dtype=torch.uint8), torch.ones(3, 2).long()])
def test_what_is_not_a_floating_point_tensor_is_refused(name, value):
    if isinstance(value, torch.Tensor):
        value = value[:, :1].expand(3, in_size(name))
    with pytest.raises(InputError, match=r"^[xz]: expected (a tensor|floating-point values), got"):
        build(name)(value)


@pytest.mark.parametrize("argument", ["data_size", "latent_size"])
@pytest.mark.parametrize("value", [0, -3, 2.0, "4", None, True])
def test_bad_sizes_are_refused(name, argument, value):
    sizes = {"data_size": D, "latent_size": d, argument: value}
    with pytest.raises(InputError, match=f"^{argument}: expected a whole number"):
        CLASSES[name](**sizes)


def test_unknown_activations_are_refused(name):
    with pytest.raises(InputError, match=r"activation: unknown name 'gelo'"):
        build(name, activation="gelo")
