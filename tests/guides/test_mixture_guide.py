import pyro.distributions as dist
import pytest
import torch
from exact import check_estimates
from torch import nn

import pyro_dvae as dv
from pyro_dvae.distributions.mixture import DiagonalMixture

F64 = torch.float64


def parameters(d, lead=(), components=3, seed=0, dtype=F64):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*lead, *shape, generator=generator, dtype=F64).to(dtype)

    return normal(components), 1.5 * normal(components, d), (0.4 * normal(components, d) - 0.5).exp()


def leaves(values):
    return tuple(value.clone().requires_grad_() for value in values)


@pytest.mark.parametrize("d", [1, 3])
def test_the_density_equals_that_of_a_mixture(d):
    logits, loc, scale = parameters(d, (2, 5))
    found = DiagonalMixture(logits, loc, scale)
    expected = dist.MixtureSameFamily(
        dist.Categorical(logits=logits), dist.Independent(dist.Normal(loc, scale), 1)
    )
    z = expected.sample((4,))
    torch.testing.assert_close(found.log_prob(z), expected.log_prob(z))
    torch.testing.assert_close(found.mean, expected.mean)
    torch.testing.assert_close(found.variance, expected.variance)
    assert (found.batch_shape, found.event_shape) == ((2, 5), (d,))


@pytest.mark.parametrize("d", [1, 2, 4])
def test_draws_have_the_moments(d):
    mixture = DiagonalMixture(*parameters(d))
    z = mixture.sample((20_000,))
    check_estimates("mean", z, mixture.mean)
    check_estimates("variance", (z - mixture.mean).square(), mixture.variance)
    component = mixture.expand([7]).sample((3_000,))
    assert component.shape == (3_000, 7, d)
    check_estimates("expanded", component.flatten(0, 1), mixture.mean)


def standardised(z, logits, loc, scale):
    """F of the docstring, written out: [d]."""
    result = []
    for i in range(loc.shape[-1]):
        weight = logits.softmax(-1) * dist.Normal(loc[:, :i], scale[:, :i]).log_prob(z[:i]).sum(-1).exp()
        result.append((weight / weight.sum() * dist.Normal(loc[:, i], scale[:, i]).cdf(z[i])).sum())
    return torch.stack(result)


def quantile(u, logits, loc, scale):
    """The inverse of F, by bisection of one element after another."""
    z = torch.zeros(len(u), dtype=F64)
    for i in range(len(u)):
        low, high = -40.0, 40.0
        for _ in range(80):
            z[i] = middle = 0.5 * (low + high)
            if float(standardised(z, logits, loc, scale)[i]) < float(u[i]):
                low = middle
            else:
                high = middle
    return z


@pytest.mark.parametrize("d", [1, 2, 3])
def test_a_draw_moves_as_the_quantile_function_does(d):
    """z(u; φ) with u = F(z) held: its derivatives by differences, in random directions."""
    values = parameters(d)
    torch.manual_seed(4)
    for _ in range(3):
        followed = leaves(values)
        z = DiagonalMixture(*followed).rsample()
        weight = torch.randn(d, dtype=F64)
        grads = torch.autograd.grad(z @ weight, followed)
        u = standardised(z.detach(), *values)
        direction = [torch.randn_like(value) for value in values]
        step = 1e-4
        ends = [
            quantile(u, *[v + sign * step * e for v, e in zip(values, direction, strict=True)])
            for sign in (1, -1)
        ]
        expected = float((ends[0] - ends[1]) @ weight) / (2 * step)
        found = sum(float((g * e).sum()) for g, e in zip(grads, direction, strict=True))
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("d", [1, 2])
def test_the_gradient_of_an_expectation_equals_that_of_the_integral(d):
    """d/dφ E [f(z) − log q(z)], by quadrature and by draws, of weights, locations and scales."""
    followed = leaves(parameters(d, seed=2))

    def cost(z, log_q):
        return torch.sin(2 * z).sum(-1) - 0.1 * z.square().sum(-1) - log_q

    points = torch.linspace(-10, 10, 2001 if d == 1 else 301, dtype=F64)
    mesh = torch.cartesian_prod(*[points] * d).reshape(-1, d)
    log_q = DiagonalMixture(*followed).log_prob(mesh)
    assert float(log_q.detach().exp().sum() * (points[1] - points[0]) ** d) == pytest.approx(1, abs=1e-6)
    exact = (log_q.exp() * cost(mesh, log_q)).sum() * (points[1] - points[0]) ** d
    expected = torch.autograd.grad(exact, followed)
    # One copy of the parameters for each draw, so that each has its own gradient.
    copies = leaves(value.detach().expand(20_000, *value.shape) for value in followed)
    mixture = DiagonalMixture(*copies)
    z = mixture.rsample()
    estimates = torch.autograd.grad(cost(z, mixture.log_prob(z)).sum(), copies)
    for name, estimate, truth in zip(("logits", "loc", "scale"), estimates, expected, strict=True):
        check_estimates(name, estimate, truth)


def test_equal_components_are_one_gaussian():
    _, loc, scale = parameters(3, components=1)
    followed = leaves((torch.zeros(4, dtype=F64), loc.expand(4, -1), scale.expand(4, -1)))
    z = DiagonalMixture(*followed).rsample()
    grads = torch.autograd.grad(z.sum(), followed)
    torch.testing.assert_close(grads[0], torch.zeros(4, dtype=F64))
    torch.testing.assert_close(grads[1].sum(0), torch.ones(3, dtype=F64))
    torch.testing.assert_close(grads[2].sum(0), ((z.detach() - loc) / scale)[0])


def test_single_precision_follows_double_into_the_tails():
    """Where F is near 1 to the last digits its changes must still be right."""
    values = parameters(20, (2000,), components=4, seed=6, dtype=torch.float32)
    point = DiagonalMixture(*values).sample()
    found = []
    for dtype in (torch.float32, F64):
        followed = leaves(value.to(dtype) for value in values)
        mixture = DiagonalMixture(*followed)
        mixture._draw = lambda shape, dtype=dtype: point.to(dtype)
        found.append(torch.autograd.grad(mixture.rsample().sum(), followed))
    for single, double in zip(*found, strict=True):
        distance = (single.double() - double).abs() / (1 + double.abs())
        assert float(distance.max()) < 5e-3
        assert float(distance.mean()) < 1e-6


def test_a_mixture_without_learned_parameters_is_no_graph():
    values = parameters(2)
    assert not DiagonalMixture(*values).rsample().requires_grad
    with torch.no_grad():
        assert not DiagonalMixture(*leaves(values)).rsample().requires_grad


def test_outputs_equal_those_of_the_heads():
    torch.manual_seed(0)
    guide = dv.MixtureGuide(nn.Identity(), 3, 2, components=4).double()
    x = torch.randn(5, 3, dtype=F64)
    found, outputs = guide.posterior(x), guide.head(x).reshape(5, 4, 4)
    torch.testing.assert_close(found.logits, guide.weight_head(x).log_softmax(-1))
    torch.testing.assert_close(found.loc, outputs[..., :2])
    torch.testing.assert_close(found.scale, (0.5 * outputs[..., 2:]).exp())


def test_one_component_is_refused():
    with pytest.raises(dv.InputError, match=r"^components: expected a whole number of at least 2, got 1"):
        dv.MixtureGuide.of_sizes(3, 2, components=1)
