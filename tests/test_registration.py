import copy
import inspect
import warnings

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroModule, PyroParam
from torch import nn

from pyro_dvae import DVAE, BitFlip, GaussianNoise, TraceDenoising_ELBO
from pyro_dvae.errors import InputError
from pyro_dvae.networks import BernoulliDecoder, GaussianEncoder
from pyro_dvae.registration import asked_name, register


def test_a_part_has_the_signature_of_its_constructor():
    names = [each.name for each in inspect.signature(BitFlip).parameters.values()]
    assert names == ["rate", "learnable", "minimum", "temperature"]

    class Own(BitFlip):
        def __init__(self, rate, *, colour):
            super().__init__(rate)

    assert str(inspect.signature(Own)) == "(rate, *, colour)"


class Layer(nn.Module):
    def __init__(self, size=2):
        super().__init__()
        self.inner = nn.Linear(size, 3)
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.register_buffer("level", torch.ones(1))


NAMES = ["net$$$inner.weight", "net$$$inner.bias"]


def announced(statement):
    trace = poutine.trace(statement).get_trace()
    return {name: site["value"] for name, site in trace.nodes.items() if site["type"] == "param"}


@pytest.mark.parametrize("local", [False, True])
def test_trainable_parameters_are_announced_under_pyros_names(local):
    module = Layer()
    with pyro.settings.context(module_local_params=local):
        found = announced(lambda: register("net", module))
    assert list(found) == NAMES
    assert found[NAMES[0]] is module.inner.weight
    assert found[NAMES[1]].unconstrained() is module.inner.bias
    assert list(pyro.get_param_store()) == ([] if local else NAMES)


def test_names_and_values_equal_those_of_pyro_module():
    module = Layer()
    module.eval()
    expected = announced(lambda: pyro.module("net", module))
    pyro.clear_param_store()
    found = announced(lambda: register("net", module))
    assert list(found) == list(expected)
    assert all(found[name] is expected[name] for name in expected)


@pytest.mark.parametrize("local", [False, True])
def test_stock_svi_finds_and_updates_them(local):
    module = Layer()

    def model():
        register("net", module)
        pyro.factor("loss", -module.inner(torch.ones(2)).square().sum())

    with pyro.settings.context(module_local_params=local):
        before = [value.detach().clone() for value in module.inner.parameters()]
        svi = SVI(model, lambda: None, pyro.optim.SGD({"lr": 0.1}), Trace_ELBO())
        first = svi.step()
        for _ in range(20):
            last = svi.step()
    assert last < 0.1 * first
    assert all(not torch.equal(a, b) for a, b in zip(before, module.inner.parameters(), strict=True))
    assert torch.equal(module.frozen, torch.ones(2))


def test_registering_again_changes_nothing_and_is_silent():
    module = Layer()
    register("net", module)
    parameters = list(module.parameters())
    register("net", module)
    assert all(a is b for a, b in zip(parameters, module.parameters(), strict=True))
    assert list(pyro.get_param_store()) == NAMES


def test_a_parameter_keeps_the_name_it_had_first():
    outer = nn.Sequential(Layer(), Layer())
    register("outer", outer)
    found = announced(lambda: register("inner", outer[0]))
    assert list(found) == ["outer$$$0.inner.weight", "outer$$$0.inner.bias"]
    assert found["outer$$$0.inner.weight"] is outer[0].inner.weight
    assert len(pyro.get_param_store()) == 4


def test_modules_of_one_name_keep_their_own_parameters_silently():
    first, second = Layer(), Layer(4)
    wanted = [*first.inner.parameters(), *second.inner.parameters()]
    for _ in range(2):
        register("net", first)
        found = announced(lambda: register("net", second))
    assert list(found) == [f"{name}#2" for name in NAMES]
    assert all(
        a is b for a, b in zip(wanted, [*first.inner.parameters(), *second.inner.parameters()], strict=True)
    )
    assert [asked_name("", leaf) for leaf in second.inner.parameters()] == NAMES


