"""The contract of every exported prior: built from two sizes, any leading dims and dtype, any bound."""

import copy
import itertools

import pyro
import pytest
import torch
from torch import nn

import pyro_dvae as dv
from pyro_dvae import priors
from pyro_dvae.engine import record
from pyro_dvae.errors import InputError
from pyro_dvae.networks import BernoulliDecoder

D, d = 6, 4
CLASSES = {name: getattr(priors, name) for name in priors.__all__ if name != "Prior"}


def build(name):
    return CLASSES[name].of_sizes(D, d)


@pytest.fixture(params=CLASSES)
def name(request):
    torch.manual_seed(0)
    return request.param


def like(dtype=torch.float64):
    return torch.zeros(3, D, dtype=dtype)


class PriorAsGuide(nn.Module):
    """A guide with the support of a prior: a second prior of its class."""

    def __init__(self, prior):
        super().__init__()
        self.prior = prior

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.prior(x))


def pair(name, dtype=torch.float64):
    model = dv.LatentVariableModel(BernoulliDecoder(D, d, (5,)), build(name))
    return model.to(dtype), PriorAsGuide(build(name)).to(dtype)


def data(dtype=torch.float64):
    return (torch.rand(5, D) > 0.5).to(dtype)


def test_it_is_a_prior_of_its_size(name):
    prior = build(name)
    assert isinstance(prior, priors.Prior)
    assert prior.latent_size == d


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_types_and_supports(name, dtype):
    fn = build(name).to(dtype)(like(dtype))
    assert (fn.batch_shape, fn.event_shape) == ((), (d,))
    z = fn.sample((500,))
    assert (z.shape, z.dtype) == ((500, d), dtype)
    assert fn.support.check(z).all()
    assert fn.log_prob(z).dtype == dtype
    assert torch.isfinite(fn.log_prob(z)).all()


@pytest.mark.parametrize("leading", [(), (3,), (4, 2, 3), (4, 1, 2, 3)])
def test_leading_dims_are_computed_one_by_one(name, leading):
    prior = build(name).double()
    wide = prior(like()).expand(leading)
    z = wide.sample()
    assert z.shape == (*leading, d)
    batched, code = wide.log_prob(z), prior.code(z)
    broadcast = prior(like()).log_prob(z)
    assert (batched.shape, code.shape) == (leading, z.shape)
    for index in itertools.product(*map(range, leading)):
        single = prior(like()).log_prob(z[index])
        torch.testing.assert_close(batched[index], single, rtol=0, atol=1e-12)
        torch.testing.assert_close(broadcast[index], single, rtol=0, atol=1e-12)
        torch.testing.assert_close(code[index], prior.code(z[index]), rtol=0, atol=1e-15)


def test_single_precision_agrees_with_double(name):
    prior = build(name)
    double = copy.deepcopy(prior).double()
    z = prior(like(torch.float32)).sample((50,))
    exact = double(like()).log_prob(z.double())
    torch.testing.assert_close(prior(like(torch.float32)).log_prob(z).double(), exact, rtol=1e-4, atol=1e-4)
    assert prior.code(z).dtype == torch.float32


def test_the_type_is_that_of_the_data_for_any_module(name):
    fn = build(name).double()(like())
    assert fn.log_prob(fn.sample()).dtype == torch.float64


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_the_accelerator_agrees_with_the_processor(name):
    prior = build(name).double()
    z = prior(like()).sample((50,))
    expected = prior(like()).log_prob(z)
    fn = copy.deepcopy(prior).cuda()(like().cuda())
    torch.testing.assert_close(fn.log_prob(z.cuda()).cpu(), expected, rtol=0, atol=1e-9)
    assert fn.sample().device.type == "cuda"
    assert fn.support.check(fn.sample((50,))).all()


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize(
    "bound",
    [
        dv.TraceDenoising_ELBO(),
        dv.TraceDenoising_ELBO(num_corruptions=2, num_particles=3),
        dv.TraceMeanFieldDenoising_ELBO(num_corruptions=2, num_particles=3),
        dv.TraceDenoisingIWAE_ELBO(num_corruptions=2, num_particles=3),
    ],
    ids=lambda bound: f"{type(bound).__name__}{bound.num_particles}",
)
def test_gradients_reach_every_parameter(name, bound, local):
    with pyro.settings.context(module_local_params=local):
        model, guide = pair(name)
        x = data()
        bound.loss_and_grads(model, guide, x)
        for parameter_name, parameter in model.named_parameters():
            assert parameter.grad is not None, parameter_name
            assert torch.count_nonzero(parameter.grad) > 0, parameter_name
        assert bound.per_datum(model, guide, x).shape == (5,)


def test_its_parameters_are_registered(name):
    model, _ = pair(name)
    trace = pyro.poutine.trace(model, param_only=True).get_trace(data())
    found = {id(site["value"]) for site in trace.nodes.values() if site["type"] == "param"}
    assert {id(parameter) for parameter in model.parameters()} <= found


def test_its_density_can_be_recorded(name):
    prior = build(name).double()
    z = prior(like()).sample((7,))
    graph = record(lambda z: prior(z).log_prob(z) + prior.code(z).sum(-1), z)
    other = prior(like()).sample((7,))
    torch.testing.assert_close(graph(other), prior(like()).log_prob(other) + prior.code(other).sum(-1))


def test_state_dict_round_trip(name, tmp_path):
    prior, other = build(name).double(), build(name).double()
    z = prior(like()).sample((5,))
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter)
    expected = prior(like()).log_prob(z)
    torch.save(prior.state_dict(), tmp_path / "prior.pt")
    other.load_state_dict(torch.load(tmp_path / "prior.pt", weights_only=True))
    assert torch.equal(other(like()).log_prob(z), expected)


def test_copies_are_independent(name):
    prior = build(name)
    other = copy.deepcopy(prior)
    z = prior(like(torch.float32)).sample((5,))
    before = prior(like(torch.float32)).log_prob(z)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    assert torch.equal(prior(like(torch.float32)).log_prob(z), before)


@pytest.mark.parametrize("value", [0, -3, 2.0, "4", None, True])
def test_bad_sizes_are_refused(name, value):
    with pytest.raises(InputError, match=r"^latent_size: expected a whole number"):
        CLASSES[name].of_sizes(D, value)
