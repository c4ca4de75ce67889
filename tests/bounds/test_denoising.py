import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import BinaryProblem, LinearGaussian, check_estimates, gradients
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO

import pyro_dvae as dv

DRAWS = [(1, 1), (3, 1), (1, 4), (3, 4)]


def data(count, size=3, seed=5):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bits(count, size=3, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (count, size), generator=generator).double()


def repeated(bound, problem, x, repeats):
    """Return repeated losses and gradients, [R] and {name: [R, ...]}."""
    losses, grads = [], []
    for _ in range(repeats):
        losses.append(bound.loss_and_grads(problem.model, problem.guide, x))
        grads.append(gradients(problem))
    return torch.tensor(losses, dtype=torch.float64), {
        n: torch.stack([g[n] for g in grads]) for n in grads[0]
    }


def check_bound_and_gradients(bound, problem, x, repeats=60, copies=10):
    x = x.repeat(copies, 1)  # whose draws are independent: as many repeats of one copy take longer
    exact = problem.l_dvae(x).sum()
    exact.backward()
    expected = gradients(problem)
    losses, grads = repeated(bound, problem, x, repeats)
    check_estimates("bound", -losses, exact.detach())
    for name, value in expected.items():
        check_estimates(name, -grads[name], value)


@pytest.mark.parametrize(("m", "k"), DRAWS)
def test_linear_gaussian_value_and_every_gradient(m, k):
    problem = LinearGaussian()
    assert any("corruption" in name for name, _ in problem.named_parameters())
    check_bound_and_gradients(dv.TraceDenoising_ELBO(num_corruptions=m, num_particles=k), problem, data(4))


@pytest.mark.parametrize(("m", "k"), DRAWS)
@pytest.mark.parametrize("kind", [dv.BitFlip, dv.SaltAndPepper, dv.Masking])
def test_learned_rate_gradient_equals_enumeration(kind, m, k):
    problem = BinaryProblem(kind(torch.tensor(0.2, dtype=torch.float64), learnable=True))
    check_bound_and_gradients(dv.TraceDenoising_ELBO(num_corruptions=m, num_particles=k), problem, bits(4))


def test_learned_rate_per_element():
    rate = torch.tensor([0.1, 0.3, 0.6], dtype=torch.float64)
    problem = BinaryProblem(dv.BitFlip(rate, learnable=True))
    check_bound_and_gradients(dv.TraceDenoising_ELBO(num_corruptions=3, num_particles=1), problem, bits(4))


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceGraph_ELBO])
def test_stock_elbos_compute_the_denoising_bound_and_its_gradient(elbo):
    problem = BinaryProblem(dv.BitFlip(torch.tensor(0.2, dtype=torch.float64), learnable=True))
    check_bound_and_gradients(elbo(), problem, bits(4))


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
def test_stock_elbos_with_gaussian_corruption(elbo):
    check_bound_and_gradients(elbo(), LinearGaussian(), data(4))


def test_stock_mean_field_with_a_fixed_discrete_corruption():
    check_bound_and_gradients(TraceMeanField_ELBO(), BinaryProblem(dv.BitFlip(0.2)), bits(4))


@pytest.mark.parametrize("validate", [True, False])
def test_stock_mean_field_refuses_a_learned_discrete_corruption(validate):
    pyro.enable_validation(validate)
    problem = BinaryProblem(dv.BitFlip(0.2, learnable=True))
    with pytest.raises(NotImplementedError, match="TraceDenoising_ELBO"):
        TraceMeanField_ELBO().loss_and_grads(problem.model, problem.guide, bits(2))


def test_the_corruption_site_is_not_counted():
    """Counting it would add the entropy of the corruption, here 1.5 log(2πe 0.16) per datum."""
    problem = LinearGaussian()
    x = data(500)
    bound = dv.TraceDenoising_ELBO(num_corruptions=4, num_particles=4).per_datum(
        problem.model, problem.guide, x
    )
    difference = bound - problem.l_dvae(x).detach()
    assert abs(float(difference.mean())) < 5 * float(difference.std()) / 500**0.5


