"""A compiled loss in a user's own loop, compared with the loss itself."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import LinearGaussian
from pyro.infer import Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from torch import nn

import pyro_dvae as dv
from pyro_dvae.engine import compiler

pytestmark = pytest.mark.usefixtures("interpreted")

COMPILED = compiler._compiled
BOUNDS = {
    "denoising": lambda: dv.TraceDenoising_ELBO(max_plate_nesting=1),
    "Trace_ELBO": Trace_ELBO,
    "TraceMeanField_ELBO": TraceMeanField_ELBO,
    "without a differentiable loss": TraceGraph_ELBO,
}


def data(count, seed=5):
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain(problem, bound):
    """Return the loss with its gradients, by the bound itself."""

    def loss(x):
        before = [p.grad for p in problem.parameters()]
        for p in problem.parameters():
            p.grad = None
        value = bound.loss_and_grads(problem.model, problem.guide, x)
        gradients = [p.grad for p in problem.parameters()]
        for p, grad in zip(problem.parameters(), before, strict=True):
            p.grad = grad
        return _Given(value, gradients, list(problem.parameters()))

    return loss


class _Given:
    """A loss whose backward pass adds known gradients."""

    def __init__(self, value, gradients, parameters):
        self.value, self.gradients, self.parameters = value, gradients, parameters

    def detach(self):
        return self.value

    def __mul__(self, factor):
        return _Given(
            self.value * factor, [g if g is None else g * factor for g in self.gradients], self.parameters
        )

    def backward(self):
        for p, grad in zip(self.parameters, self.gradients, strict=True):
            if grad is not None:
                p.grad = grad.clone() if p.grad is None else p.grad + grad


class Loop:
    """Lightning's training step: accumulation, scaling, clipping, a schedule."""

    def __init__(self, loss, parameters, accumulate=2, clip=0.5):
        self.loss, self.parameters = loss, list(parameters)
        self.accumulate, self.clip = accumulate, clip
        self.optimizer = torch.optim.RAdam(self.parameters, lr=0.05)
        self.schedule = torch.optim.lr_scheduler.StepLR(self.optimizer, 2, 0.7)

    def fit(self, batches):
        found = []
        for number, batch in enumerate(batches, start=1):
            loss = self.loss(batch)
            (loss * (1 / self.accumulate)).backward()
            found.append(float(loss.detach()))
            if number % self.accumulate == 0:
                nn.utils.clip_grad_norm_(self.parameters, self.clip)
                self.optimizer.step()
                self.optimizer.zero_grad()
                self.schedule.step()
        return found


@pytest.mark.parametrize("bound", BOUNDS.values(), ids=BOUNDS)
def test_a_loop_with_accumulation_and_clipping(bound):
    results = []
    for compiled in (False, True):
        pyro.clear_param_store()
        problem = LinearGaussian()
        loss = plain(problem, bound())
        if compiled:
            loss = dv.compile_loss(problem.model, problem.guide, bound())
        pyro.set_rng_seed(3)
        losses = Loop(loss, problem.parameters()).fit([data(8, seed) for seed in range(10)])
        results.append((losses, [p.detach().clone() for p in problem.parameters()]))
    assert loss.recorded == 1
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-9)
    for one, other in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


def test_the_compiler(monkeypatch):
    monkeypatch.setattr(compiler, "_compiled", COMPILED)
    problem, said = LinearGaussian(), []
    bound = BOUNDS["denoising"]()
    loss = dv.compile_loss(problem.model, problem.guide, bound, say=said.append)
    loss(data(8))
    pyro.set_rng_seed(4)
    expected = plain(problem, bound)(data(8, 2))
    pyro.set_rng_seed(4)
    found = loss(data(8, 2))
    found.backward()
    assert found.item() == pytest.approx(expected.value, rel=1e-9)
    for p, grad in zip(problem.parameters(), expected.gradients, strict=True):
        torch.testing.assert_close(p.grad, grad, rtol=1e-7, atol=1e-9)
    assert said[0] == "compiling the loss for arguments of shape (8, 3) ..."
    assert said[1].startswith("compiled in ")


def test_parameters_of_functions_are_known_after_a_call():
    def model(x):
        scale = pyro.param("scale", torch.tensor(2.0), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, scale).to_event(0), obs=x)

    loss = dv.compile_loss(model, lambda x: None, Trace_ELBO(), say=lambda message: None)
    x = torch.linspace(-1, 1, 5)
    assert list(loss.parameters()) == []
    loss(x)
    (leaf,) = loss.parameters()
    assert leaf.item() == pytest.approx(torch.tensor(2.0).log().item())  # unconstrained
    for _ in range(2):
        leaf.grad = None
        value = loss(x)
        value.backward()
        # d/d log s of N log s + sum x² / 2s²
        assert float(leaf.grad) == pytest.approx(5 - float((x**2).sum()) / 4, rel=1e-5)


def test_without_gradients_there_are_none():
    problem = LinearGaussian()
    loss = dv.compile_loss(problem.model, problem.guide, BOUNDS["denoising"](), say=lambda message: None)
    for _ in range(3):
        with torch.no_grad():
            value = loss(data(8))
        assert not value.requires_grad
        assert all(p.grad is None for p in problem.parameters())


def test_what_is_no_bound_is_refused():
    with pytest.raises(dv.InputError, match=r"loss: expected an instance of a pyro.infer.ELBO, got None"):
        dv.compile_loss(print, print, None)
