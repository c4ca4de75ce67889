"""The contract of every exported bound; an exported bound without an entry here fails."""

import math

import pyro
import pytest
import torch
from exact import BinaryProblem, DiscreteProblem, LinearGaussian, check_estimates, gradients
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO

import pyro_dvae as dv
from pyro_dvae import bounds

BOUNDS = {
    "TraceDenoising_ELBO": {"": {}, "stl": {"gradient": "stl"}},
    "TraceDenoisingIWAE_ELBO": {
        "": {},
        "pooled": {"combine": "pooled"},
        "mixture": {"combine": "mixture"},
        "dreg": {"gradient": "dreg"},
    },
    "TraceMeanFieldDenoising_ELBO": {"": {}},
    "TraceSemiImplicit_ELBO": {"": {"num_mixture": 3}, "J = 0": {"num_mixture": 0}},
}
CASES = [(name, variant) for name, variants in BOUNDS.items() for variant in variants]
DRAWS = [(1, 1), (3, 1), (1, 4), (3, 4)]


def make(case, m=1, k=1, **more):
    name, variant = case
    return getattr(bounds, name)(num_corruptions=m, num_particles=k, **BOUNDS[name][variant], **more)


def data(count=4, size=3, seed=5):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(call, *arguments, seed=3):
    pyro.set_rng_seed(seed)
    return call(*arguments)


def test_every_exported_bound_has_an_entry():
    exported = {name for name in bounds.__all__ if name.startswith("Trace")}
    assert exported == set(BOUNDS)
    assert exported <= set(dv.__all__)


