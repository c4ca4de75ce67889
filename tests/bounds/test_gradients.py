"""Every bound and gradient estimator against enumeration: the value, and the gradient of every parameter."""

import pytest
import torch
from exact import BinaryProblem, DiscreteProblem, Enumerated, check_estimates, gradients

import pyro_dvae as dv


def bits(count=3, size=2, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (count, size), generator=generator).double()


def problem_of(latent, learn=True):
    noise = dv.BitFlip(torch.tensor(0.2, dtype=torch.float64), learnable=learn)
    return {"gaussian": BinaryProblem, "bernoulli": DiscreteProblem}[latent](noise, data_size=2)


def check(bound, problem, exact, x, repeats=80, copies=10, slack=0.0):
    """Compare the mean of many estimates with the exact value and gradient; return their variances.

    Each estimate is of ``copies`` of the rows, whose draws are independent: as many of one each take longer.
    """
    value = copies * exact.sum()
    value.backward()
    expected = gradients(problem)
    x, slack = x.repeat(copies, 1), copies * slack
    losses, grads = [], []
    for _ in range(repeats):
        losses.append(bound.loss_and_grads(problem.model, problem.guide, x))
        grads.append(gradients(problem))
    check_estimates("bound", -torch.tensor(losses, dtype=torch.float64), value.detach(), slack=slack)
    for name in expected:
        check_estimates(name, -torch.stack([g[name] for g in grads]), expected[name], slack=slack)
    return {name: float(torch.stack([g[name] for g in grads]).var(0).sum()) for name in expected}


IWAE_DRAWS = [("average", 1, 3), ("average", 2, 2), ("pooled", 2, 2), ("mixture", 2, 1)]


@pytest.mark.parametrize("latent", ["gaussian", "bernoulli"])
@pytest.mark.parametrize(
    ("combine", "m", "k"), [*IWAE_DRAWS, pytest.param("mixture", 3, 1, marks=pytest.mark.slow)]
)
def test_importance_weighted_bounds(latent, combine, m, k):
    if latent == "gaussian" and m * k > 3:
        pytest.skip("quadrature over more than three latents is too large")
    problem, x = problem_of(latent), bits()
    bound = dv.TraceDenoisingIWAE_ELBO(num_corruptions=m, num_particles=k, combine=combine)
    check(bound, problem, Enumerated(problem, x).iwae(combine, m, k), x)


@pytest.mark.parametrize(("combine", "m", "k"), [("average", 1, 3), ("average", 3, 1), ("pooled", 3, 1)])
def test_doubly_reparameterised(combine, m, k):
    problem, x = problem_of("gaussian"), bits()
    bound = dv.TraceDenoisingIWAE_ELBO(num_corruptions=m, num_particles=k, combine=combine, gradient="dreg")
    check(bound, problem, Enumerated(problem, x).iwae(combine, m, k), x)


@pytest.mark.parametrize(("m", "k"), [(1, 1), (2, 3)])
def test_sticking_the_landing(m, k):
    problem, x = problem_of("gaussian"), bits()
    check(
        dv.TraceDenoising_ELBO(num_corruptions=m, num_particles=k, gradient="stl"),
        problem,
        problem.l_dvae(x),
        x,
    )


@pytest.mark.parametrize("latent", ["gaussian", "bernoulli"])
@pytest.mark.parametrize(("m", "k"), [(1, 1), (3, 2)])
def test_closed_form_divergence(latent, m, k):
    problem, x = problem_of(latent), bits()
    check(dv.TraceMeanFieldDenoising_ELBO(num_corruptions=m, num_particles=k), problem, problem.l_dvae(x), x)


@pytest.mark.parametrize("latent", ["gaussian", "bernoulli"])
@pytest.mark.parametrize(("j", "m", "k"), [(0, 2, 2), (1, 1, 1), (2, 2, 2)])
def test_semi_implicit(latent, j, m, k):
    problem, x = problem_of(latent), bits()
    bound = dv.TraceSemiImplicit_ELBO(num_corruptions=m, num_particles=k, num_mixture=j)
    check(bound, problem, Enumerated(problem, x).semi_implicit(j), x)


def baseline_network():
    network = torch.nn.Linear(2, 1, dtype=torch.float64)
    torch.nn.init.zeros_(network.weight)
    torch.nn.init.constant_(network.bias, -2.0)
    return network


BASELINES = {
    "dvae, none": lambda n: dv.TraceDenoising_ELBO(num_corruptions=2, num_particles=2, baseline="none"),
    "dvae, learned": lambda n: dv.TraceDenoising_ELBO(num_corruptions=2, num_particles=2, baseline=n),
    "iwae, none": lambda n: dv.TraceDenoisingIWAE_ELBO(num_corruptions=1, num_particles=3, baseline="none"),
    "iwae, learned": lambda n: dv.TraceDenoisingIWAE_ELBO(num_corruptions=1, num_particles=3, baseline=n),
    "pooled, learned": lambda n: dv.TraceDenoisingIWAE_ELBO(
        num_corruptions=2, num_particles=1, combine="pooled", baseline=n
    ),
    "semi-implicit, learned": lambda n: dv.TraceSemiImplicit_ELBO(
        num_corruptions=2, num_particles=1, num_mixture=1, baseline=n
    ),
    "semi-implicit, none": lambda n: dv.TraceSemiImplicit_ELBO(
        num_corruptions=2, num_particles=1, num_mixture=1, baseline="none"
    ),
}


@pytest.mark.parametrize("case", BASELINES)
def test_no_baseline_and_a_learned_one_are_unbiased_too(case):
    problem, x = problem_of("bernoulli"), bits()
    exact = Enumerated(problem, x)
    value = {
        "dvae": lambda: problem.l_dvae(x),
        "iwae": lambda: exact.iwae("average", 1, 3),
        "pooled": lambda: exact.iwae("pooled", 2, 1),
        "semi-implicit": lambda: exact.semi_implicit(1),
    }[case.partition(",")[0]]()
    check(BASELINES[case](baseline_network()), problem, value, x)


