import json
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import LinearGaussian, check_estimates
from torch import nn

import pyro_dvae as dv
from pyro_dvae.evaluation.annealing import AnnealedLikelihood, AnnealingSettings, annealed_log_likelihood
from pyro_dvae.evaluation.annealing.kernels import pilot_transitions
from pyro_dvae.evaluation.annealing.settings import SCHEDULES, inverse_temperatures
from pyro_dvae.evaluation.estimates import Estimate


def data(count, seed=5):
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def anneal(problem, x, **options):
    few = {"seed": 1, "leapfrog_steps": 4}
    return annealed_log_likelihood(problem.model, problem.guide, x, **{**few, **options})


def truth(problem, x):
    return problem.log_evidence(x).detach()


@pytest.mark.parametrize(
    ("start", "schedule"), [("prior", "sigmoid"), ("prior", "linear"), ("guide", "sigmoid")]
)
def test_the_evidence_of_a_linear_gaussian_model(start, schedule):
    problem, x = LinearGaussian(), data(40)
    found = anneal(problem, x, start=start, schedule=schedule, num_steps=60)
    error = (found.log_likelihood - truth(problem, x)) / found.standard_error
    assert float(error.abs().max()) < 5
    assert 0.5 < float(error.std()) < 2
    assert abs(float(error.mean())) < 5 / math.sqrt(len(x))


@pytest.mark.parametrize("start", ["prior", "guide"])
@pytest.mark.parametrize("num_steps", [1, 3])
def test_the_weights_are_unbiased_for_the_evidence(start, num_steps):
    problem = LinearGaussian()
    with torch.no_grad():
        problem.log_v.zero_()  # the default guide is too narrow for weights of finite variance
        x = torch.stack([problem.b, problem.b + problem.W[:, 0]])
    found = anneal(problem, x.repeat(1500, 1), start=start, num_steps=num_steps, num_chains=2)
    ratio = (found.log_weight - truth(problem, x).repeat(1500)).exp()
    check_estimates("E[w] / p(x)", ratio.reshape(-1, 2), torch.ones(2, dtype=torch.float64))


def test_the_spread_of_the_log_weights_falls_as_one_over_the_steps():
    problem, x = LinearGaussian(), data(100)
    short, long = (float(anneal(problem, x, num_steps=n).log_weight.var(0).mean()) for n in (20, 80))
    assert 2.5 < short / long < 12


def test_each_datum_has_its_own_acceptance_near_the_target():
    problem, x = LinearGaussian(), data(30) * torch.logspace(-1, 1, 30, dtype=torch.float64)[:, None]
    for target in (0.65, 0.9):
        found = anneal(problem, x, num_steps=60, target_acceptance=target)
        assert found.acceptance_by_step.shape == (59,)
        assert abs(found.acceptance - target) < 0.05
        assert float((found.acceptance_by_step - target).abs().max()) < 0.15


def test_an_exact_guide_on_clean_input_gives_the_evidence_without_error():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1, dtype=x.dtype), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            noisy = dv.corrupt("x_tilde", dv.GaussianNoise(3.0), x)
            pyro.sample("z", dist.Normal(noisy / 2, math.sqrt(0.5)).to_event(1))

    def bare(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, math.sqrt(0.5)).to_event(1))

    x = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    exact = dist.Normal(0.0, math.sqrt(2)).log_prob(x[:, 0])
    for each in (guide, dv.DenoisingGuide(bare, dv.GaussianNoise(3.0))):
        found = annealed_log_likelihood(
            model, each, x, start="guide", num_steps=3, num_chains=3, leapfrog_steps=2, seed=1
        )
        torch.testing.assert_close(found.log_weight, exact.expand(3, -1))
        assert float(found.standard_error.max()) < 1e-6


def test_auxiliary_sites_of_the_guide_stay_what_they_are_drawn():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(x.new_zeros(()), 0.5), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(x / 2 + a, 1.0))

    x = torch.full((2000,), 0.7, dtype=torch.float64)
    found = annealed_log_likelihood(model, guide, x, start="guide", num_steps=3, num_chains=2, seed=1)
    exact = dist.Normal(0.0, math.sqrt(2)).log_prob(x)
    check_estimates("E[w] / p(x)", (found.log_weight - exact).exp().reshape(-1), torch.tensor(1.0))


