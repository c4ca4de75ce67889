import json
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import LinearGaussian, check_estimates

from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.annealing import annealed_log_likelihood, bidirectional


def shape(count=1):
    return torch.full((count, 3), math.pi, dtype=torch.float64)


def sandwich(problem, **options):
    few = {"seed": 1, "leapfrog_steps": 4}
    return bidirectional(problem.model, problem.guide, shape(), **{**few, **options})


def truth(problem, report):
    return problem.log_evidence(report.x).detach()


@pytest.mark.parametrize("start", ["prior", "guide"])
def test_the_truth_lies_between_the_bounds(start):
    problem = LinearGaussian()
    with torch.no_grad():
        problem.log_v.zero_()
    gaps = []
    for num_steps in (4, 30):
        report = sandwich(problem, num_data=300, num_steps=num_steps, num_chains=4, start=start)
        exact = truth(problem, report)
        below, above = exact - report.lower.per_datum, report.upper.per_datum - exact
        for difference in (below, above):
            assert float(difference.mean()) > -4 * float(difference.std()) / math.sqrt(300)
        gaps.append(report.gap.mean)
    assert gaps[0] > 2 * gaps[1] > 0


@pytest.mark.parametrize("start", ["prior", "guide"])
@pytest.mark.parametrize("num_steps", [1, 3])
def test_inverse_reverse_weights_are_unbiased(start, num_steps):
    problem = LinearGaussian()
    with torch.no_grad():
        problem.W.mul_(0.15)  # else 1/w from the prior has no finite variance
    report = sandwich(problem, num_data=2000, num_steps=num_steps, num_chains=3, start=start)
    ratio = (truth(problem, report) - report.reverse_log_weight).exp()
    check_estimates("E[p(x) / w]", ratio.mean(0), torch.tensor(1.0, dtype=torch.float64))


def test_data_are_drawn_from_the_model():
    problem = LinearGaussian()
    report = sandwich(problem, num_data=3000, num_steps=1, num_chains=1)
    check_estimates("mean", report.x, problem.b.detach())
    centred = report.x - problem.b.detach()
    with torch.no_grad():
        covariance = problem.W @ problem.W.T + (2 * problem.log_s).exp() * torch.eye(3, dtype=torch.float64)
    check_estimates("covariance", centred.unsqueeze(-1) * centred.unsqueeze(-2), covariance)


def test_the_upper_bound_is_the_tighter_of_the_two():
    report = sandwich(LinearGaussian(), num_data=20, num_steps=3)
    assert bool((report.upper.per_datum <= report.reverse_log_weight.mean(0)).all())
    inverse = (-report.reverse_log_weight).exp().mean(0)
    torch.testing.assert_close(report.upper.per_datum, -inverse.log())
    torch.testing.assert_close(report.gap.per_datum, report.upper.per_datum - report.lower.per_datum)


def test_reverse_transitions_are_accepted_like_forward_ones():
    report = sandwich(LinearGaussian(), num_data=50, num_steps=40)
    assert abs(report.forward.acceptance - 0.65) < 0.05
    assert abs(float(report.reverse_acceptance_by_step.mean()) - report.forward.acceptance) < 0.05


def test_the_forward_half_is_annealed_log_likelihood_of_the_simulated_data():
    problem = LinearGaussian()
    report = sandwich(problem, num_data=5, num_steps=3, seed=9)
    again = annealed_log_likelihood(problem.model, None, report.x, num_steps=3, leapfrog_steps=4, seed=9)
    assert torch.equal(again.log_weight, report.forward.log_weight)
    assert again.settings == report.settings


@pytest.mark.slow
def test_seed_chunks_and_progress():
    problem, seen = LinearGaussian(), []
    before = torch.get_rng_state()
    options = {"num_data": 3, "num_steps": 4, "memory": 1, "seed": 2}
    report = sandwich(problem, **options, progress=lambda *steps: seen.append(steps))
    assert torch.equal(torch.get_rng_state(), before)
    assert seen == [(done + 1, seen[0][1]) for done in range(seen[0][1])]
    assert torch.equal(sandwich(problem, **options).reverse_log_weight, report.reverse_log_weight)
    assert report.x.shape == (3, 3)
    assert len(torch.unique(report.x)) == 9
    assert all(p.grad is None for p in problem.parameters())


def test_by_default_there_are_as_many_data_as_rows():
    assert bidirectional(LinearGaussian().model, None, shape(3), num_steps=2, seed=1).x.shape == (3, 3)


def test_text_and_json():
    report = sandwich(LinearGaussian(), num_data=3, num_steps=2)
    lines = str(report).splitlines()
    assert lines[0] == "bidirectional Monte Carlo, log p(x) of 3 simulated data, nats per observation"
    assert [line.split()[0] for line in lines[1:4]] == ["lower", "upper", "gap"]
    values = json.loads(json.dumps(report.to_dict(per_datum=True), allow_nan=False))
    assert values["gap"]["mean"] == pytest.approx(report.gap.mean)
    assert values["upper"]["per_datum"] == pytest.approx(report.upper.per_datum.tolist())
    pyro.clear_param_store()
    single = sandwich(LinearGaussian(), num_data=1, num_steps=1).to_dict()
    assert single["gap"]["standard_error"] is None
    assert single["reverse_acceptance"] is None


def model_of(observe):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3, dtype=torch.float64), 1.0).to_event(1))
            observe(x, z)

    return model


def wide(x, z):
    pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x.sum(-1))


def twice(x, z):
    pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)
    pyro.sample("y", dist.Normal(z, 1.0).to_event(1), obs=x)


def never(x, z):
    pass


@pytest.mark.parametrize(
    ("observe", "options", "message"),
    [
        (wide, {}, r"data: expected the shape of the site 'x', \(2,\), got \(2, 3\)"),
        (twice, {}, "model: it observes 'y' besides 'x'"),
        (never, {}, "model: expected an observed sample site"),
        (twice, {"data_site": "xx"}, "data_site: unknown name 'xx' .did you mean 'x'"),
        (twice, {"num_data": 0}, "num_data: "),
        (twice, {"data": torch.zeros(0, 3)}, "data: "),
        (twice, {"data": [1.0]}, "data: expected a tensor .*, got list"),
        (twice, {"start": "guide"}, "guide: expected a guide"),
    ],
)
def test_bad_input(observe, options, message):
    like = options.pop("data", shape(2))
    with pytest.raises(InputError, match=f"^{message}"):
        bidirectional(model_of(observe), None, like, **{"num_steps": 2, "seed": 1, **options})