@pytest.mark.slow
def test_a_learned_baseline_learns_and_lowers_the_variance():
    problem, x = problem_of("bernoulli"), bits()
    network = baseline_network()
    bound = dv.TraceDenoising_ELBO(num_corruptions=1, num_particles=1, baseline=network)
    single = {"repeats": 600, "copies": 1}
    plain = check(
        dv.TraceDenoising_ELBO(num_corruptions=1, num_particles=1, baseline="none"),
        problem,
        problem.l_dvae(x),
        x,
        **single,
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        bound.loss_and_grads(problem.model, problem.guide, x)
        optimizer.step()
        problem.zero_grad()
    learned = check(bound, problem, problem.l_dvae(x), x, **single)
    assert float((network(x).squeeze(-1) - problem.l_dvae(x)).detach().abs().max()) < 1.0
    for name in ("encode_weight", "encode_bias", "corruption.rate.raw"):
        assert learned[name] < 0.95 * plain[name]


def test_signal_to_noise_of_dreg_does_not_fall_with_k():
    """The plain estimator's ratio falls as 1/√K for the guide (Rainforth et al. 2018); DReG's does not."""
    problem, x = BinaryProblem(dv.BitFlip(0.0), data_size=2), torch.ones(1, 2, dtype=torch.float64)
    with torch.no_grad():
        problem.encode_scale.fill_(2.0)  # a guide wider than the posterior: weights of finite variance

    def ratio(gradient, k, repeats=3000):
        bound = dv.TraceDenoisingIWAE_ELBO(
            num_corruptions=1, num_particles=k, gradient=gradient, max_plate_nesting=1
        )
        many = x.expand(repeats, -1)
        weights = problem.encode_weight
        problem.zero_grad()
        # One backward pass per datum is one estimate: use per-sample gradients through a repeated parameter.
        per_row = weights.detach().expand(repeats, -1).clone().requires_grad_()
        original = problem.encode

        def encode(x_tilde):
            loc = torch.tanh((x_tilde * per_row).sum(-1))
            scale = torch.sigmoid(x_tilde @ problem.encode_scale)
            return loc.unsqueeze(-1), scale.unsqueeze(-1)

        problem.encode = encode
        bound.loss_and_grads(problem.model, problem.guide, many)
        problem.encode = original
        return float((per_row.grad.mean(0).abs() / per_row.grad.std(0)).max())

    plain = [ratio("pathwise", k) for k in (4, 400)]
    doubly = [ratio("dreg", k) for k in (4, 400)]
    assert plain[1] < 0.5 * plain[0]
    assert doubly[1] > 0.9 * doubly[0]


def test_sticking_the_landing_has_no_variance_at_the_posterior():
    """If the guide is the exact posterior, the gradient is zero for every draw."""
    from exact import LinearGaussian

    problem = LinearGaussian(learn_sigma=False, sigma=0.0)
    with torch.no_grad():
        s2 = (2 * problem.log_s).exp()
        problem.W.copy_(torch.linalg.qr(problem.W).Q)
        precision = torch.eye(2, dtype=torch.float64) * (1 + 1 / s2)
        problem.A.copy_(torch.linalg.solve(precision, problem.W.T / s2))
        problem.c.copy_(-problem.A @ problem.b)
        problem.log_v.fill_(-torch.log(1 + 1 / s2))
    x = torch.randn(5, 3, dtype=torch.float64)
    size = {}
    for gradient in ("pathwise", "stl"):
        dv.TraceDenoising_ELBO(gradient=gradient).loss_and_grads(problem.model, problem.guide, x)
        grads = gradients(problem)
        size[gradient] = max(float(grads[name].abs().max()) for name in ("A", "c", "log_v"))
    assert size["stl"] < 1e-10
    assert size["pathwise"] > 0.01


def test_a_large_mixture_has_the_gradient_of_the_marginal_guide():
    """L_J for large J against the exact gradient of L_cvae: rate, encoder and decoder; its bias is O(1/J)."""
    problem, x = problem_of("gaussian"), bits()
    bound = dv.TraceSemiImplicit_ELBO(num_mixture=100)
    check(bound, problem, Enumerated(problem, x).l_cvae(), x, repeats=50, slack=0.02)


def test_an_unknown_divergence_is_sampled():
    """A Student prior has no closed form: the bound is then the sampled one, under the same seed."""
    import pyro
    import pyro.distributions as dist

    weight = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
    zero = torch.zeros((), dtype=torch.float64)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.StudentT(torch.full((), 4.0, dtype=torch.float64), zero, 1.0))
            w = pyro.sample("w", dist.Normal(zero, 1.0))
            pyro.sample("x", dist.Normal((z + w).unsqueeze(-1), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            x_tilde = dv.corrupt("x_tilde", dv.GaussianNoise(0.1), x)
            pyro.sample("z", dist.Normal(weight * x_tilde.sum(-1), 0.5))
            pyro.sample("w", dist.Normal(zero, 1.0))  # its prior: a closed form of exactly 0

    found = []
    for bound in (
        dv.TraceMeanFieldDenoising_ELBO(num_corruptions=2, num_particles=3),
        dv.TraceDenoising_ELBO(num_corruptions=2, num_particles=3),
    ):
        pyro.set_rng_seed(1)
        loss = bound.differentiable_loss(model, guide, bits())
        found.append((loss, *torch.autograd.grad(loss, [weight])))
    for ours, sampled in zip(*found, strict=True):
        torch.testing.assert_close(ours, sampled)
