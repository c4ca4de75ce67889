"""The contract of every exported network: built from its two sizes, any leading dims, any dtype."""

import copy
import inspect
import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_dvae as dv
from pyro_dvae import networks
from pyro_dvae.engine import record
from pyro_dvae.errors import InputError
from pyro_dvae.networks.elements import LIKELIHOODS

D, d = 16, 2  # D is a square, as networks of images want it
CLASSES = {
    name: member
    for name in networks.__all__
    if isinstance(member := getattr(networks, name), type)
    and issubclass(member, nn.Module)
    and "latent_size" in inspect.signature(member).parameters  # not what wraps another network
}


OPTIONS = {
    "scale": ["learned", "per-column", "per-pixel"],
    "likelihood": list(LIKELIHOODS),
    "library": ["row", "latent"],
    "zero_inflated": [False, True],
    "mixture": [False, True],
}


KINDS = ["real", "count", ("ordinal", 3), "binary", "heavy-tailed", "positive", "real", ("ordinal", 4)]


def columns_of(size):
    """Columns of all kinds that have a mean; a bad size is no sequence of kinds."""
    return (KINDS * 2)[:size] if type(size) is int and size > 0 else size


def create(kind, data_size, latent_size, **options):
    """A network of its sizes; a table has its columns in place of the first."""
    if "columns" in arguments(kind):
        return CLASSES[kind](columns=columns_of(data_size), latent_size=latent_size, **options)
    return CLASSES[kind](data_size=data_size, latent_size=latent_size, **options)


def arguments(name):
    return inspect.signature(CLASSES[name]).parameters


def variants():
    """Every class with its defaults, and with each value of an option that changes what it computes."""
    for name in CLASSES:
        yield name, {}
        for option in [each for each in OPTIONS if each in arguments(name)]:
            default = arguments(name)[option].default
            yield from ((name, {option: value}) for value in OPTIONS[option] if value != default)


COUNTS = [
    "PoissonDecoder", "NegativeBinomialDecoder", "MultinomialDecoder", "DirichletMultinomialDecoder"
]  # fmt: skip
VARIANTS = {
    " ".join([name, *(value if isinstance(value, str) else option for option, value in options.items())]): (
        name,
        options,
    )
    for name, options in variants()
}


def build(name, **options):
    kind, chosen = VARIANTS[name]
    return create(kind, D, d, **chosen, **options)


def is_encoder(name):
    return VARIANTS[name][0].endswith("Encoder")


def data_of(name, *leading, dtype=torch.float64):
    """Random data that the network takes."""
    if VARIANTS[name][0] == "TableDecoder":
        return torch.ones(*leading, D, dtype=dtype)
    if VARIANTS[name][0] in COUNTS:
        return torch.randint(0, 4, (*leading, D)).to(dtype)
    return torch.rand(*leading, D, dtype=dtype)


def in_size(name):
    return D if is_encoder(name) else d


def outputs(network, value):
    """The tensors that a network computes: parameters of q(z | x̃), or mean and log-density of p(x | z)."""
    result = network(value)
    if isinstance(result, tuple):
        return result
    target = torch.full((D,), 0.25, dtype=value.dtype, device=value.device)
    if isinstance(network, networks.TableDecoder):
        target = torch.ones(D, dtype=value.dtype, device=value.device)
    if type(network).__name__ in COUNTS:
        target = torch.arange(D, dtype=value.dtype, device=value.device) % 3
    return result.mean, result.log_prob(target)


@pytest.fixture(params=VARIANTS)
def name(request):
    torch.manual_seed(0)
    return request.param


def test_every_class_is_an_encoder_or_a_decoder():
    assert len(CLASSES) >= 7
    assert all(name.endswith(("Encoder", "Decoder")) for name in CLASSES)


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
            torch.testing.assert_close(many[index], one, rtol=1e-12, atol=1e-12)
    last = (d, d) if is_encoder(name) else (D, None)
    for result, size in zip(batched, last, strict=True):
        assert result.shape == leading if size is None else (*leading, size)


def test_no_data_give_no_results(name):
    result = build(name)(torch.rand(0, 3, in_size(name)))
    if is_encoder(name):
        assert [tuple(each.shape) for each in result] == [(0, 3, d), (0, 3, d)]
    else:
        assert result.mean.shape == (0, 3, D)


def test_a_value_that_is_not_contiguous_is_no_other(name):
    network, value = (
        build(name).double(),
        torch.rand(in_size(name), 4, 3, dtype=torch.float64).mT.transpose(0, 2),
    )
    assert not value.is_contiguous()
    for one, two in zip(outputs(network, value), outputs(network, value.contiguous()), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-12)


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


