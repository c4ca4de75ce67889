"""Refined proposals against closed forms: linear-Gaussian, Gamma-Poisson and a posterior with two modes."""

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import LinearGaussian, check_estimates

import pyro_dvae as dv
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.refinement import chosen_proposals
from pyro_dvae.evaluation.refinement.gaussian import Gaussians, climbed, encoded
from pyro_dvae.evaluation.refinement.targets import Targets
from pyro_dvae.evaluation.refinement.weighing import chains, weighted
from pyro_dvae.rows import Arguments, Data


def zeros(*sizes):
    return torch.zeros(*sizes, dtype=torch.float64)


def problem():
    made = LinearGaussian(data_size=4, latent_size=3)
    x = torch.randn(12, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return made, x


def posterior(made, x):
    """Return the exact mean [N, d] and precision [d, d] of z given x."""
    s2 = (2 * made.log_s).exp()
    precision = torch.eye(made.W.shape[1], dtype=torch.float64) + made.W.T @ made.W / s2
    mean = torch.linalg.solve(precision, (x - made.b) @ made.W / s2, left=False)
    return mean.detach(), precision.detach()


def exact(made, x):
    mean, precision = posterior(made, x)
    factor = torch.linalg.cholesky(torch.linalg.inv(precision))
    scale = factor.diagonal()
    lower = (factor / scale).tril(-1)  # L = (I + lower') diag(scale) = diag(scale) (I + lower)
    lower = (factor / scale[:, None]).tril(-1)
    count = len(x)
    return Gaussians(mean, scale.log().expand(count, -1), lower.expand(count, -1, -1))


def evidence(made, x):
    return made.log_evidence(x).detach()


@torch.no_grad()
def targets_of(model, guide, x):
    return Targets(model, guide, Data.of_tensors(x))


@torch.no_grad()
def test_densities_and_draws_equal_those_of_torch():
    made, x = problem()
    found = exact(made, x)
    mean, precision = posterior(made, x)
    torch.testing.assert_close(found.covariance(), torch.linalg.inv(precision).expand(12, 3, 3))
    torch.manual_seed(0)
    noise = found.draw_noise(5)
    diagonal = Gaussians(found.loc, found.log_scale)
    independent = torch.distributions.Normal(found.loc, found.log_scale.exp())
    for gaussian, reference in (
        (found, torch.distributions.MultivariateNormal(mean, precision_matrix=precision)),
        (diagonal, torch.distributions.Independent(independent, 1)),
        (diagonal.full(), torch.distributions.Independent(independent, 1)),
    ):
        draws = gaussian.place(noise)
        torch.testing.assert_close(gaussian.noise_of(draws), noise)
        torch.testing.assert_close(gaussian.log_prob(noise), reference.log_prob(draws))
        slope = torch.func.grad(lambda at, given=reference: given.log_prob(at).sum())(draws)
        torch.testing.assert_close(gaussian.slope(noise), slope)


@torch.no_grad()
def test_the_target_is_the_joint_density_with_its_gradient():
    made, x = problem()
    targets = targets_of(made.model, made.guide, x)
    start = encoded(targets, made.guide, Arguments((x,)))
    torch.testing.assert_close(start.loc, x @ made.A.T + made.c)
    torch.testing.assert_close(start.log_scale, (made.log_v / 2).expand(12, 3))
    position = start.place(start.draw_noise(7))
    value, slope = targets.gradient(position, Arguments((x,)))
    mean, precision = posterior(made, x)
    reference = torch.distributions.MultivariateNormal(mean, precision_matrix=precision)
    torch.testing.assert_close(value, reference.log_prob(position) + evidence(made, x))
    torch.testing.assert_close(slope, -(position - mean) @ precision)
    prior, likelihood = targets.log_densities(position, Arguments((x,)))
    torch.testing.assert_close(prior + likelihood, value)
    torch.testing.assert_close(prior, dist.Normal(0.0, 1.0).log_prob(position).sum(-1))


@torch.no_grad()
def test_the_posterior_is_a_fixed_point_of_the_climb():
    made, x = problem()
    start = exact(made, x)
    found = climbed(
        targets_of(made.model, made.guide, x), Arguments((x,)), start, "full", dv.Refinement(num_steps=1)
    )
    torch.testing.assert_close(found.loc, start.loc, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.covariance(), start.covariance(), rtol=0, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize(("family", "error"), [("diagonal", 0.07), ("full", 1e-8)])
def test_the_climb_ends_at_the_best_gaussian_of_the_family(family, error):
    made, x = problem()
    targets, rows = targets_of(made.model, made.guide, x), Arguments((x,))
    torch.manual_seed(1)
    settings = dv.Refinement(num_steps=400, num_draws=32, learning_rate=0.05)
    found = climbed(targets, rows, encoded(targets, made.guide, rows), family, settings)
    mean, precision = posterior(made, x)
    best = torch.linalg.inv(precision) if family == "full" else torch.diag(1 / precision.diagonal())
    torch.testing.assert_close(found.loc, mean, rtol=0, atol=error)
    torch.testing.assert_close(found.covariance(), best.expand(12, 3, 3), rtol=0, atol=error)


def narrow(log_variance=-5.0):
    made, x = problem()
    with torch.no_grad():
        made.log_v.fill_(log_variance)
    return made, x


def test_the_evidence_of_a_linear_gaussian_model_and_the_share_of_bad_rows():
    made, x = narrow()
    plain = dv.log_likelihood(made.model, made.guide, x, num_samples=1000, seed=1)
    assert plain.share_unreliable > 0.9
    found = dv.log_likelihood(made.model, made.guide, x, num_samples=1000, seed=1, refine=True)
    assert found.share_unreliable == 0
    assert found.refined.share_before(found.threshold) > 0.9
    assert sum(found.refined.counts.values()) == len(x)
    assert found.refined.counts["encoder"] == 0
    error = (found.log_likelihood - evidence(made, x)) / found.standard_error
    assert float(error.abs().max()) < 4.5
    assert float(found.standard_error.max()) < 0.05
    assert found.bound_by_samples[1].shape == (12, len(found.bound_by_samples[0]))
    assert "before refinement" in str(found)
    assert found.to_dict()["refined"]["rows_by_proposal"] == found.refined.counts


def test_a_reliable_encoder_is_not_refined():
    made = LinearGaussian(data_size=4, latent_size=1)
    x = torch.randn(12, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    with torch.no_grad():
        _, precision = posterior(made, x)
        made.A.copy_(made.W.T / (2 * made.log_s).exp() / precision)
        made.c.copy_(-made.A @ made.b)
        made.log_v.copy_(-precision[0].log())
    found = dv.log_likelihood(made.model, made.guide, x, num_samples=30, seed=2, refine=20)
    assert found.refined.counts == {"encoder": 12, "full": 0, "annealing": 0}
    assert found.refined.settings.num_steps == 20
    torch.testing.assert_close(found.log_likelihood, evidence(made, x))


def test_weights_are_kept_and_a_seed_gives_the_same_values():
    made, x = narrow()
    options = {
        "num_samples": 300,
        "seed": 3,
        "refine": dv.Refinement(num_steps=40, pilot=100, annealing_steps=0),
    }
    found, again = (
        dv.log_likelihood(made.model, made.guide, x, keep_log_weight=True, **options) for _ in range(2)
    )
    assert torch.equal(found.log_weight, again.log_weight)
    estimate = found.log_weight.logsumexp(1) - math.log(found.num_samples)
    torch.testing.assert_close(estimate, found.log_likelihood)
    other = dv.log_likelihood(made.model, made.guide, x, **(options | {"seed": 4}))
    assert not torch.equal(other.log_likelihood, found.log_likelihood)


def test_a_stopped_evaluation_resumes(tmp_path):
    made, x = narrow()
    path = tmp_path / "part"
    options = {
        "num_samples": 200,
        "seed": 3,
        "refine": dv.Refinement(num_steps=10, pilot=50, annealing_steps=0),
    }
    first = dv.log_likelihood(made.model, made.guide, x, checkpoint=path, **options)
    again = dv.log_likelihood(made.model, made.guide, x, checkpoint=path, **options)
    assert torch.equal(first.log_likelihood, again.log_likelihood)
    with pytest.raises(dv.CheckpointError, match=r"from another evaluation: .*; finish that evaluation"):
        dv.log_likelihood(made.model, made.guide, x, checkpoint=path, **(options | {"refine": 5}))


def poisson(x):
    with pyro.plate("data", len(x)):
        rate = pyro.sample("rate", dist.Gamma(zeros(1) + 3.0, 1.0).to_event(1))
        pyro.sample("x", dist.Poisson(rate).to_event(1), obs=x)


def log_normal(x):
    with pyro.plate("data", len(x)):
        pyro.sample("rate", dist.LogNormal(zeros(len(x), 1) - 1.0, 0.1).to_event(1))


def test_positive_latents_move_in_unconstrained_space():
    x = torch.tensor([[0.0], [2.0], [9.0]], dtype=torch.float64)
    found = dv.log_likelihood(poisson, log_normal, x, num_samples=3000, seed=1, refine=200)
    expected = dist.GammaPoisson(torch.tensor(3.0, dtype=torch.float64), 1.0).log_prob(x)[:, 0]
    assert float(((found.log_likelihood - expected) / found.standard_error).abs().max()) < 4.5
    assert float(found.standard_error.max()) < 0.03


def chain(x):
    with pyro.plate("data", len(x)):
        top = pyro.sample("top", dist.Normal(zeros(2), 1.0).to_event(1))
        low = pyro.sample("low", dist.Normal(top, 1.0).to_event(1))
        pyro.sample("x", dist.Normal(low, 0.5).to_event(1), obs=x)


def chain_guide(x):
    with pyro.plate("data", len(x)):
        top = pyro.sample("top", dist.Normal(0.1 * x, 0.3).to_event(1))
        pyro.sample("low", dist.Normal(top + 0.1, 0.3).to_event(1))


def test_several_latents_get_one_covariance():
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = dv.log_likelihood(chain, chain_guide, x, num_samples=2000, seed=1, refine=200)
    expected = dist.Normal(zeros(2), 1.5).log_prob(x).sum(-1)
    assert float(((found.log_likelihood - expected) / found.standard_error).abs().max()) < 4.5
    assert float(found.standard_error.max()) < 0.02


def folded(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z**2, 0.3).to_event(1), obs=x)


def one_sided(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(zeros(len(x), 1) + 0.8, 0.2).to_event(1))


def folded_evidence(x):
    z = torch.linspace(-6, 6, 200_001, dtype=torch.float64)
    log = dist.Normal(zeros(()), 1.0).log_prob(z) + dist.Normal(z**2, 0.3).log_prob(x)
    return log.logsumexp(1) + math.log(float(z[1] - z[0]))


def test_draws_from_the_prior_find_the_mode_that_the_encoder_misses():
    x = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    options = {"num_samples": 4000, "seed": 1, "refine": dv.Refinement(annealing_steps=0)}
    found = dv.log_likelihood(folded, one_sided, x, defensive=0.3, **options)
    error = (found.log_likelihood - folded_evidence(x)) / found.standard_error
    assert float(error.abs().max()) < 4.5
    missed = dv.log_likelihood(folded, one_sided, x, **options)
    half = folded_evidence(x) - math.log(2)
    torch.testing.assert_close(missed.log_likelihood, half, rtol=0, atol=0.05)


@pytest.mark.slow
@torch.no_grad()
def test_annealed_chains_are_unbiased_from_any_proposal():
    made, x = narrow(0.0)
    x = x[:2].repeat(400, 1)
    targets, rows = targets_of(made.model, made.guide, x), Arguments((x,))
    torch.manual_seed(0)
    proposal = encoded(targets, made.guide, rows)
    end, log_weight = chains(targets, rows, proposal, dv.Refinement(annealing_steps=4, num_chains=2))
    assert end.shape == (2, 800, 3)
    ratio = (log_weight - evidence(made, x)).exp().reshape(-1, 2)
    check_estimates("E[w] / p(x)", ratio, torch.ones(2, dtype=torch.float64))


def test_rows_that_no_gaussian_suits_are_annealed():
    made, x = narrow(-2.5)
    settings = dv.Refinement(families=(), annealing_steps=100, pilot=200)
    options = {"num_samples": 100, "seed": 1, "refine": settings}
    found = dv.log_likelihood(made.model, made.guide, x, **options)
    rows = found.refined.annealed
    assert found.refined.counts == {"encoder": int((~rows).sum()), "annealing": int(rows.sum())}
    assert int(rows.sum()) > 6
    assert bool(found.pareto_k[rows].isnan().all())
    assert float(found.ess[rows].max()) <= settings.num_chains
    plain = dv.log_likelihood(
        made.model, made.guide, x, **(options | {"refine": dv.Refinement(families=(), annealing_steps=0)})
    )
    error, worse = ((each.log_likelihood - evidence(made, x))[rows].abs().mean() for each in (found, plain))
    assert float(error) < 0.5 * float(worse)


def bernoulli(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Bernoulli(zeros(1) + 0.5).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def bernoulli_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Bernoulli(zeros(len(x), 1) + 0.5).to_event(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"refine": "yes"}, "refine: expected True, False, a number of steps or a Refinement"),
        ({"refine": 0}, "refine: expected a whole number of at least 1"),
        ({"refine": True, "proposal": "mixture"}, "refine: it sets the form of the proposal"),
        ({"refine": True, "widen": 1.2}, "refine: it sets the form of the proposal"),
    ],
)
def test_options_that_exclude_refinement_are_refused(options, message):
    made, x = problem()
    with pytest.raises(InputError, match=message):
        dv.log_likelihood(made.model, made.guide, x, num_samples=10, **options)


