import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import check_estimates
from torch import nn

import pyro_dvae as dv
from pyro_dvae.guides.flow import InvertiblePlanar

F64 = torch.float64
KINDS = [("planar", 1), ("planar", 2), ("planar", 4), ("iaf", 2), ("iaf", 4)]


def guide_of(flow, d, flows=3, seed=0):
    """A guide whose layers bend the density visibly."""
    torch.manual_seed(seed)
    guide = dv.FlowGuide.of_sizes(3, d, (6,), "tanh", flow=flow, flows=flows).double()
    with torch.no_grad():
        for parameter in guide.flows.parameters():
            parameter.mul_(1.7)
    return guide


def data(*lead, seed=3):
    return torch.randn(*lead, 3, generator=torch.Generator().manual_seed(seed), dtype=F64)


def grid(d, size):
    """Points [size^d, d] of a regular grid around the origin, and the volume of each."""
    points = torch.linspace(-12, 12, size, dtype=F64)
    mesh = torch.cartesian_prod(*[points] * d).reshape(-1, d)
    return mesh, float(points[1] - points[0]) ** d


@pytest.mark.parametrize(("flow", "d"), KINDS)
def test_the_density_is_the_change_of_variables(flow, d):
    """log q(z) = log N(z0) − log |det dz/dz0|, with the Jacobian of the whole map by differentiation."""
    guide, x = guide_of(flow, d), data()
    posterior = guide.posterior(x)
    z = posterior.rsample()
    start = z
    for transform in reversed(posterior.transforms):
        start = transform.inv(start)

    def push(point):
        for layer in guide.posterior(x).transforms:
            point = layer(point)
        return point

    torch.testing.assert_close(push(start), z)
    jacobian = torch.autograd.functional.jacobian(push, start.detach())
    expected = posterior.base_dist.log_prob(start) - torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(posterior.log_prob(z), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("flow", "d"), [("planar", 1), ("planar", 2), ("iaf", 2)])
def test_the_density_is_normalised_and_fits_the_draws(flow, d):
    posterior = guide_of(flow, d).posterior(data())
    with torch.no_grad():
        points, volume = grid(d, 4001 if d == 1 else 401)
        mass = posterior.log_prob(points).exp() * volume
        z = posterior.sample((4000,))
    assert float(mass.sum()) == pytest.approx(1, abs=1e-6)
    for function in (lambda z: z, torch.tanh, lambda z: z.square()):
        check_estimates("moment", function(z), (mass.unsqueeze(-1) * function(points)).sum(0))


@pytest.mark.parametrize(("flow", "d"), [("planar", 1), ("planar", 2), ("iaf", 2)])
def test_the_pathwise_gradient_equals_that_of_the_integral(flow, d):
    """d/dφ E_q [f(z) − log q(z)], by quadrature over scored points and by draws."""
    guide, x = guide_of(flow, d), data()
    parameters = dict(guide.named_parameters())

    def cost(z, log_q):
        return torch.sin(z.sum(-1)) - 0.1 * z.square().sum(-1) - log_q

    points, volume = grid(d, 2001 if d == 1 else 301)
    log_q = guide.posterior(x).log_prob(points)
    exact = (log_q.exp() * cost(points, log_q)).sum() * volume
    expected = torch.autograd.grad(exact, list(parameters.values()))
    found = []
    for _ in range(60):
        posterior = guide.posterior(x)
        z = posterior.rsample((200,))
        estimate = cost(z, posterior.log_prob(z)).mean()
        found.append(torch.autograd.grad(estimate, list(parameters.values())))
    for index, name in enumerate(parameters):
        check_estimates(name, torch.stack([each[index] for each in found]), expected[index])


@pytest.mark.parametrize(("flow", "d"), KINDS)
def test_a_draw_is_scored_alike_remembered_or_not(flow, d):
    """Pyro's transforms remember their last pair of points; nothing may depend on that."""
    posterior = guide_of(flow, d).posterior(data(5)).expand([2, 4, 5])
    first = posterior.rsample()
    remembered = posterior.log_prob(first)
    second = posterior.rsample()
    torch.testing.assert_close(posterior.log_prob(first), remembered, rtol=0, atol=1e-9)
    torch.testing.assert_close(posterior.log_prob(second.clone()), posterior.log_prob(second))


@pytest.mark.parametrize(("flow", "d"), KINDS)
def test_points_are_scored_at_contexts_of_further_dimensions(flow, d):
    """As mixtures over corruptions ask: [J, 1, 1, N] contexts and [K, M, N] points."""
    guide, x = guide_of(flow, d), data(3, 1, 1, 2)
    z = torch.randn(4, 2, 2, d, dtype=F64)
    together = guide.posterior(x).log_prob(z)
    assert together.shape == (3, 4, 2, 2)
    for j in range(3):
        torch.testing.assert_close(together[j], guide.posterior(x[j, 0, 0]).log_prob(z))


@pytest.mark.parametrize(("flow", "d"), [("planar", 1), ("planar", 3), ("iaf", 3)])
def test_the_score_of_a_given_point_has_the_right_derivatives(flow, d):
    guide, z = guide_of(flow, d, flows=2), torch.randn(2, d, dtype=F64, requires_grad=True)
    features = guide.encoder(data(2)).detach().requires_grad_()
    guide.encoder = nn.Identity()
    assert torch.autograd.gradcheck(lambda h, z: guide.posterior(h).log_prob(z), (features, z))


@pytest.mark.parametrize("strength", [0.0, 1.0, 30.0])
def test_the_planar_inverse_holds_at_every_strength(strength):
    generator = torch.Generator().manual_seed(2)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=F64)

    layer = InvertiblePlanar((normal(50, 1), strength * normal(50, 4), 1 + normal(50, 4)))
    x = 5 * normal(50, 4)
    y = layer(x)
    torch.testing.assert_close(layer.inv(y.clone()), x, rtol=0, atol=1e-8)


def test_both_orders_of_the_latents_occur():
    orders = [layer.order for layer in guide_of("iaf", 3).flows]
    assert orders == [[0, 1, 2], [2, 1, 0], [0, 1, 2]]


def test_the_widened_guide_is_known():
    """A wider proposal widens what goes into the flow."""
    guide = guide_of("planar", 2)

    def model(x):

        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=F64), 1.0).to_event(1))
            mean = z.sum(-1, keepdim=True).expand(*z.shape[:-1], 3)
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    x = data(2)
    found = dv.log_likelihood(model, guide, x, num_samples=4_000, widen=1.5, seed=0, progress=False)
    covariance = 2 * torch.ones(3, 3, dtype=F64) + torch.eye(3, dtype=F64)
    exact = dist.MultivariateNormal(torch.zeros(3, dtype=F64), covariance).log_prob(x)
    assert bool(((found.log_likelihood - exact).abs() < 5 * found.standard_error).all())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: dv.FlowGuide.of_sizes(3, 2, flow="plane"), "did you mean 'planar'"),
        (lambda: dv.FlowGuide.of_sizes(3, 2, flows=0), "flows: expected a whole number"),
        (lambda: dv.FlowGuide.of_sizes(3, 1, flow="iaf"), "use flow='planar'"),
        (
            lambda: dv.FlowGuide(nn.Identity(), 3, 2, [nn.Identity()]),
            "flows: expected conditional transforms",
        ),
    ],
)
def test_bad_arguments_are_refused(build, message):
    with pytest.raises(dv.InputError, match=message):
        build()
