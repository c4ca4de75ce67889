import json
import math
import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from arviz_reference import psis_of_arviz
from exact import BinaryProblem, DiscreteProblem, LinearGaussian, check_estimates
from torch import nn

import pyro_dvae as dv
from pyro_dvae.engine import NoCompiler
from pyro_dvae.errors import CheckpointError, InputError
from pyro_dvae.evaluation.importance import plan
from pyro_dvae.interrupts import Stopped
from pyro_dvae.networks import BernoulliDecoder, GaussianEncoder

PROPOSALS = {
    "clean": {},
    "corrupted": {"proposal": "corrupted"},
    "mixture": {"proposal": "mixture", "num_corruptions": 3},
    "widened": {"widen": 1.4},
    "defensive": {"defensive": 0.2},
    "defensive corrupted": {"proposal": "corrupted", "defensive": 0.2},
    "defensive wide mixture": {
        "proposal": "mixture",
        "num_corruptions": 3,
        "defensive": 0.2,
        "widen": 1.2,
    },
}
every_proposal = pytest.mark.parametrize("options", PROPOSALS.values(), ids=PROPOSALS)


def data(count, seed=5):
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def likelihood(problem, x, **options):
    options = {"seed": 1, "max_plate_nesting": 1, "progress": False} | options
    return dv.log_likelihood(problem.model, problem.guide, x, **options)


def near_posterior(sigma=0.2):
    """A linear-Gaussian problem whose guide is about the posterior, as a trained one is."""
    problem = LinearGaussian(sigma=sigma)
    with torch.no_grad():
        noise = (2 * problem.log_s).exp()
        precision = problem.W.T @ problem.W / noise + torch.eye(2, dtype=torch.float64)
        covariance = precision.inverse()
        problem.A.copy_(covariance @ problem.W.T / noise)
        problem.c.copy_(-problem.A @ problem.b)
        problem.log_v.copy_((1.2 * covariance.diagonal()).log())
    return problem


@every_proposal
def test_linear_gaussian_evidence(options):
    problem, x = near_posterior(), data(30)
    found = likelihood(problem, x, num_samples=5000, **options)
    exact = problem.log_evidence(x).detach()
    error = found.log_likelihood - exact
    assert bool((error.abs() < 5 * found.standard_error).all())
    assert abs(found.mean - float(exact.mean())) < 0.01
    assert abs(found.smoothed_mean - float(exact.mean())) < 0.01
    assert float(found.standard_error.max()) < 0.1
    assert found.share_unreliable == 0
    assert found.advice is None


@every_proposal
@pytest.mark.parametrize("num_samples", [5, 12])
def test_weights_have_the_evidence_as_their_mean(options, num_samples):
    problem, x = near_posterior(), data(2)
    repeats = 6000
    found = likelihood(problem, x.repeat(repeats, 1), num_samples=num_samples, **options)
    relative = (found.log_likelihood.reshape(repeats, 2) - problem.log_evidence(x).detach()).exp()
    check_estimates("E w / p(x)", relative, torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(options, id=name, marks=[pytest.mark.slow] if "defensive " in name else [])
        for name, options in PROPOSALS.items()
    ],
)
def test_standard_errors_cover_the_truth(options):
    """Of 1,500 intervals 95 % hold it, with the binomial error of the count."""
    problem, x = near_posterior(), data(3)
    found = likelihood(problem, x.repeat(500, 1), num_samples=1000, **options)
    exact = problem.log_evidence(x).detach().repeat(500)
    z = (found.log_likelihood - exact) / found.standard_error
    covered = float((z.abs() < 1.96).double().mean())
    assert abs(covered - 0.95) < 5 * math.sqrt(0.05 * 0.95 / 1500)
    assert abs(float(z.std()) - 1) < 0.1