def test_each_seed_has_its_own_stream():
    problem, x = LinearGaussian(), data(4)
    before = torch.get_rng_state()
    first = anneal(problem, x, num_steps=5, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(anneal(problem, x, num_steps=5, seed=3).log_weight, first.log_weight)
    assert not torch.equal(anneal(problem, x, num_steps=5, seed=4).log_weight, first.log_weight)
    drawn = anneal(problem, x, num_steps=5, seed=None)
    after = torch.get_rng_state()
    torch.set_rng_state(before)
    torch.randint(2**63 - 1, ())
    assert torch.equal(torch.get_rng_state(), after)
    again = anneal(problem, x, num_steps=5, seed=drawn.settings.seed)
    assert torch.equal(again.log_weight, drawn.log_weight)
    assert len(torch.unique(first.log_weight)) == first.log_weight.numel()


@pytest.mark.parametrize("local", [False, True])
def test_nothing_of_the_user_changes(local):
    problem, x = LinearGaussian(), data(4).requires_grad_()
    with pyro.settings.context(module_local_params=local):
        problem.guide(x), problem.model(x)
        store = {name: value.clone() for name, value in pyro.get_param_store().items()}
        for start in ("prior", "guide"):
            found = anneal(problem, x, num_steps=5, start=start)
            assert not found.log_weight.requires_grad
        assert {name: value.tolist() for name, value in pyro.get_param_store().items()} == {
            name: value.tolist() for name, value in store.items()
        }
    assert x.grad is None
    assert all(p.grad is None and p.requires_grad for p in problem.parameters())
    assert pyro.poutine.util.is_validation_enabled()
    assert torch.is_grad_enabled()


def test_the_sites_of_a_run_are_not_seen_outside():
    problem = LinearGaussian()
    with pyro.poutine.trace() as outer:
        anneal(problem, data(2), num_steps=2)
    assert not outer.trace.nodes


@pytest.mark.slow
def test_further_data_are_cut_with_x_and_keyword_arguments_are_passed_whole():
    problem, x = LinearGaussian(), data(5)
    shift, matrix = torch.arange(5).double(), torch.eye(5).double()

    def model(x, shift, *, sign, matrix):
        assert len(shift) == len(x)
        assert matrix.shape == (5, 5)
        return problem.model(x - sign * shift[:, None])

    def guide(x, shift, *, sign, matrix):
        return problem.guide(x - sign * shift[:, None])

    for start in ("prior", "guide"):
        found = annealed_log_likelihood(
            *(model, guide, x, shift),
            sign=-2.0,
            matrix=matrix,
            start=start,
            memory=1,
            seed=1,
            num_steps=200,
            num_chains=32,
            progress=False,
        )
        exact = problem.log_evidence(x + 2 * shift[:, None]).detach()
        assert bool(((found.log_likelihood - exact).abs() < 5 * found.standard_error).all())


def test_progress_is_shown_as_by_log_likelihood(capsys):
    options = {"num_steps": 2, "num_chains": 2, "seed": 1}
    problem = LinearGaussian()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyro_dvae.evaluation.progress._QUIET_SECONDS", 1e9)
        for progress in (False, None):
            annealed_log_likelihood(problem.model, None, data(2), progress=progress, **options)
        assert capsys.readouterr().err == ""
        patch.setattr("pyro_dvae.evaluation.progress._QUIET_SECONDS", 0.0)
        patch.setattr("pyro_dvae.evaluation.progress._Lines.__call__", lambda *args: print("told", *args[1:]))
        annealed_log_likelihood(problem.model, None, data(2), progress=True, **options)
    assert capsys.readouterr().out.splitlines()[-1].startswith("told")


def test_chunks_of_one_datum_give_the_same_evidence_and_report_progress():
    problem, x = LinearGaussian(), data(4)
    seen = []
    found = anneal(problem, x, num_steps=30, memory=1, progress=lambda *steps: seen.append(steps))
    assert float(((found.log_likelihood - truth(problem, x)) / found.standard_error).abs().max()) < 5
    whole = seen[0][1]
    assert seen == [(done + 1, whole) for done in range(whole)]
    assert found.log_weight.shape == (16, 4)
    assert found.acceptance_by_step.shape == (29,)


def test_a_model_in_single_precision_is_weighed_in_double():
    problem = LinearGaussian().float()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ problem.W.T + problem.b, problem.log_s.exp()).to_event(1), obs=x)

    x = data(10)
    found = annealed_log_likelihood(model, None, x.float(), num_steps=60, leapfrog_steps=4, seed=1)
    assert found.log_weight.dtype == torch.float64
    assert found.log_likelihood.dtype == torch.float64
    exact = truth(problem.double(), x)
    assert float(((found.log_likelihood - exact) / found.standard_error).abs().max()) < 5


