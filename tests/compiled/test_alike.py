"""The recording of one program, used for another of the same structure."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_dvae as dv
from pyro_dvae.engine import Unrecordable
from pyro_dvae.engine.alike import alike
from pyro_dvae.engine.gradient import constants, difference
from pyro_dvae.engine.step import Numerics, record_for

X = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)


class Network(nn.Module):
    """A user's network: a Python number, an activation, a buffer, and a tensor in no buffer."""

    def __init__(self, seed, limit=50.0, activation=torch.tanh, scale=1.0, units=5):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(3, units, generator=generator, dtype=torch.float64))
        self.register_buffer("shift", torch.randn(units, generator=generator, dtype=torch.float64))
        self.scale = torch.tensor(scale, dtype=torch.float64)
        self.limit, self.activation = limit, activation

    def forward(self, x):
        return (self.activation(x @ self.weight + self.shift) * self.scale).clamp(max=self.limit)


class Stretched(Network):
    def forward(self, x):
        return super().forward(x) + 0 * x.sum()


def program(network):
    """Return the arguments of a recording: a noisy loss with its gradient, the leaves, and the programs."""

    def loss_and_grads(x):
        loss = (network(x) * torch.randn(4, 5, dtype=torch.float64)).square().sum()
        loss.backward()
        return loss

    return loss_and_grads, list(network.parameters()), [X], (network,)


def found(first, other):
    """Return what ``alike`` finds for two networks."""
    recorded = record_for(*program(first)[:3], Numerics("hashed"), (first,))
    return alike(recorded, list(first.parameters()), *program(other))


def test_a_network_with_other_weights_has_the_recording_that_it_would_get():
    other = Network(1, scale=3.0)
    made = found(Network(0), other)
    recorded = record_for(*program(other)[:3], Numerics("hashed"), (other,))
    assert difference(made.recording.graph, recorded.recording.graph) is None
    assert [id(each) for each in constants(made.graph).values()] == [id(other.shift), id(other.scale)]
    assert [id(leaf) for leaf in made.leaves] == [id(other.weight)]
    keys = torch.tensor([[3, 4]], dtype=torch.int32)
    assert torch.equal(made.loss([X], [keys]), recorded.loss([X], [keys]))
    # It compares itself with its own program later.
    assert made.disagreement([X]) is None
    assert made.recording.surroundings.unchanged()
    other.limit = 0.1
    assert not made.recording.surroundings.unchanged()
    assert "0.1" in made.change([X])


@pytest.mark.parametrize(
    "other",
    [
        Network(1, limit=60.0),  # makes no difference on this batch
        Network(1, activation=torch.sigmoid),
        Network(1, activation=lambda x: torch.tanh(x)),
        Stretched(1),
    ],
    ids=["number", "function", "lambda", "class"],
)
def test_another_program_has_to_be_recorded(other):
    assert found(Network(0), other) is None


def test_closures_are_compared_by_their_contents():
    def times(factor):
        return lambda x: factor * x

    assert found(Network(0, activation=times(2.0)), Network(1, activation=times(2.0))) is not None
    assert found(Network(0, activation=times(2.0)), Network(1, activation=times(2.5))) is None


def test_a_program_that_can_read_an_iterator_has_to_be_recorded():
    class Iterating(Network):
        def __init__(self, seed):
            super().__init__(seed)
            self.names = iter(["a", "b"])

        def forward(self, x):
            return super().forward(x) if self.names is not None else x

    assert found(Iterating(0), Iterating(1)) is None


def test_a_program_that_changes_a_number_is_refused():
    class Counting(Network):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return super().forward(x)

    network = Network(0)
    recorded = record_for(*program(network)[:3], Numerics("hashed"), (network,))
    with pytest.raises(Unrecordable, match="itself changes Counting's 'calls'"):
        alike(recorded, list(network.parameters()), *program(Counting(1)))


def pair(seed, prior_scale, limit=9.0):
    """Return a user's model and guide with a tensor and a number in their closures."""
    torch.manual_seed(seed)
    encoder, decoder = nn.Linear(6, 4), nn.Linear(2, 6)
    scale = torch.tensor(prior_scale)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), scale).to_event(1))
            logits = decoder(z).clamp(max=limit)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("rows", len(x)):
            loc, log_scale = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return model, guide


ROWS = (torch.rand(40, 6, generator=torch.Generator().manual_seed(0)) < 0.4).float()
OPTIONS = {"epochs": 3, "batch_size": 20, "progress": False}


@pytest.mark.slow
def test_models_that_differ_in_a_tensor_train_as_alone(interpreted):
    bound, scales = dv.TraceDenoising_ELBO(max_plate_nesting=1), (1.0, 0.3, 2.0)
    pairs = [pair(seed, scale) for seed, scale in enumerate(scales)]
    together = dv.fit_many(pairs, ROWS, loss=bound, **OPTIONS)
    for seed, (scale, one) in enumerate(zip(scales, together, strict=True)):
        pyro.clear_param_store()
        alone = dv.fit(*pair(seed, scale), ROWS, loss=bound, seed=seed, compile=True, **OPTIONS)
        assert one.history.train_bound == pytest.approx(alone.history.train_bound, rel=1e-5)


def test_models_that_differ_in_a_number_are_refused(interpreted):
    bound = dv.TraceDenoising_ELBO(max_plate_nesting=1)
    with pytest.raises(dv.InputError, match=r"pairs\[1\]: expected a program like the first one's.*clamp"):
        dv.fit_many([pair(0, 1.0), pair(1, 1.0, limit=8.0)], ROWS, loss=bound, **OPTIONS)
