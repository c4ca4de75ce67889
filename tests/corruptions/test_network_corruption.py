import math

import pyro
import pytest
import torch
from exact import BinaryProblem, check_estimates, gradients
from torch import nn
from torch.nn.functional import softplus

import pyro_dvae as dv
from pyro_dvae.corruptions import GaussianNoise, Masking, NetworkCorruption
from pyro_dvae.corruptions.network import FAMILIES
from pyro_dvae.errors import InputError

DISCRETE = sorted(set(FAMILIES) - {"gaussian", "multiplicative"})


def by_name(network, family, **options):
    """The corruption of a family; swapping takes rows."""
    if family == "swap":
        options["rows"] = torch.tensor([[0.0], [1.0], [0.0]], dtype=torch.float64)
    return NetworkCorruption(network, family, **options)


class Bad(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x):
        return self.output


def linear(out=3):
    network = nn.Linear(3, out, dtype=torch.float64)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[0.9, -1.1, 0.4], [0.2, 0.7, -0.6], [-0.5, 0.1, 1.0]])[:out])
        network.bias.copy_(torch.tensor([-0.3, 0.2, -1.0])[:out])
    return network


def bits(*shape):
    return torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(5)).double()


@pytest.mark.parametrize("out", [1, 3])
def test_levels_are_functions_of_the_datum(out):
    network, x = linear(out), torch.rand(2, 4, 3, dtype=torch.float64)
    raw = network(x).expand(x.shape)
    scale = NetworkCorruption(network, "gaussian", minimum=0.2)(x).scale
    torch.testing.assert_close(scale, 0.2 + softplus(raw))
    relative = NetworkCorruption(network, "multiplicative", minimum=0.2)(x).scale
    torch.testing.assert_close(relative, x * scale)
    for family in DISCRETE:
        distribution = by_name(network, family, minimum=0.2)(x)
        torch.testing.assert_close(distribution.rate.expand(x.shape), 0.2 + 0.8 * torch.sigmoid(raw))
        kept = distribution.log_prob(x).exp()
        torch.testing.assert_close(kept, 1 - distribution.rate.expand(x.shape))


def test_families_take_their_own_options():
    x = torch.full((1, 3), 0.5)
    distribution = NetworkCorruption(nn.Linear(3, 3), "salt-and-pepper", salt=0.0)(x)
    assert not bool((distribution.sample((50,)) == 1).any())
    assert NetworkCorruption(nn.Linear(3, 3), "masking", temperature=0.5)(x).has_rsample
    with pytest.raises(InputError, match=r"^salt: expected a number in \[0, 1\], got 2"):
        NetworkCorruption(nn.Linear(3, 3), "salt-and-pepper", salt=2)
    with pytest.raises(InputError, match=r"^salt: not an option of the family 'bit-flip'; .*: temperature$"):
        NetworkCorruption(nn.Linear(3, 3), "bit-flip", salt=0.5)
    for option in ("temperature", "learnable"):
        with pytest.raises(
            InputError, match=rf"^{option}: not an option of the family 'gaussian'; .*: none$"
        ):
            NetworkCorruption(nn.Linear(3, 3), "gaussian", **{option: True})


def test_a_network_may_be_the_level_of_any_corruption():
    network, x = linear(), bits(4, 3)
    value = torch.zeros_like(x)
    named = NetworkCorruption(network, "masking", minimum=0.1)
    assert torch.equal(Masking(network, minimum=0.1)(x).log_prob(value), named(x).log_prob(value))
    for kind, argument in ((Masking, "rate"), (GaussianNoise, "scale")):
        with pytest.raises(InputError, match=rf"^learnable: the {argument} is a network"):
            kind(network, learnable=True)


def test_pathwise_gradients_of_gaussian_noise():
    """x̃ = x + σ(x) ε, so dx̃/dW = ε σ'(raw) x and dx̃/dx = 1 + ε σ'(raw) W."""
    network = linear()
    x = torch.rand(5, 3, dtype=torch.float64, requires_grad=True)
    distribution = NetworkCorruption(network, "gaussian", minimum=0.1)(x)
    assert distribution.has_rsample
    value = distribution.rsample()
    slope = ((value - x) / distribution.scale).detach() * torch.sigmoid(network(x)).detach()
    by_weight, by_x = torch.autograd.grad(value.sum(), [network.weight, x])
    torch.testing.assert_close(by_weight, slope.T @ x.detach())
    torch.testing.assert_close(by_x, 1 + slope @ network.weight.detach())