@pytest.mark.parametrize(("m", "k"), DRAWS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_losses_agree_under_one_seed(case, m, k):
    problem, bound, x = LinearGaussian(), make(case, m, k), data()
    pair = (problem.model, problem.guide, x)
    loss = seeded(bound.loss, *pair)
    assert isinstance(loss, float)
    assert seeded(bound.loss_and_grads, *pair) == pytest.approx(loss, rel=1e-12)
    by_step = gradients(problem)
    module = bound(problem.model, problem.guide)
    value = seeded(module, x)
    value.backward()
    assert float(value.detach()) == pytest.approx(loss, rel=1e-12)
    for name, gradient in gradients(problem).items():
        torch.testing.assert_close(gradient, by_step[name])
    per_datum = seeded(bound.per_datum, *pair)
    assert per_datum.shape == (4,)
    assert not per_datum.requires_grad
    assert -float(per_datum.sum()) == pytest.approx(loss, rel=1e-12)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_single_draw_is_the_simple_bound(case):
    """Under one seed: Pyro's own ELBO, sampled or with its KL in closed form."""
    name, variant = case
    if BOUNDS[name][variant].get("num_mixture"):
        pytest.skip("a mixture of several is no simple bound")
    problem, x = LinearGaussian(), data()
    stock = TraceMeanField_ELBO() if "MeanField" in name else Trace_ELBO()
    expected = seeded(stock.loss_and_grads, problem.model, problem.guide, x)
    wanted = gradients(problem)
    assert seeded(make(case).loss_and_grads, problem.model, problem.guide, x) == pytest.approx(expected)
    if variant not in ("stl", "dreg"):  # other estimators of the same gradient
        for parameter, gradient in gradients(problem).items():
            torch.testing.assert_close(gradient, wanted[parameter])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_scale_multiplies_value_and_gradient(case):
    problem, bound, x = LinearGaussian(), make(case, 2, 3), data()
    loss = seeded(bound.loss_and_grads, problem.model, problem.guide, x)
    plain = gradients(problem)
    scaled = [poutine.scale(program, 2.5) for program in (problem.model, problem.guide)]
    assert seeded(bound.loss_and_grads, *scaled, x) == pytest.approx(2.5 * loss)
    for name, gradient in gradients(problem).items():
        torch.testing.assert_close(gradient, 2.5 * plain[name])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_subsampling_multiplies_outside_the_logarithm(case):
    """A batch of B out of N: N/B times the bound of the batch, whatever the bound does inside."""
    problem, bound, x = LinearGaussian(), make(case, 2, 3, max_plate_nesting=1), data()

    def wide(program):
        return lambda x: program(x, 40)

    def mean_loss(model, guide, seed):
        pyro.set_rng_seed(seed)
        return torch.tensor([bound.loss(model, guide, x) for _ in range(40)], dtype=torch.float64)

    plain = mean_loss(problem.model, problem.guide, 1)
    subsampled = mean_loss(wide(problem.model), wide(problem.guide), 2)
    difference = subsampled.mean() - 10 * plain.mean()
    error = math.sqrt(float(subsampled.var() + 100 * plain.var()) / 40)
    assert abs(float(difference)) < 5 * error


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_mask_takes_data_out(case):
    problem, bound, x = LinearGaussian(), make(case, 2, 3), data()
    mask = torch.tensor([True, False, True, False])
    masked = [poutine.mask(program, mask) for program in (problem.model, problem.guide)]
    loss = seeded(bound.loss_and_grads, *masked, x)
    with_mask = gradients(problem)
    per_datum = seeded(bound.per_datum, problem.model, problem.guide, x)
    assert -loss == pytest.approx(float(per_datum[mask].sum()))
    assert seeded(bound.per_datum, *masked, x)[~mask].abs().max() == 0
    assert all(bool(torch.isfinite(gradient).all()) for gradient in with_mask.values())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_annealed_divergence_stays_inside(case):
    """With different scales of likelihood and prior, the bound has the tempered weights, at any scale."""
    problem, bound, x = LinearGaussian(), make(case, 2, 3), data()

    def tempered(program):
        def run(x):
            with poutine.scale(scale=2.0):
                program(x)

        return run

    def model(x):
        with Tempered(0.5, {"z"}):
            problem.model(x)

    def guide(x):
        with Tempered(0.5, {"z"}):
            problem.guide(x)

    loss = seeded(bound.loss, model, guide, x)
    assert loss != pytest.approx(seeded(bound.loss, problem.model, problem.guide, x))
    outer = seeded(bound.loss, tempered(model), tempered(guide), x)
    if "IWAE" not in case[0]:  # linear in the weights' logarithms, so the outer factor comes out
        assert outer == pytest.approx(2 * loss)
    assert math.isfinite(outer)


class Tempered(poutine.messenger.Messenger):
    def __init__(self, factor, names):
        super().__init__()
        self.factor, self.names = factor, names

    def _pyro_sample(self, msg):
        if msg["name"] in self.names:
            msg["scale"] = msg["scale"] * self.factor


@pytest.mark.parametrize("local", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_trains_by_svi_and_by_torch(case, local):
    x = data(30)
    with pyro.settings.context(module_local_params=local):
        for form in ("svi", "torch"):
            pyro.clear_param_store()
            problem, bound = LinearGaussian(sigma=0.2), make(case, 2, 2, max_plate_nesting=1)
            before = float(problem.l_dvae(x).mean().detach())
            if form == "svi":
                svi = SVI(problem.model, problem.guide, pyro.optim.Adam({"lr": 0.03}), bound)
                for _ in range(60):
                    svi.step(x)
            else:
                optimizer = torch.optim.Adam(problem.parameters(), lr=0.03)
                module = bound(problem.model, problem.guide)
                for _ in range(60):
                    optimizer.zero_grad()
                    module(x).backward()
                    optimizer.step()
            assert float(problem.l_dvae(x).mean().detach()) > before + 0.3


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_encoder_sees_m_inputs_and_j_for_a_mixture(case):
    problem, shapes = LinearGaussian(), []
    recognition = problem.recognition
    problem.recognition = lambda x_tilde: (shapes.append(tuple(x_tilde.shape)), recognition(x_tilde))
    bound = make(case, 5, 7, max_plate_nesting=1)
    bound.loss(problem.model, problem.guide, data())  # the first run looks whether the pair vectorises
    shapes.clear()
    bound.loss(problem.model, problem.guide, data())
    name, variant = case
    expected = [(5, 4, 3)]
    if variant == "mixture":
        expected.append((5, 1, 1, 4, 3))
    if BOUNDS[name][variant].get("num_mixture"):
        expected.append((3, 1, 1, 4, 3))
    assert shapes == expected


@pytest.mark.parametrize("case", [case for case in CASES if case[1] not in ("stl", "dreg")], ids=str)
def test_discrete_corruption_and_latents_are_accepted(case):
    x = data().sigmoid().round()
    for kind in (BinaryProblem, DiscreteProblem):
        problem = kind(dv.BitFlip(torch.tensor(0.2, dtype=torch.float64), learnable=True))
        make(case, 2, 2).loss_and_grads(problem.model, problem.guide, x)
        found = gradients(problem)
        assert all(float(gradient.abs().sum()) > 0 for gradient in found.values()), found
        pyro.clear_param_store()


@pytest.mark.parametrize("combine", ["average", "pooled"])
def test_looped_and_vectorised_agree_in_distribution(combine):
    """Weights gathered from single-draw runs, one after another, give the bound of one vectorised run."""
    problem, x = LinearGaussian(learn_sigma=False), data(1).expand(3000, -1)
    one = dv.TraceDenoising_ELBO(max_plate_nesting=1)
    looped = torch.stack([one.per_datum(problem.model, problem.plain_guide, x) for _ in range(4)])
    looped = torch.logsumexp(looped, 0) - math.log(4)
    bound = dv.TraceDenoisingIWAE_ELBO(
        num_corruptions=1, num_particles=4, combine=combine, max_plate_nesting=1
    )
    vectorised = bound.per_datum(problem.model, problem.plain_guide, x)
    check_estimates("bound", vectorised - looped, torch.zeros((), dtype=torch.float64))
    for power in (2, 3):
        difference = (vectorised - looped.mean()) ** power - (looped - looped.mean()) ** power
        check_estimates(f"moment {power}", difference, torch.zeros((), dtype=torch.float64))


REFUSED = [
    (lambda: dv.TraceDenoising_ELBO(gradient="dreg"), "use 'stl'"),
    (lambda: dv.TraceDenoising_ELBO(baseline="vimco"), "use 'leave-one-out'"),
    (lambda: dv.TraceDenoising_ELBO(gradient="path"), "did you mean 'pathwise'"),
    (lambda: dv.TraceDenoisingIWAE_ELBO(gradient="stl"), "use 'dreg'"),
    (lambda: dv.TraceDenoisingIWAE_ELBO(baseline="leave-one-out"), "use 'vimco'"),
    (lambda: dv.TraceDenoisingIWAE_ELBO(combine="mixture", gradient="dreg"), "use 'pathwise'"),
    (lambda: dv.TraceDenoisingIWAE_ELBO(combine="mean"), "combine: unknown name 'mean'"),
    (lambda: dv.TraceMeanFieldDenoising_ELBO(gradient="stl"), "TraceDenoising_ELBO"),
    (lambda: dv.TraceSemiImplicit_ELBO(num_mixture=-1), "num_mixture"),
    (lambda: dv.TraceSemiImplicit_ELBO(baseline="vimco"), "use 'leave-one-out'"),
    (lambda: dv.TraceDenoising_ELBO(max_iarange_nesting=1), "max_plate_nesting"),
    (lambda: dv.TraceDenoising_ELBO(jit_options={}), "CompiledSVI"),
    (lambda: dv.TraceDenoising_ELBO(tail_adaptive_beta=-1.0), "TraceTailAdaptive_ELBO"),
    (lambda: dv.TraceDenoising_ELBO(max_plate_nesting=-1), "max_plate_nesting"),
]


@pytest.mark.parametrize(("build", "remedy"), REFUSED)
def test_what_does_not_apply_is_refused_with_the_remedy(build, remedy):
    with pytest.raises(dv.InputError, match=remedy):
        build()


def test_dreg_refuses_discrete_and_chained_latents():
    bound = dv.TraceDenoisingIWAE_ELBO(num_corruptions=1, num_particles=3, gradient="dreg")
    problem = DiscreteProblem(dv.BitFlip(0.2))
    with pytest.raises(dv.InputError, match=r"'z' is not; use 'pathwise'"):
        bound.loss_and_grads(problem.model, problem.guide, data().sigmoid().round())
    normal = pyro.distributions.Normal

    def chain(x):
        with pyro.plate("data", len(x)):
            first = pyro.sample("first", normal(x.sum(-1), 1.0))
            pyro.sample("second", normal(first * weight, 1.0))

    weight = torch.ones((), requires_grad=True, dtype=torch.float64)
    with pytest.raises(dv.InputError, match="'second' depends on 'first'"):
        dv.TraceDenoisingIWAE_ELBO(num_corruptions=1, num_particles=3, gradient="dreg").loss_and_grads(
            chain, chain, data()
        )


def test_the_mixture_size_follows_a_schedule():
    bound = dv.TraceSemiImplicit_ELBO(num_mixture=dv.LinearSchedule(0, 10, epochs=5))
    assert bound.num_mixture == 0
    bound.set_epoch(2.5)
    assert bound.num_mixture == 5
    bound.set_epoch(9)
    assert bound.num_mixture == 10
    with pytest.raises(dv.InputError, match="num_mixture"):
        dv.TraceSemiImplicit_ELBO(num_mixture=0).upper_per_datum(None, None)