def test_discrete_latents_are_refused():
    with pytest.raises(InputError, match="latent 'z' is discrete, but annealing and refinement"):
        dv.log_likelihood(bernoulli, bernoulli_guide, zeros(4, 1), num_samples=10, refine=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"families": "full"}, "families: expected a tuple"),
        ({"families": ("flow",)}, "families: unknown name 'flow'"),
        ({"families": ("full", "full")}, "families: expected each name once"),
        ({"pilot": 5}, "pilot: expected a whole number of at least 25"),
        ({"learning_rate": 0.0}, "learning_rate: expected a number above 0"),
        ({"widen": -1.0}, "widen: expected a number above 0"),
    ],
)
def test_settings_are_checked(arguments, message):
    with pytest.raises(InputError, match=message):
        dv.Refinement(**arguments)


@pytest.mark.slow
def test_the_compiled_form_gives_the_values_of_the_plain_one():
    made, x = narrow()
    options = {
        "num_samples": 400,
        "seed": 3,
        "refine": dv.Refinement(num_steps=40, pilot=100, annealing_steps=0),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain, fast = (
            dv.log_likelihood(made.model, made.guide, x, compile=compiled, **options)
            for compiled in (False, True)
        )
    torch.testing.assert_close(fast.log_likelihood, plain.log_likelihood, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_a_row_that_is_clearly_bad_costs_a_quarter_of_the_pilot(monkeypatch):
    made, x = narrow(-6.0)
    calls = []

    def counted(targets, rows, proposal, count, from_prior=0):
        calls.append((count, len(rows)))
        return weighted(targets, rows, proposal, count, from_prior)

    monkeypatch.setattr(chosen_proposals, "weighted", counted)
    torch.manual_seed(0)
    settings = dv.Refinement(pilot=400, num_steps=1, families=("full",))
    chosen_proposals.ascended(targets_of(made.model, made.guide, x), made.guide, Arguments((x,)), settings)
    first, *others = calls
    assert first == (100, len(x))
    climbs = others.index((400, len(x)))  # after the encoder's rows that may be good
    assert 0 < sum(rows for _, rows in others[:climbs]) < len(x)
    assert {count for count, _ in others} == {400}


@torch.no_grad()
def test_a_row_that_has_not_arrived_climbs_on():
    # One climb moves the scales by 0.3 at most, and the encoder's are 20 times too small.
    made, x = narrow(-6.0)
    settings = dv.Refinement(num_steps=30, learning_rate=0.01, annealing_steps=0)
    targets, rows = targets_of(made.model, made.guide, x), Arguments((x,))
    torch.manual_seed(0)
    found = chosen_proposals.ascended(targets, made.guide, rows, settings)
    ((which, proposal),) = found.groups
    assert torch.equal(which, torch.arange(len(x)))
    moved = proposal.widened(1 / settings.widen).log_scale - encoded(targets, made.guide, rows).log_scale
    assert float(moved.amin()) > 0.6
    assert float(moved.amax()) < 0.9 + 1e-6


@pytest.mark.parametrize("seed", [1, 8])
def test_a_low_k_of_a_narrow_proposal_far_from_the_posterior_is_not_believed(seed):
    x = torch.tensor([[0.0], [2.0], [9.0]], dtype=torch.float64)
    found = dv.log_likelihood(poisson, log_normal, x, num_samples=3000, seed=seed, refine=200)
    assert float(found.refined.pareto_k_before.min()) < 0.6  # by chance: the encoder is 19 of its scales away
    expected = dist.GammaPoisson(torch.tensor(3.0, dtype=torch.float64), 1.0).log_prob(x)[:, 0]
    assert float(((found.log_likelihood - expected) / found.standard_error).abs().max()) < 4.5