def test_a_recording_computes_the_same_values_and_gradients(name):
    network = build(name).double()
    parameters = tuple(network.parameters())

    def program(value, *parameters):
        with torch.enable_grad():
            total = sum(result.square().sum() for result in outputs(network, value))
        gradients = torch.autograd.grad(total, parameters)
        return torch.cat([total.detach()[None], *[gradient.flatten() for gradient in gradients]])

    value = torch.rand(4, 3, in_size(name), dtype=torch.float64)
    graph = record(program, value, *parameters)
    for other in (value, torch.rand_like(value)):
        expected = program(other, *parameters)
        torch.testing.assert_close(graph(other, *parameters), expected, rtol=1e-12, atol=1e-12)


def test_a_dvae_of_it_has_the_bound_of_its_draws(name):
    """M × K draws in one pass equal the mean over passes of one draw each, gradients too."""
    network = build(name).double()
    encoder = network if is_encoder(name) else networks.GaussianEncoder(D, d).double()
    decoder = networks.BernoulliDecoder(D, d).double() if is_encoder(name) else network
    x = data_of(name, 5)
    x_tilde = torch.rand(2, 1, D, dtype=torch.float64)  # [M, N, D], the same for every datum
    noise = torch.randn(3, 2, 5, d, dtype=torch.float64)

    def bound(corrupted, epsilon):
        loc, scale = encoder(corrupted)
        z = loc + scale * epsilon
        q, prior = dist.Normal(loc, scale).to_event(1), dist.Normal(torch.zeros_like(z), 1).to_event(1)
        return decoder(z).log_prob(x) + prior.log_prob(z) - q.log_prob(z)

    together = bound(x_tilde.expand(2, 5, D), noise).sum()
    one_by_one = sum(
        bound(x_tilde[m].expand(5, D), noise[k, m]).sum() for k, m in itertools.product(range(3), range(2))
    )
    torch.testing.assert_close(together, one_by_one, rtol=1e-12, atol=0)
    parameters = list(network.parameters())
    for one, two in zip(
        torch.autograd.grad(together, parameters), torch.autograd.grad(one_by_one, parameters), strict=True
    ):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("local", [False, True])
def test_a_denoising_bound_trains_every_parameter(name, local):
    network = build(name)
    encoder = network if is_encoder(name) else networks.GaussianEncoder(D, d)
    decoder = networks.BernoulliDecoder(D, d) if is_encoder(name) else network
    dvae = dv.DVAE(encoder, decoder, dv.SaltAndPepper(0.1))
    x = data_of(name, 5, dtype=torch.float32)
    with pyro.settings.context(module_local_params=local):
        loss = dv.TraceDenoising_ELBO(num_corruptions=2, num_particles=3, max_plate_nesting=1).loss_and_grads(
            dvae.model, dvae.guide, x
        )
    assert loss == loss
    for parameter_name, parameter in network.named_parameters():
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
    kind, chosen = VARIANTS[name]
    sizes = {"data_size": D, "latent_size": d, argument: value}
    expected = "a whole number"
    if argument not in arguments(kind):
        argument, expected = "columns", "a kind for each column"
    with pytest.raises(InputError, match=f"^{argument}: expected {expected}"):
        create(kind, **sizes, **chosen)


WITH = {
    "activation": ("gelo", "activation: unknown name 'gelo'"),
    "hidden_sizes": ((), "hidden_sizes: expected at least one layer size"),
    "channels": ((), "channels: expected at least one number of maps"),
    "kernel_size": (4, "kernel_size: expected an odd number"),
    "image_shape": ((3, 5), "image_shape: expected .* with product 16, got \\(3, 5\\)"),
    "likelihood": ("bernouli", "likelihood: unknown name 'bernouli'"),
    "scale": ("pixel", "scale: unknown name 'pixel'"),
    "library": ("rows", "library: unknown name 'rows'"),
    "typical_total": (0.0, "typical_total: expected a number above 0"),
    "rank": (0, "rank: expected a whole number of at least 1"),
    "covariance": (torch.ones(D, D), "covariance: expected a positive definite matrix"),
    "loc": (torch.ones(3), "loc: expected shape"),
    "mixture": ("yes", "mixture: expected True or False"),
    "levels": (1, "levels: expected a whole number of at least 2"),
    "zero_inflated": ("yes", "zero_inflated: expected True or False"),
    "maximum_logit": (0.0, "maximum_logit: expected a number above 0"),
    "minimum_scale": (-1.0, "minimum_scale: expected a number"),
    "hidden_size": (0, "hidden_size: expected a whole number"),
    "steps": (0, "steps: expected a whole number"),
}


@pytest.mark.parametrize(
    ("kind", "option"), [(kind, option) for kind in CLASSES for option in arguments(kind) if option in WITH]
)
def test_bad_options_are_refused(kind, option):
    value, message = WITH[option]
    with pytest.raises(InputError, match=f"^{message}"):
        create(kind, D, d, **{option: value})
