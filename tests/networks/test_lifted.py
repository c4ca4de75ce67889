"""A lifted module computes for each leading index what the module alone computes, gradients included."""

import pickle
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_dvae as dv
from pyro_dvae.errors import InputError
from pyro_dvae.networks import Lifted


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)


class Pair(NamedTuple):
    loc: torch.Tensor
    scale: torch.Tensor


class Many(nn.Module):
    def forward(self, x):
        sums = x.flatten(1).sum(1)
        return {"tuple": (sums, x), "list": [x.exp()], "pair": Pair(sums, sums.exp())}


class Sum(nn.Module):
    def forward(self, x, y):
        return x.flatten(1).sum(1, keepdim=True) * y


class Of(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize("leading", [(), (1,), (5,), (2, 3), (2, 1, 3), (0,), (2, 0)])
def test_each_row_is_the_modules_own(leading):
    conv = nn.Conv2d(3, 4, 3, padding=1)
    x = torch.randn(*leading, 3, 6, 5)
    found = Lifted(conv, 3)(x)
    assert found.shape == (*leading, 4, 6, 5)
    for row, image in zip(found.reshape(-1, 4, 6, 5), x.reshape(-1, 3, 6, 5), strict=True):
        torch.testing.assert_close(row, conv(image[None])[0])


def test_gradients_are_the_sum_over_the_rows():
    conv, x = nn.Conv2d(3, 4, 3), torch.randn(2, 3, 3, 6, 5, requires_grad=True)
    weight = torch.randn(2, 3, 4, 4, 3)
    lifted = torch.autograd.grad((weight * Lifted(conv, 3)(x)).sum(), [x, *conv.parameters()])
    rows = [(weight[i, j] * conv(x[i, j][None])[0]).sum() for i in range(2) for j in range(3)]
    for ours, theirs in zip(lifted, torch.autograd.grad(sum(rows), [x, *conv.parameters()]), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_every_tensor_of_an_output_gets_the_leading_dimensions():
    x = torch.randn(2, 3, 4, 5)
    found = Lifted(Many(), 2)(x)
    assert torch.equal(found["tuple"][0], x.flatten(2).sum(2))
    assert torch.equal(found["tuple"][1], x)
    assert torch.equal(found["list"][0], x.exp())
    assert isinstance(found["pair"], Pair)
    assert torch.equal(found["pair"].scale, x.flatten(2).sum(2).exp())


def test_leading_dimensions_of_several_inputs_are_broadcast():
    x, y = torch.randn(4, 1, 3, 2, 2), torch.randn(5, 3, 1)
    found = Lifted(Sum(), (2, 1))(x, y)
    torch.testing.assert_close(found, x.sum((-1, -2)).unsqueeze(-1) * y)
    table, labels = nn.Embedding(3, 2), torch.tensor([[0, 2], [1, 1]])
    assert torch.equal(Lifted(table, [0])(labels), table.weight[labels])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Lifted(torch.sin, 3), r"module: expected a torch\.nn\.Module"),
        (lambda: Lifted(nn.ReLU(), -1), "event_dim: expected a whole number of at least 0, got -1"),
        (lambda: Lifted(nn.ReLU(), "3"), "event_dim: expected a whole number"),
        (lambda: Lifted(nn.ReLU(), ()), "event_dim: expected at least one number"),
        (lambda: Lifted(nn.ReLU(), 3)(torch.ones(2, 2)), r"at least event_dim = 3 dimensions, got \(2, 2\)"),
        (lambda: Lifted(nn.ReLU(), 1)([1.0]), "inputs: expected a tensor, got list"),
        (lambda: Lifted(Sum(), 1)(torch.ones(2), torch.ones(2)), "inputs: expected 1, .* got 2"),
        (lambda: Lifted(Of(lambda x: x.sum()), 1)(torch.ones(3, 2)), r"an output of 3 rows, .* got \(\)"),
        (lambda: Lifted(Of(lambda x: x[1:]), 1)(torch.ones(3, 2)), r"an output of 3 rows, .* got \(2, 2\)"),
        (
            lambda: Lifted(Of(lambda x: dist.Normal(x, 1.0)), 1)(torch.ones(3, 2)),
            "expected tensors as output, got Normal; lift only the part",
        ),
    ],
)
def test_what_cannot_be_lifted_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_a_pickle_computes_the_same():
    lifted, x = Lifted(nn.Conv1d(2, 3, 2), 2), torch.randn(2, 3, 2, 4)
    assert torch.equal(pickle.loads(pickle.dumps(lifted))(x), lifted(x))


class ByHand(nn.Module):
    """Lifted for images, written out."""

    def __init__(self, module, event_dim):
        super().__init__()
        self.module, self.event_dim = module, event_dim

    def forward(self, x):
        leading = x.shape[: -self.event_dim]
        return self.module(x.flatten(0, -self.event_dim - 1)).unflatten(0, leading)


class Program(nn.Module):
    """Model and guide of images with networks of [N, C, H, W], lifted or not."""

    def __init__(self, lift):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = lift(
            nn.Sequential(nn.Conv2d(2, 3, 3, 2, 1), nn.Tanh(), nn.Flatten(), nn.Linear(12, 2)), 3
        )
        self.decoder = lift(nn.Sequential(nn.Linear(2, 12), nn.Unflatten(1, (3, 2, 2)),
                                          nn.ConvTranspose2d(3, 2, 3, 2, 1, 1)), 1)  # fmt: skip

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(3), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            x_tilde = dv.corrupt("x_tilde", dv.SaltAndPepper(0.1), x, event_dim=3)
            pyro.sample("z", dist.Normal(self.encoder(x_tilde), 0.5).to_event(1))


X = torch.bernoulli(
    torch.full((6, 2, 4, 4), 0.5, dtype=torch.float64), generator=torch.Generator().manual_seed(0)
)


def test_several_draws_and_a_likelihood_need_it():
    bare, lifted = Program(lambda module, _: module), Program(Lifted)
    bound = dv.TraceDenoising_ELBO(num_corruptions=2, num_particles=3)
    with pytest.raises(InputError, match=r"dv\.networks\.Lifted wraps a network of \[N, \.\.\.\]"):
        bound.loss(bare.model, bare.guide, X)
    one = dv.TraceDenoising_ELBO()
    losses = []
    for program in (bare, lifted):
        pyro.clear_param_store()
        torch.manual_seed(1)
        losses.append(one.loss(program.model, program.guide, X))
    assert losses[0] == losses[1]
    pyro.clear_param_store()
    estimate = dv.log_likelihood(
        lifted.model, lifted.guide, X, num_samples=50, seed=0, progress=False, compile=False
    )
    assert bool(torch.isfinite(estimate.log_likelihood).all())


@pytest.mark.parametrize("steps", ["recorded", pytest.param("compiled", marks=pytest.mark.slow)])
def test_compiled_steps_equal_those_of_a_module_lifted_by_hand(steps, request):
    if steps == "recorded":  # the recording alone: a compiler takes minutes
        request.getfixturevalue("interpreted")
    found = []
    for lift in (ByHand, Lifted):
        pyro.clear_param_store()
        program = Program(lift)
        loss = dv.TraceDenoising_ELBO(num_corruptions=2, num_particles=2)
        fitted = dv.fit(
            program.model, program.guide, X, loss=loss, epochs=2, batch_size=3, progress=False, compile=True
        )
        found.append(fitted.history.train_bound)
    assert found[0] == found[1]