def test_a_module_made_in_each_call_keeps_the_stored_values():
    first, second = Layer(), Layer()
    register("net", first, by_name=True)
    with pytest.warns(UserWarning, match=r"net\$\$\$inner.* earlier module .*clear_param_store") as caught:
        register("net", second, by_name=True)
    assert len(caught) == 2
    assert second.inner.weight is first.inner.weight
    assert second.inner.bias is first.inner.bias
    register("net", second)  # silent: warnings are errors in these tests


def test_two_ready_made_models_train_side_by_side_as_each_alone():
    def model(seed):
        pyro.set_rng_seed(seed)
        return DVAE(
            GaussianEncoder(3, 1, (4,)), BernoulliDecoder(3, 1, (4,)), GaussianNoise(0.3, learnable=True)
        )

    def trained(pairs):
        x = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
        svis = [
            SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.1}), TraceDenoising_ELBO()) for pair in pairs
        ]
        for step in range(4):
            for svi in svis:
                pyro.set_rng_seed(step)
                svi.step(x)
        return [{k: v.clone() for k, v in pair.state_dict().items()} for pair in pairs]

    together = trained([model(1), model(2)])
    for seed, state in zip((1, 2), together, strict=True):
        pyro.clear_param_store()
        (alone,) = trained([model(seed)])
        assert all(torch.equal(alone[name], state[name]) for name in alone)


def test_a_restored_store_reaches_the_module(tmp_path):
    first = Layer()
    register("net", first)
    pyro.get_param_store().save(tmp_path / "store.pt")
    pyro.clear_param_store()
    pyro.get_param_store().load(tmp_path / "store.pt")
    second = Layer()
    with pytest.warns(UserWarning, match=r"takes its value"):
        register("net", second)
    torch.testing.assert_close(second.inner.weight, first.inner.weight, rtol=0, atol=0)
    (gradient,) = torch.autograd.grad(second.inner(torch.ones(2)).sum(), pyro.param(NAMES[1]).unconstrained())
    assert torch.equal(gradient, torch.ones(3))


def test_another_shape_under_the_same_name_is_refused_and_changes_nothing():
    class Reordered(nn.Module):
        """Its first parameter fits the one in the store, its second does not."""

        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(2, 3)
            self.inner.bias = nn.Parameter(torch.zeros(4))

    register("net", Layer())
    pyro.get_param_store().set_state(copy.deepcopy(pyro.get_param_store().get_state()))  # as if loaded
    module = Reordered()
    weight = module.inner.weight
    with pytest.raises(
        InputError, match=r"^net\$\$\$inner.bias: .* shape \(3,\), the module has \(4,\); .*clear_param"
    ):
        register("net", module)
    assert module.inner.weight is weight
    assert list(pyro.get_param_store()) == NAMES


def test_with_local_parameters_modules_of_one_name_are_independent():
    first, second = Layer(2), Layer(4)
    with pyro.settings.context(module_local_params=True):
        register("net", first)
        found = announced(lambda: register("net", second))
    assert found[NAMES[0]] is second.inner.weight
    assert first.inner.weight is not second.inner.weight
    assert len(pyro.get_param_store()) == 0


def test_another_memory_format_is_no_earlier_module():
    """The store keeps a contiguous copy, which the module must use, or its gradient would be lost."""
    module = nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
    before = module.weight.detach().clone()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register("net", module)
        register("net", module)
    assert module.weight is pyro.param("net$$$weight").unconstrained()
    assert torch.equal(module.weight, before)


def test_constrained_parameters_of_a_pyro_module():
    class Noise(PyroModule):
        def __init__(self):
            super().__init__()
            self.scale = PyroParam(torch.tensor(0.5), dist_positive)

    dist_positive = pyro.distributions.constraints.positive
    module = Noise()
    register("noise", module)
    assert list(pyro.get_param_store()) == ["noise$$$scale_unconstrained"]
    assert float(module.scale.detach()) == pytest.approx(0.5)