def test_single_draw_equals_stock_trace_elbo_under_one_seed():
    problem = BinaryProblem(dv.BitFlip(0.2, learnable=True))
    x = bits(5)
    results = []
    for bound in (Trace_ELBO(), dv.TraceDenoising_ELBO()):
        pyro.set_rng_seed(3)
        results.append((bound.loss_and_grads(problem.model, problem.guide, x), gradients(problem)))
    (stock, stock_grads), (ours, our_grads) = results
    assert ours == pytest.approx(stock, rel=1e-12)
    for name in stock_grads:
        torch.testing.assert_close(our_grads[name], stock_grads[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("m", "k"), DRAWS)
def test_three_losses_agree_under_one_seed(m, k):
    problem = BinaryProblem(dv.BitFlip(0.2, learnable=True))
    bound, x = dv.TraceDenoising_ELBO(num_corruptions=m, num_particles=k), bits(5)
    values = []
    for method in (bound.loss, bound.loss_and_grads, bound.differentiable_loss):
        pyro.set_rng_seed(3)
        value = method(problem.model, problem.guide, x)
        values.append(float(value.detach()) if isinstance(value, torch.Tensor) else value)
    pyro.set_rng_seed(3)
    values.append(-float(bound.per_datum(problem.model, problem.guide, x).sum()))
    assert values == pytest.approx([values[0]] * 4, rel=1e-12)


def test_the_encoder_sees_m_inputs_per_datum_not_m_times_k():
    problem = LinearGaussian()
    shapes = []
    recognition = problem.recognition
    problem.recognition = lambda x_tilde: (shapes.append(tuple(x_tilde.shape)), recognition(x_tilde))
    bound = dv.TraceDenoising_ELBO(num_corruptions=5, num_particles=7, max_plate_nesting=1)
    bound.loss(problem.model, problem.guide, data(4))  # the first run looks whether the pair vectorises
    shapes.clear()
    bound.loss(problem.model, problem.guide, data(4))
    assert shapes == [(5, 4, 3)]


def test_more_draws_of_one_corruption_are_conditionally_independent():
    problem = LinearGaussian()
    draws = dv.TraceDenoising_ELBO(num_corruptions=5, num_particles=7).draws(
        problem.model, problem.guide, (data(4),), {}
    )
    x_tilde, z = (draws.guide_trace.nodes[name]["value"] for name in ("x_tilde", "z"))
    assert x_tilde.shape == (5, 4, 3)
    assert z.shape == (7, 5, 4, 2)
    assert len(z.reshape(-1, 2).unique(dim=0)) == 7 * 5 * 4
    assert draws.log_weight().values.shape == (7, 5, 4)


def test_finding_the_plates_does_not_touch_the_random_stream():
    problem, x = LinearGaussian(), data(4)
    losses = []
    for nesting in (1, float("inf")):
        pyro.set_rng_seed(3)
        bound = dv.TraceDenoising_ELBO(num_corruptions=2, num_particles=3, max_plate_nesting=nesting)
        losses.append(bound.loss(problem.model, problem.guide, x))
    assert losses[0] == losses[1]


def test_subsampling_and_scale_multiply_the_bound():
    problem, x = LinearGaussian(), data(4)
    bound = dv.TraceDenoising_ELBO(num_corruptions=2, num_particles=3, max_plate_nesting=1)

    def value(model, guide, *args):
        pyro.set_rng_seed(3)
        loss = bound.loss_and_grads(model, guide, *args)
        return loss, gradients(problem)

    plain, plain_grads = value(problem.model, problem.guide, x)
    scaled, scaled_grads = value(poutine.scale(problem.model, 2.5), poutine.scale(problem.guide, 2.5), x)
    assert scaled == pytest.approx(2.5 * plain, rel=1e-12)
    model, guide = (lambda x: problem.model(x, 40)), (lambda x: problem.guide(x, 40))
    # The plate draws its indices from the same stream, so only the mean can be compared.
    values = torch.tensor([bound.loss(model, guide, x) for _ in range(400)], dtype=torch.float64)
    check_estimates("subsampled bound", -values, 10 * problem.l_dvae(x).sum().detach())
    for name in plain_grads:
        torch.testing.assert_close(scaled_grads[name], 2.5 * plain_grads[name])


def test_mask_removes_data():
    problem, x = LinearGaussian(), data(4)
    mask = torch.tensor([True, False, True, False])
    bound = dv.TraceDenoising_ELBO(num_corruptions=2, num_particles=3)

    def value(model, guide):
        pyro.set_rng_seed(3)
        return bound.loss(model, guide, x)

    masked = value(poutine.mask(problem.model, mask), poutine.mask(problem.guide, mask))
    pyro.set_rng_seed(3)
    per_datum = bound.per_datum(problem.model, problem.guide, x)
    assert -masked == pytest.approx(float(per_datum[mask].sum()), rel=1e-12)


def test_bernoulli_latent_under_gaussian_corruption():
    """A discrete latent keeps its score-function gradient; the noise scale gets both kinds."""
    weight = torch.nn.Parameter(torch.tensor([0.7, -0.4], dtype=torch.float64))
    logit = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
    corruption = dv.GaussianNoise(torch.tensor(0.5, dtype=torch.float64), learnable=True)
    holder = torch.nn.ModuleDict({"corruption": corruption})
    holder.register_parameter("weight", weight)
    holder.register_parameter("logit", logit)
    half = torch.tensor(0.5, dtype=torch.float64)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(half))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1) * 2 - logit, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            x_tilde = dv.corrupt("x_tilde", corruption, x)
            pyro.sample("z", dist.Bernoulli(logits=x_tilde @ weight))

    x = torch.tensor([[0.5, 1.0], [-1.0, 2.0]], dtype=torch.float64)

    def exact():
        points, weights = __import__("numpy").polynomial.hermite_e.hermegauss(80)
        points, weights = torch.as_tensor(points), torch.as_tensor(weights / weights.sum())
        loc = x @ weight
        noise = corruption.scale() * weight.norm()
        q = torch.sigmoid(loc + noise * points.unsqueeze(-1))
        total = 0.0
        for value, probability in ((0.0, 1 - q), (1.0, q)):
            joint = half.log() + dist.Normal(value * 2 - logit, 1.0).log_prob(x).sum(-1)
            total = total + probability * (joint - probability.log())
        return (weights.unsqueeze(-1) * total).sum()

    value = exact()
    value.backward()
    expected = gradients(holder)
    for m, k in DRAWS:
        bound = dv.TraceDenoising_ELBO(num_corruptions=m, num_particles=k)
        losses, grads = [], []
        for _ in range(300):
            losses.append(bound.loss_and_grads(model, guide, x))
            grads.append(gradients(holder))
        check_estimates("bound", -torch.tensor(losses, dtype=torch.float64), value.detach())
        for name in expected:
            check_estimates(name, -torch.stack([g[name] for g in grads]), expected[name])


