"""Training refuses a module, or tells of it, if Pyro's store has another parameter of its name."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from pyro.nn import PyroModule
from torch import nn

import pyro_dvae as dv

D = 2


def data(rows=12):
    return torch.randn(rows, D, generator=torch.Generator().manual_seed(0))


class Programs:
    """Functions of plain modules that are in no attribute, as in a notebook."""

    def __init__(self, decoder=None, names=("decoder", "encoder")):
        decoder = nn.Linear(D, D) if decoder is None else decoder
        encoder = nn.Linear(D, D)
        self.parts = (decoder, encoder)

        def model(x):
            pyro.module(names[0], decoder)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), D), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

        def guide(x):
            pyro.module(names[1], encoder)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(encoder(x), 1.0).to_event(1))

        self.model, self.guide = model, guide


class NamedAlike:
    """Two PyroModules whose networks have one name, ``net``."""

    class Decoding(PyroModule):
        def __init__(self):
            super().__init__()
            self.net = PyroModule[nn.Linear](D, D)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), D), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.net(z), 1.0).to_event(1), obs=x)

    class Encoding(PyroModule):
        def __init__(self):
            super().__init__()
            self.net = PyroModule[nn.Linear](D, D)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.net(x), 1.0).to_event(1))

    def __init__(self):
        self.model, self.guide = self.Decoding(), self.Encoding()
        self.parts = (self.model.net, self.guide.net)


def fit(pair, **options):
    return dv.fit(
        pair.model, pair.guide, data(), loss=dv.TraceDenoising_ELBO(), epochs=2, progress=False, **options
    )


def moved(pair, action):
    """Return which of a pair's modules an action changes."""
    before = [part.weight.detach().clone() for part in pair.parts]
    action(pair)
    return [not torch.equal(part.weight, old) for part, old in zip(pair.parts, before, strict=True)]


def test_the_modules_of_an_earlier_run_are_not_trained_in_place_of_new_ones():
    first, second = Programs(), Programs()
    assert moved(first, fit) == [True, True]
    assert moved(first, fit) == [True, True]  # the same modules may be trained further
    with pytest.raises(dv.InputError, match=r"'encoder\$\$\$weight' of an earlier module.*clear_param_store"):
        fit(second)
    dv.log_likelihood(
        second.model, second.guide, data(), num_samples=5, progress=False
    )  # changes none of them
    assert moved(Programs(names=("other decoder", "other encoder")), fit) == [True, True]
    assert "call pyro.clear_param_store()" in str(dv.check(second.model, second.guide, data()))
    pyro.clear_param_store()
    assert moved(second, fit) == [True, True]
    assert dv.check(second.model, second.guide, data()).ok


@pytest.mark.usefixtures("interpreted")
@pytest.mark.filterwarnings("ignore:training by uncompiled steps")  # as these parameters are not Pyro's
def test_compiled_steps_tell_of_modules_that_they_do_not_train():
    def steps(pair):
        svi = dv.CompiledSVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.1}), dv.TraceDenoising_ELBO())
        for _ in range(4):
            svi.step(data())

    first = Programs()
    for _ in range(2):
        assert moved(first, steps) == [True, True]
    with pytest.warns(UserWarning, match=r"'\w+\$\$\$weight' of an earlier module.*clear_param_store"):
        assert moved(Programs(), steps) == [False, False]
    with pytest.warns(UserWarning, match=r"two modules have a parameter 'net\$\$\$weight'"):
        steps(Programs(names=("net", "net")))
    pyro.clear_param_store()
    assert moved(Programs(), steps) == [True, True]


def test_two_modules_of_one_name_are_refused_unless_their_parameters_are_local():
    with pyro.settings.context(module_local_params=False):
        with pytest.raises(
            dv.InputError, match=r"two modules have a parameter 'net\.weight'.*module_local_params"
        ):
            fit(NamedAlike())
        with pytest.raises(dv.InputError, match=r"two modules have a parameter 'net\$\$\$weight'"):
            fit(Programs(names=("net", "net")))
    with pyro.settings.context(module_local_params=True):
        assert moved(NamedAlike(), fit) == [True, True]


def test_a_copy_in_another_memory_format_is_refused():
    class Images(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = nn.Conv2d(2, 2, 1 + 1)
            self.to(memory_format=torch.channels_last)

        def forward(self, z):
            return self.convolution(z[..., None, None].expand(*z.shape, 2, 2)).flatten(-3)

    with pytest.raises(
        dv.InputError, match=r"contiguous copy of parameter 'decoder\$\$\$convolution\.weight'"
    ):
        fit(Programs(Images()))
    pyro.clear_param_store()
    pair = Programs(Images().to(memory_format=torch.contiguous_format))
    pair.parts = (pair.parts[0].convolution, pair.parts[1])
    assert moved(pair, fit) == [True, True]


@pytest.mark.usefixtures("interpreted")
def test_pairs_of_modules_of_the_same_names_train_side_by_side():
    pairs = [Programs(), Programs()]
    before = [part.weight.detach().clone() for pair in pairs for part in pair.parts]
    dv.fit_many(
        [(pair.model, pair.guide) for pair in pairs],
        data(),
        loss=dv.TraceDenoising_ELBO(),
        epochs=2,
        progress=False,
    )
    after = [part.weight for pair in pairs for part in pair.parts]
    assert not any(torch.equal(*each) for each in zip(before, after, strict=True))


def shared_mean(size):
    def model(x):
        mean = pyro.sample("mean", dist.Normal(torch.zeros(size), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    return model


@pytest.mark.parametrize("kind", [AutoNormal, AutoDiagonalNormal])
def test_a_guide_that_starts_from_the_values_of_an_earlier_one_is_told(kind):
    options = {"loss": dv.TraceDenoising_ELBO(), "epochs": 1, "progress": False}
    model, x = shared_mean(D), data()
    guide = kind(model)
    for _ in range(2):  # its own values are no others'
        dv.fit(model, guide, x, **options)
    told = r"guide\.loc\S* takes its value from .* earlier module .*clear_param_store"
    with pytest.warns(UserWarning, match=told):
        dv.fit(model, kind(model), x, **options)
    wider = shared_mean(D + 1)
    with pytest.raises(dv.InputError, match=told):
        dv.fit(wider, kind(wider), torch.zeros(12, D + 1), **options)
    pyro.clear_param_store()
    dv.fit(wider, kind(wider), torch.zeros(12, D + 1), **options)