def test_a_gradient_costs_one_run_of_the_model():
    class Counting(nn.Module):
        runs = 0

        def forward(self, z):
            Counting.runs += 1
            return z

    count = Counting()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(count(z), 1.0).to_event(1), obs=x)

    runs = []
    for leapfrog_steps in (1, 2):
        Counting.runs = 0
        annealed_log_likelihood(
            model, None, torch.zeros(3, 1), num_steps=100, leapfrog_steps=leapfrog_steps, seed=1
        )
        runs.append(Counting.runs)
    assert runs[1] - runs[0] == 99 + pilot_transitions(100)


@pytest.mark.parametrize("name", SCHEDULES)
def test_temperatures_rise_from_zero_to_one(name):
    for count in (1, 2, 37):
        betas = inverse_temperatures(name, count)
        assert betas.shape == (count + 1,)
        assert float(betas[0]) == 0.0
        assert float(betas[-1]) == 1.0
        assert bool((betas.diff() > 0).all())
        torch.testing.assert_close(betas + betas.flip(0), torch.ones_like(betas))


class TestTheRecord:
    settings = AnnealingSettings(2, 4, "prior", 10, "linear", 0.65, 0)
    log_weight = torch.tensor([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0], [0.0, -40.0]], dtype=torch.float64)
    acceptance = torch.tensor([0.5], dtype=torch.float64)
    record = AnnealedLikelihood(log_weight, acceptance, settings)

    def test_values(self):
        w = self.log_weight.exp()
        torch.testing.assert_close(self.record.log_likelihood, w.mean(0).log())
        torch.testing.assert_close(self.record.ess, w.sum(0) ** 2 / (w**2).sum(0))
        torch.testing.assert_close(self.record.standard_error, w.std(0) / 2 / w.mean(0))
        estimate = Estimate(self.record.log_likelihood)
        assert self.record.mean == estimate.mean
        assert self.record.standard_error_of_mean == estimate.standard_error
        assert self.record.acceptance == 0.5

    def test_unreliable_data(self):
        assert self.record.unreliable.tolist() == [False, True]
        lost = torch.full((4, 1), -math.inf, dtype=torch.float64)
        assert AnnealedLikelihood(lost, self.acceptance, self.settings).unreliable.tolist() == [True]
        single = AnnealedLikelihood(self.log_weight[:1], self.acceptance, self.settings)
        assert bool(single.standard_error.isnan().all())
        assert single.unreliable.tolist() == [True, True]

    def test_text(self):
        lines = str(self.record).splitlines()
        assert lines[0] == "annealed importance sampling of 2 rows, nats per observation"
        assert any(line.split() == ["unreliable", "data", "1", "of", "2"] for line in lines)
        assert len({line.index(line.split("  ")[-1].strip()) for line in lines[1:]}) == 1

    def test_json(self):
        values = json.loads(json.dumps(self.record.to_dict(per_datum=True), allow_nan=False))
        assert values["num_data"] == 2
        assert values["per_datum_ess"][0] == pytest.approx(4.0)
        assert values["settings"]["schedule"] == "linear"
        assert "per_datum_ess" not in self.record.to_dict()
        empty = AnnealedLikelihood(self.log_weight[:1, :1], self.acceptance[:0], self.settings)
        assert empty.to_dict()["acceptance"] is None