def with_noise():
    """The same with a guide that draws noise of its own: ε ~ N(0, I), z ~ N(Ax̃ + Bε + c, diag v)."""
    problem = near_posterior()
    weight = 0.15 * torch.randn(2, 2, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    with torch.no_grad():
        problem.log_v += 0.5
    seen = []

    def encoder(inputs):
        seen.append(tuple(inputs.shape))
        x_tilde, noise = inputs.split([3, 2], -1)
        loc = x_tilde @ problem.A.T + noise @ weight.T + problem.c
        return loc, (problem.log_v / 2).exp().expand(loc.shape)

    network = nn.Module()
    network.forward = encoder
    guide = dv.ImplicitGuide(network, 2, problem.corruption)
    return SimpleNamespace(model=problem.model, guide=guide, log_evidence=problem.log_evidence), seen


@pytest.mark.parametrize("options", [PROPOSALS["clean"], {"defensive": 0.5}], ids=["clean", "defensive"])
def test_standard_errors_of_a_guide_with_noise_of_its_own_cover_the_truth(options):
    """Draws that share noise depend on each other, also mixed with the prior (once 78 % were covered)."""
    (problem, _), x = with_noise(), data(3)
    found = likelihood(problem, x.repeat(500, 1), num_samples=1000, **options)
    exact = problem.log_evidence(x).detach().repeat(500)
    error = found.log_likelihood - exact
    covered = float(((error / found.standard_error).abs() < 1.96).double().mean())
    assert abs(covered - 0.95) < 5 * math.sqrt(0.05 * 0.95 / 1500)
    assert float(error.std()) < 1.1 * float(found.standard_error.square().mean().sqrt())


@pytest.mark.parametrize("options", [PROPOSALS["clean"], PROPOSALS["defensive"]], ids=["clean", "defensive"])
@pytest.mark.parametrize("num_samples", [5, 12])
def test_weights_of_a_guide_with_noise_have_the_evidence_as_their_mean(options, num_samples):
    (problem, _), x = with_noise(), data(2)
    found = likelihood(problem, x.repeat(6000, 1), num_samples=num_samples, **options)
    relative = (found.log_likelihood.reshape(6000, 2) - problem.log_evidence(x).detach()).exp()
    check_estimates("E w / p(x)", relative, torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("options", [{}, {"defensive": 0.2}])
def test_without_corruption_noise_is_drawn_alike_by_both_kinds(options):
    """The guide's noise remains on clean input, new for each sample, like a corruption otherwise."""
    (problem, seen), x = with_noise(), data(4)
    problem.guide.corruption = dv.NoCorruption()
    clean, corrupted = (
        likelihood(problem, x, num_samples=60, proposal=kind, **options) for kind in ("clean", "corrupted")
    )
    for name, values in clean.per_datum().items():
        assert torch.equal(values, corrupted.per_datum()[name]), name
    assert torch.equal(clean.bound_by_samples[1], corrupted.bound_by_samples[1])
    assert seen[-1] == (12 if options else 60, 4, 5)


def test_noise_that_is_no_corruption_site_counts_too():
    """Any uncounted site, here a plain distribution beside a corruption."""
    problem, x, shapes = near_posterior(), data(3), []

    def guide(x):
        with pyro.plate("data", len(x)):
            x_tilde = dv.corrupt("x_tilde", problem.corruption, x)
            noise = dv.auxiliary("noise", dist.Normal(x.new_zeros(()), 0.2))
            shapes.append((tuple(x_tilde.shape), tuple(noise.shape)))
            problem.recognition(x_tilde + noise.unsqueeze(-1))

    found = dv.log_likelihood(problem.model, guide, x, num_samples=2000, seed=1, defensive=0.3)
    exact = problem.log_evidence(x).detach()
    assert bool(((found.log_likelihood - exact).abs() < 5 * found.standard_error).all())
    assert len(shapes[-1][1]) == 2


def test_clean_data_are_encoded_once():
    problem, shapes = near_posterior(), []
    recognition = problem.recognition
    problem.recognition = lambda x_tilde: (shapes.append(tuple(x_tilde.shape)), recognition(x_tilde))
    likelihood(problem, data(4), num_samples=300, defensive=0.2, proposal="clean")
    assert set(shapes) == {(2, 3), (4, 3)}


def test_strata_make_the_error_smaller_than_independent_draws_would():
    problem, x = near_posterior(sigma=1.0), data(20)
    found = likelihood(
        problem, x, num_samples=2000, proposal="mixture", num_corruptions=4, keep_log_weight=True
    )
    weights = (found.log_weight - found.log_weight.amax(1, keepdim=True)).exp()
    naive = weights.std(1) / weights.mean(1) / math.sqrt(2000)
    ratio = found.standard_error / naive
    assert bool((ratio < 1 + 1e-9).all())
    assert float(ratio.min()) < 0.97


@pytest.mark.parametrize("options", [PROPOSALS[n] for n in ("clean", "corrupted", "mixture", "defensive")])
def test_enumerated_discrete_latents(options):
    problem = DiscreteProblem(dv.BitFlip(0.2))
    x = torch.tensor([[0.0, 1.0, 1.0], [1.0, 1.0, 0.0]], dtype=torch.float64)
    with torch.no_grad():
        exact = problem.log_joint(problem.latents(x[0])[0], x).logsumexp(0)
    found = likelihood(problem, x, num_samples=20000, **options)
    assert bool(((found.log_likelihood - exact).abs() < 5 * found.standard_error + 1e-9).all())
    assert float(found.standard_error.max()) < 0.02
    tiny = likelihood(problem, x.repeat(4000, 1), num_samples=12, **options)
    relative = (tiny.log_likelihood.reshape(4000, 2) - exact).exp()
    check_estimates("E w / p(x)", relative, torch.ones(2, dtype=torch.float64))


def test_a_nonlinear_decoder_against_quadrature():
    problem = BinaryProblem(dv.BitFlip(0.3))
    x = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    points, weights = np.polynomial.hermite_e.hermegauss(80)
    z = torch.as_tensor(points)
    with torch.no_grad():
        given = dist.Bernoulli(logits=problem.logits(z[:, None])[:, None]).log_prob(x).sum(-1)
    exact = (torch.as_tensor(weights / weights.sum()).log()[:, None] + given).logsumexp(0)
    # The guide of this problem is far too narrow: a share of prior draws bounds the weights.
    found = likelihood(problem, x, num_samples=20000, defensive=0.3)
    assert bool(((found.log_likelihood - exact).abs() < 5 * found.standard_error).all())
    assert float(found.standard_error.max()) < 0.02


@pytest.mark.parametrize("options", [PROPOSALS[n] for n in ("clean", "corrupted", "mixture")])
def test_the_estimate_rises_with_the_number_of_samples(options):
    problem, x = LinearGaussian(), data(2)
    found = likelihood(problem, x.repeat(300, 1), num_samples=600, **options)
    sizes, bounds = found.bound_by_samples
    assert sizes[-1] == found.num_samples == 600
    torch.testing.assert_close(bounds[:, -1], found.log_likelihood)
    rise = (bounds[:, 1:] - bounds[:, :-1]).reshape(300, 2, -1)
    mean, error = rise.mean(0), rise.std(0) / math.sqrt(300)
    assert bool((mean > -4 * error).all())
    assert bool((mean[:, :4] > 4 * error[:, :4]).all())
    exact = problem.log_evidence(x).detach()
    assert bool((bounds.reshape(300, 2, -1).mean(0)[:, :5] < exact[:, None]).all())


def test_one_sample_is_the_bound():
    problem, x = LinearGaussian(sigma=0.0, learn_sigma=False), data(2)
    found = likelihood(problem, x.repeat(500, 1), num_samples=40)
    sizes, bounds = found.bound_by_samples
    assert sizes[0] == 1
    check_estimates("L_1", bounds[:, 0].reshape(500, 2), problem.l_dvae(x).detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", [{}, {"proposal": "mixture"}, {"defensive": 0.1}])
def test_the_measures_follow_from_the_log_weights(options, dtype):
    problem, x = LinearGaussian().to(dtype), data(20).to(dtype)
    problem.corruption = dv.GaussianNoise(torch.tensor(0.4, dtype=dtype))
    torch.set_default_dtype(dtype)
    found = likelihood(InDtype(problem, dtype), x, num_samples=400, keep_log_weight=True, **options)
    weight = found.log_weight.double()
    assert weight.shape == (20, 400)
    torch.testing.assert_close(found.log_likelihood, weight.logsumexp(1) - math.log(400))
    relative = (weight - weight.logsumexp(1, keepdim=True)).exp()
    torch.testing.assert_close(found.ess, 1 / relative.square().sum(1))
    if not options:
        torch.testing.assert_close(found.standard_error, relative.std(1) * math.sqrt(400))
    smoothed, k = (values.numpy() for values in psis_of_arviz(weight))
    # In single precision a draw may lie within rounding of the cutoff, and count as a tie with it.
    close = 1e-6 if dtype == torch.float64 else 0.02
    np.testing.assert_allclose(found.pareto_k.numpy(), k, rtol=close, atol=close)
    # ArviZ normalises by the smoothed sum; its smallest weight is a raw one.
    least = weight.numpy().argmin(1)[:, None]
    total = np.take_along_axis(weight.numpy(), least, 1) - np.take_along_axis(smoothed, least, 1)
    np.testing.assert_allclose(
        found.smoothed_log_likelihood.numpy(), total[:, 0] - math.log(400), rtol=close, atol=close
    )


class InDtype:
    """The linear-Gaussian problem with a prior of the given type."""

    def __init__(self, problem, dtype):
        self.problem, self.guide = problem, problem.guide
        self.zero = torch.zeros(2, dtype=dtype)

    def model(self, x):
        problem = self.problem
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.zero, 1.0).to_event(1))
            loc = z @ problem.W.T + problem.b
            pyro.sample("x", dist.Normal(loc, problem.log_s.exp()).to_event(1), obs=x)


def test_bad_proposals_are_reported_with_advice():
    problem = LinearGaussian()
    with torch.no_grad():
        problem.log_v.fill_(-9.0)
    found = likelihood(problem, data(20), num_samples=1000, proposal="clean")
    assert found.share_unreliable > 0.5
    assert "proposal='mixture'" in found.advice
    assert "too low" in found.table()
    plain = dv.log_likelihood(problem.model, problem.plain_guide, data(20), num_samples=1000, seed=1)
    assert "mixture" not in plain.advice
    assert "widen=" in plain.advice
    widened = likelihood(problem, data(20), num_samples=1000, widen=1.01)
    assert "a larger widen" in widened.advice
    assert "defensive=" in widened.advice
    assert "annealed_log_likelihood" in widened.advice
    defended = likelihood(problem, data(20), num_samples=5000, defensive=0.5)
    assert defended.share_unreliable < 0.2


def test_a_guide_without_corruption_has_one_proposal():
    problem, x = LinearGaussian(), data(10)
    both = [
        dv.log_likelihood(problem.model, problem.plain_guide, x, num_samples=200, proposal=kind, seed=1)
        for kind in ("clean", "mixture")
    ]
    assert both[1].proposal.kind == "clean"
    assert torch.equal(both[0].log_likelihood, both[1].log_likelihood)


def test_equal_weights_have_no_tail():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, math.sqrt(0.5)))

    for dtype in (torch.float32, torch.float64):
        x = torch.linspace(-3, 3, 7, dtype=dtype)
        found = dv.log_likelihood(model, guide, x, num_samples=500)
        exact = dist.Normal(0.0, math.sqrt(2)).log_prob(x).double()
        torch.testing.assert_close(found.log_likelihood, exact, rtol=1e-5, atol=1e-5)
        assert bool((found.pareto_k == -math.inf).all())
        assert found.share_unreliable == 0
        assert float(found.standard_error.max()) < 1e-5