@pytest.mark.parametrize("family", DISCRETE)
def test_score_function_gradients_reach_the_network(family):
    problem = BinaryProblem(by_name(linear(), family, minimum=0.05))
    x = bits(2, 3).repeat(8, 1)
    problem.l_dvae(x).sum().backward()
    exact = gradients(problem)
    found = []
    for _ in range(40):
        dv.TraceDenoising_ELBO(num_corruptions=4, num_particles=1, max_plate_nesting=1).loss_and_grads(
            problem.model, problem.guide, x
        )
        found.append(gradients(problem))
    for name in exact:
        check_estimates(name, -torch.stack([g[name] for g in found]), exact[name])
    assert all(float(exact[name].abs().max()) > 1e-3 for name in exact if "network" in name)


def test_a_relaxed_network_corruption_is_pathwise_at_its_site():
    network, x = linear(), bits(4, 3)
    corruption = NetworkCorruption(network, "bit-flip", temperature=0.5)
    dv.corrupt("x_tilde", corruption, x).square().sum().backward()
    assert bool((network.bias.grad != 0).all())


def test_a_frozen_network_requires_no_gradient():
    corruption = NetworkCorruption(linear().requires_grad_(False), "masking")
    trace = pyro.poutine.trace(dv.corrupt).get_trace("x_tilde", corruption, bits(4, 3))
    assert not trace.nodes["x_tilde"]["fn"].learned


def test_its_parameters_are_registered_and_saved():
    corruption, other = (NetworkCorruption(linear(), "masking") for _ in range(2))
    dv.corrupt("x_tilde", corruption, bits(4, 3))
    assert len(pyro.get_param_store()) == 2
    with torch.no_grad():
        corruption.noise.rate.network.bias.add_(1)
    other.load_state_dict(corruption.state_dict())
    x = bits(4, 3)
    assert torch.equal(other(x).rate, corruption(x).rate)
    corruption.set_epoch(3)
    assert corruption.levels() == []


@pytest.mark.parametrize("shape", [(4, 2), (3,), (1, 4, 3), (2, 3), ()])
@pytest.mark.parametrize("validate", [False, True])
def test_outputs_of_another_shape_are_refused(shape, validate):
    pyro.enable_validation(validate)
    corruption = NetworkCorruption(Bad(torch.zeros(shape)), "masking")
    with pytest.raises(
        InputError,
        match=r"network output: expected shape \(4, 3\) or \(4, 1\) for data of ",
    ):
        corruption(torch.rand(4, 3))


def test_outputs_must_be_finite_while_pyro_validates():
    output = torch.zeros(4, 3)
    output[1, 2] = math.nan
    corruption = NetworkCorruption(Bad(output), "gaussian")
    with pytest.raises(
        InputError,
        match=r"network output: expected finite values, got 1 NaN or infinite of 12",
    ):
        corruption(torch.rand(4, 3))
    pyro.enable_validation(False)
    assert int(corruption(torch.rand(4, 3)).scale.isnan().sum()) == 1


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ((torch.zeros(4, 3), torch.zeros(4, 3)), "expected a tensor, got tuple"),
        (torch.zeros(4, 3, dtype=torch.int64), "expected floating-point values, got torch.int64"),
    ],
)
def test_outputs_must_be_floating_point_tensors(output, message):
    with pytest.raises(InputError, match=f"network output: {message}"):
        NetworkCorruption(Bad(output), "masking")(torch.rand(4, 3))


@pytest.mark.parametrize("network", [None, 0.3, lambda x: x])
def test_the_network_must_be_a_module(network):
    with pytest.raises(
        InputError, match=r"^network: expected a torch.nn.Module, got (NoneType|float|function)"
    ):
        NetworkCorruption(network, "masking")


def test_unknown_families_are_refused_with_the_nearest_name():
    with pytest.raises(
        InputError, match=r"^family: unknown name 'gausian' \(did you mean 'gaussian'\?\); known: bit-flip, "
    ):
        NetworkCorruption(nn.Linear(3, 3), "gausian")


@pytest.mark.parametrize("minimum", [-0.1, math.nan, math.inf, "a"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_bad_minimum_is_refused(family, minimum):
    with pytest.raises(InputError, match=r"^minimum: expected a number in \[0, (1|inf)\], got "):
        by_name(nn.Linear(3, 3), family, minimum=minimum)


@pytest.mark.parametrize("family", DISCRETE)
def test_a_minimum_that_leaves_nothing_to_learn_is_refused(family):
    with pytest.raises(InputError, match=r"^minimum: expected a number below 1, got 1"):
        by_name(nn.Linear(3, 3), family, minimum=1)
    with pytest.raises(InputError, match=r"^minimum: expected a number in \[0, 1\], got 1.5"):
        by_name(nn.Linear(3, 3), family, minimum=1.5)