@pytest.mark.slow
def test_leave_one_out_lowers_the_variance():
    problem = BinaryProblem(dv.BitFlip(torch.tensor(0.2, dtype=torch.float64), learnable=True))
    x, name = bits(4), "corruption.rate.raw"
    _, single = repeated(dv.TraceDenoising_ELBO(num_corruptions=1, num_particles=1), problem, x, 800)
    _, several = repeated(dv.TraceDenoising_ELBO(num_corruptions=4, num_particles=1), problem, x, 800)
    # Four draws alone divide the variance by 4; the baseline must do better than that.
    assert float(several[name].var()) < 0.6 * float(single[name].var()) / 4


def test_guide_only_sites_must_be_auxiliary():
    problem = LinearGaussian()

    def guide(x):
        pyro.sample("extra", dist.Normal(torch.zeros(()), 1.0))
        problem.guide(x)

    def incomplete(x):
        return None

    bound = dv.TraceDenoising_ELBO()
    with pyro.validation_enabled(False):
        with pytest.raises(dv.InputError, match="is_auxiliary"):
            bound.loss(problem.model, guide, data(2))
        with pytest.raises(dv.InputError, match="'z' is not sampled"):
            bound.loss(problem.model, incomplete, data(2))


def test_other_noise_of_the_guide_is_not_counted_either():
    problem, x = LinearGaussian(), data(200)

    def guide(x):
        sigma = problem.corruption.scale()
        with pyro.plate("data", len(x)):
            problem.recognition(dv.auxiliary("x_tilde", dist.Normal(x, sigma).to_event(1)))

    difference = dv.TraceDenoising_ELBO(num_corruptions=4, num_particles=4).per_datum(problem.model, guide, x)
    difference = difference - problem.l_dvae(x).detach()
    assert abs(float(difference.mean())) < 5 * float(difference.std()) / 200**0.5


@pytest.mark.parametrize(
    ("arguments", "name"),
    [({"num_corruptions": 0}, "num_corruptions"), ({"num_particles": 1.5}, "num_particles")],
)
def test_bad_arguments(arguments, name):
    with pytest.raises(dv.InputError, match=name):
        dv.TraceDenoising_ELBO(**arguments)


@pytest.mark.parametrize("local", [False, True])
def test_svi_and_module_form_train(local):
    with pyro.settings.context(module_local_params=local):
        for form in ("svi", "module"):
            pyro.clear_param_store()
            problem, x = LinearGaussian(), data(50)
            bound = dv.TraceDenoising_ELBO(num_corruptions=2, num_particles=2)
            before = float(problem.l_dvae(x).mean().detach())
            if form == "svi":
                svi = SVI(problem.model, problem.guide, pyro.optim.Adam({"lr": 0.02}), bound)
                for _ in range(100):
                    svi.step(x)
            else:
                elbo = bound(problem.model, problem.guide)
                optimizer = torch.optim.Adam(problem.parameters(), lr=0.02)
                for _ in range(100):
                    optimizer.zero_grad()
                    elbo(x).backward()
                    optimizer.step()
            assert float(problem.l_dvae(x).mean().detach()) > before + 0.5