def test_data_that_the_model_cannot_make():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))
            pyro.sample("x", dist.Uniform(z, z + 1.0, validate_args=False), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(torch.full((len(x),), 0.5)))

    found = dv.log_likelihood(model, guide, torch.tensor([0.5, 7.0]), num_samples=2000, seed=1)
    assert abs(float(found.log_likelihood[0]) - math.log(0.5)) < 5 * float(found.standard_error[0])
    assert float(found.log_likelihood[1]) == -math.inf
    assert float(found.ess[1]) == 0
    assert float(found.pareto_k[1]) == math.inf
    json.dumps(found.to_dict(per_datum=True), allow_nan=False)


@pytest.mark.parametrize("memory", [30_000, 200_000, 2**29])
def test_any_memory_gives_the_figure(memory):
    problem, x = near_posterior(), data(12)
    found = likelihood(problem, x, num_samples=3000, memory=memory)
    assert 3000 <= found.num_samples <= 3100
    exact = problem.log_evidence(x).detach()
    assert bool(((found.log_likelihood - exact).abs() < 5 * found.standard_error).all())


@pytest.mark.slow
def test_memory_does_not_grow_with_data_and_samples():
    """1,000 data × 5,000 draws are 40 MB of log weights alone; the process may grow by half of that."""
    script = """
import resource, sys, torch
sys.path.insert(0, "tests")
from test_log_likelihood import likelihood, near_posterior, data
torch.set_num_threads(1)
problem = near_posterior()
likelihood(problem, data(20), num_samples=5000, memory=2**22)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
likelihood(problem, data(1000), num_samples=5000, memory=2**22)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    folder = __file__.rsplit("/", 1)[0]
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {folder!r})\n{script}"],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder.rsplit("/tests/", 1)[0],
    )
    assert int(run.stdout) < 20_000  # KiB


def test_a_seed_decides_and_nothing_else_changes():
    problem, x = LinearGaussian(), data(9)
    before = torch.get_rng_state()
    first = likelihood(problem, x, num_samples=100)
    assert torch.equal(torch.get_rng_state(), before)
    torch.randn(3)
    again = likelihood(problem, x, num_samples=100)
    assert torch.equal(first.log_likelihood, again.log_likelihood)
    other = likelihood(problem, x, num_samples=100, seed=2)
    assert not torch.equal(first.log_likelihood, other.log_likelihood)
    drawn = [likelihood(problem, x, num_samples=100, seed=None) for _ in range(2)]
    assert not torch.equal(drawn[0].log_likelihood, drawn[1].log_likelihood)
    repeated = likelihood(problem, x, num_samples=100, seed=drawn[0].seed)
    assert torch.equal(drawn[0].log_likelihood, repeated.log_likelihood)
    assert all(p.grad is None for p in problem.parameters())


def test_modules_are_in_evaluation_mode_and_restored():
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Dropout(0.5)).double()
    problem = LinearGaussian()

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(network(x), 1.0).to_event(1))

    statistics = network[1].running_mean.clone()
    both = [dv.log_likelihood(problem.model, guide, data(20), num_samples=50, seed=1)]
    assert network.training
    assert torch.equal(network[1].running_mean, statistics)
    network.eval()
    both.append(dv.log_likelihood(problem.model, guide, data(20), num_samples=50, seed=1))
    assert torch.equal(both[0].log_likelihood, both[1].log_likelihood)


def test_further_arguments_are_cut_with_the_data():
    problem, x = near_posterior(), data(11)
    shift = torch.arange(11, dtype=torch.float64)

    matrix = torch.eye(11, dtype=torch.float64)  # as many rows as the data, by chance

    def model(x, shift, *, sign, matrix):
        assert len(shift) == len(x)
        assert matrix.shape == (11, 11)
        return problem.model(x - sign * shift[:, None])

    def guide(x, shift, *, sign, matrix):
        return problem.guide(x - sign * shift[:, None])

    options = {"num_samples": 300, "memory": 20_000, "seed": 1}
    found = dv.log_likelihood(model, guide, x, shift, sign=-2.0, matrix=matrix, **options)
    exact = problem.log_evidence(x + 2 * shift[:, None]).detach()
    assert bool(((found.log_likelihood - exact).abs() < 5 * found.standard_error).all())


@pytest.mark.parametrize(
    ("other", "came"),
    [
        (2, r"expected a tensor .*, got 2"),
        (torch.zeros(3), "expected 11 rows, as in data, got 3"),
        (torch.zeros(()), r"expected data of shape \[N, ...\], got a single number"),
    ],
)
@pytest.mark.parametrize("measure", [dv.log_likelihood, dv.annealed_log_likelihood])
def test_positional_arguments_without_the_rows_of_x_are_refused(measure, other, came):
    problem = near_posterior()
    words = f"^data, further argument 2: {came}; pass by keyword what every batch gets whole"
    with pytest.raises(InputError, match=words):
        measure(problem.model, problem.guide, data(11), torch.zeros(11), other)


class StopHereError(Exception):
    pass


def _stopping(after):
    def progress(done, total):
        if done >= after:
            raise StopHereError

    return progress


def test_a_stopped_evaluation_resumes(tmp_path):
    problem, x, file = near_posterior(), data(40), tmp_path / "evaluation.safetensors"
    options = {"num_samples": 700, "proposal": "mixture", "keep_log_weight": True}
    whole = likelihood(problem, x, **options)
    with pytest.raises(StopHereError):
        likelihood(problem, x, checkpoint=file, progress=_stopping(11), **options)
    done = []
    resumed = likelihood(
        problem, x, checkpoint=file, progress=lambda count, total: done.append(count), **options
    )
    assert done[0] > 11
    for name, values in whole.per_datum().items():
        assert torch.equal(values, resumed.per_datum()[name]), name
    assert torch.equal(whole.log_weight, resumed.log_weight)
    assert torch.equal(whole.bound_by_samples[1], resumed.bound_by_samples[1])
    again = likelihood(problem, x, checkpoint=file, progress=_stopping(0), **options)
    assert torch.equal(whole.log_likelihood, again.log_likelihood)


def test_a_resumed_evaluation_keeps_its_seed(tmp_path):
    problem, x, file = near_posterior(), data(40), tmp_path / "evaluation.safetensors"
    with pytest.raises(StopHereError):
        likelihood(problem, x, checkpoint=file, progress=_stopping(11), num_samples=700, seed=None)
    resumed = likelihood(problem, x, checkpoint=file, num_samples=700, seed=None)
    whole = likelihood(problem, x, num_samples=700, seed=resumed.seed)
    assert torch.equal(whole.log_likelihood, resumed.log_likelihood)


def test_ctrl_c_keeps_what_is_done(tmp_path):
    import signal

    problem, x, file = near_posterior(), data(40), tmp_path / "evaluation.safetensors"

    def interrupt(done, total):
        if done >= 8:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Stopped) as stop:
        likelihood(problem, x, checkpoint=file, progress=interrupt, num_samples=700)
    assert stop.value.checkpoint == file
    resumed = likelihood(problem, x, checkpoint=file, num_samples=700)
    assert torch.equal(likelihood(problem, x, num_samples=700).log_likelihood, resumed.log_likelihood)


def test_a_file_of_another_evaluation_is_refused(tmp_path):
    problem, x, file = near_posterior(), data(12), tmp_path / "evaluation.safetensors"
    likelihood(problem, x, checkpoint=file, num_samples=60)
    before = file.read_bytes()
    for change, name in (
        ({"num_samples": 70}, "num_samples"),
        ({"seed": 2}, "seed"),
        ({"widen": 1.5}, "proposal"),
        ({"data": x + 1}, "data"),
    ):
        options = {"data": x, "num_samples": 60, "checkpoint": file} | change
        with pytest.raises(CheckpointError, match=name):
            likelihood(problem, options.pop("data"), **options)
    with torch.no_grad():
        problem.b += 1
    with pytest.raises(CheckpointError, match="parameters"):
        likelihood(problem, x, checkpoint=file, num_samples=60)
    assert file.read_bytes() == before
    file.write_bytes(before[:-5])
    with pytest.raises(CheckpointError, match=r"truncated|damaged"):
        likelihood(problem, x, checkpoint=file, num_samples=60)


def small_network(dtype=torch.float32):
    torch.manual_seed(3)
    dvae = dv.DVAE(
        GaussianEncoder(40, 4, (16,)), BernoulliDecoder(40, 4, (16, 16)), dv.SaltAndPepper(0.1)
    ).to(dtype)
    return dvae, (torch.rand(10, 40) < 0.3).to(dtype)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"proposal": "corrupted"}, {"proposal": "mixture", "defensive": 0.1}]
)
def test_the_compiled_form_gives_the_same_figures(options):
    dvae, x = small_network()
    with pyro.settings.context(module_local_params=True):
        plain, fast = (
            dv.log_likelihood(dvae.model, dvae.guide, x, num_samples=400, seed=1, compile=compiled, **options)
            for compiled in (False, True)
        )
    torch.testing.assert_close(plain.log_likelihood, fast.log_likelihood, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(plain.standard_error, fast.standard_error, rtol=1e-2, atol=1e-4)


@pytest.mark.usefixtures("bfloat16_pays")
def test_bfloat16_products_are_near():
    dvae, x = small_network()
    with pyro.settings.context(module_local_params=True):
        plain, rough = (
            dv.log_likelihood(dvae.model, dvae.guide, x, num_samples=400, seed=1, bfloat16=bfloat16)
            for bfloat16 in (False, True)
        )
    difference = (plain.log_likelihood - rough.log_likelihood).abs()
    assert 0 < float(difference.max()) < 0.3


def recording(monkeypatch):
    """Record runs of any length."""
    monkeypatch.setattr(plan, "_WORTH_RECORDING", 0.0)


def test_recorded_passes_are_the_plain_ones(monkeypatch):
    problem, x = LinearGaussian(), data(7)
    plain = likelihood(problem, x, num_samples=3000)
    recording(monkeypatch)
    assert torch.equal(plain.log_likelihood, likelihood(problem, x, num_samples=3000).log_likelihood)


def test_what_cannot_be_recorded_runs_plainly(monkeypatch):
    problem, x = near_posterior(), data(6)
    calls = []

    def by_value(x):
        if float(x.sum()) > 1e9:
            raise AssertionError
        return problem.guide(x)

    def by_state(x):
        calls.append(None)
        return problem.guide(x + 1e-3 * len(calls))

    recording(monkeypatch)
    expected = likelihood(problem, x, num_samples=500)
    for guide in (by_value, by_state):
        with pytest.warns(UserWarning, match="slower"):
            found = dv.log_likelihood(problem.model, guide, x, num_samples=500, seed=1)
        assert bool((found.log_likelihood - expected.log_likelihood).abs().max() < 0.5)


def test_without_a_compiler_it_runs_recorded(monkeypatch):
    def no_compiler(*args):
        raise NoCompiler("no C++ compiler")

    monkeypatch.setattr(plan, "compile_graph", no_compiler)
    problem, x = LinearGaussian(), data(6)
    with pytest.warns(UserWarning, match="without compilation.*no C"):
        found = likelihood(problem, x, num_samples=500, compile=True)
    assert torch.equal(found.log_likelihood, likelihood(problem, x, num_samples=500).log_likelihood)


def global_latent(x):
    z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def global_guide(x):
    pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))


BAD = {
    "x no tensor": ({"data": [1.0]}, "data: expected a tensor .*, got list"),
    "x a number": ({"data": torch.tensor(1.0)}, "data: expected data of shape"),
    "x empty": ({"data": torch.zeros(0, 3)}, "data: expected at least one element"),
    "x NaN": ({"data": torch.full((2, 3), math.nan)}, "data: expected finite values"),
    "no samples": ({"num_samples": 0}, "num_samples: expected a whole number of at least 1"),
    "half a sample": ({"num_samples": 2.5}, "num_samples: expected a whole number"),
    "proposal": ({"proposal": "mixtur"}, "did you mean 'mixture'"),
    "one corruption": ({"proposal": "mixture", "num_corruptions": 1}, "num_corruptions: .* at least 2"),
    "share": ({"defensive": 1.5}, r"defensive: expected a number in \[0, 1\]"),
    "all from the prior": ({"defensive": 1.0}, "defensive: expected a share below 1"),
    "widen": ({"widen": 0.0}, "widen: expected a number above 0"),
    "widen far": ({"widen": 2.0**63}, r"widen: expected a number in \[-inf, 1000\]"),
    "memory": ({"memory": -1}, "memory: expected a whole number"),
    "seed": ({"seed": -1}, "seed: expected a whole number"),
    "weights beyond memory": (
        {"keep_log_weight": True, "memory": 10**4, "num_samples": 10**5},
        "keep_log_weight: .*memory=10000",
    ),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_bad_input(change, message):
    problem = LinearGaussian()
    options = {"data": data(4), "num_samples": 10} | change
    with pytest.raises(InputError, match=message):
        likelihood(problem, options.pop("data"), **options)


def test_models_that_have_no_weight_per_datum():
    with pytest.raises(InputError, match="expected one plate with the 4 rows"):
        dv.log_likelihood(global_latent, global_guide, torch.zeros(4), num_samples=10)


def test_nan_weights_are_no_figure():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
            pyro.sample("odd", dist.Normal((z - 100).sqrt(), 1.0, validate_args=False), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(InputError, match="NaN"):
            dv.log_likelihood(model, guide, torch.zeros(3), num_samples=10)


def test_a_distribution_without_a_wider_form():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Beta(torch.ones(len(x)), 1.0))

    with pytest.raises(InputError, match="widen: no wider form of Beta at site 'z'"):
        dv.log_likelihood(model, model, torch.zeros(3), num_samples=10, widen=2.0)


def test_the_record_as_table_json_and_labelled_data(tmp_path):
    problem, x = near_posterior(), data(15)
    found = likelihood(problem, x, num_samples=300, keep_log_weight=True)
    assert str(found).startswith("15 rows, 300 samples each, proposal: clean")
    content = found.to_dict(per_datum=True)
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert content["mean"] == found.mean
    assert len(content["per_datum"]["pareto_k"]) == 15
    assert found.total == pytest.approx(15 * found.mean)
    labelled = found.to_arviz()
    group = labelled["importance_sampling"]
    np.testing.assert_array_equal(group["log_likelihood"].values, found.log_likelihood.numpy())
    np.testing.assert_array_equal(group["log_weight"].values, found.log_weight.numpy())
    assert group["log_weight"].dims == ("datum", "importance_sample")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_on_the_accelerator():
    dvae, x = small_network()
    with pyro.settings.context(module_local_params=True):
        expected = dv.log_likelihood(dvae.model, dvae.guide, x, num_samples=4000, seed=1)
        dvae.to("cuda")
        for compiled in (False, True):
            found = dv.log_likelihood(
                dvae.model, dvae.guide, x.cuda(), num_samples=4000, seed=1, compile=compiled
            )
            error = (found.standard_error.square() + expected.standard_error.square()).sqrt()
            assert bool(((found.log_likelihood - expected.log_likelihood).abs() < 5 * error).all())
            assert found.log_likelihood.device.type == "cpu"


def _three_latents(x):
    with pyro.plate("data", len(x)):
        first = pyro.sample("first", dist.LogNormal(x.new_zeros(len(x)), 1.0))
        second = pyro.sample("second", dist.Normal(x.new_zeros(len(x)), 1.0))
        pyro.sample("x", dist.Normal(first + second, 0.5), obs=x)


def _in_other_coordinates(x, second):
    with pyro.plate("data", len(x)):
        base = pyro.sample("base", dist.Normal(x.new_zeros(len(x)), 1.0), infer={"is_auxiliary": True})
        first = pyro.sample("first", dist.Delta(base.exp(), log_density=-base))
        pyro.sample("second", second(first))


def test_a_latent_that_is_a_function_of_others_has_no_density():
    x = torch.tensor([0.3, 1.7], dtype=torch.float64)
    with pytest.raises(InputError, match="is a point mass without a density"):
        dv.log_likelihood(
            _three_latents,
            lambda x: _in_other_coordinates(x, dist.Delta),
            x,
            num_samples=50,
            proposal="mixture",
        )
    found = dv.log_likelihood(
        _three_latents,
        lambda x: _in_other_coordinates(x, lambda first: dist.Normal(x - first, 0.6)),
        x,
        num_samples=40_000,
        seed=0,
    )
    points = torch.linspace(-9, 9, 4001, dtype=torch.float64)  # of log(first)
    joint = dist.Normal(0.0, 1.0).log_prob(points) + dist.Normal(points.exp(), 1.25**0.5).log_prob(x[:, None])
    expected = torch.logsumexp(joint, 1) + math.log(18 / 4000)
    assert bool(((found.log_likelihood - expected).abs() < 5 * found.standard_error).all())
