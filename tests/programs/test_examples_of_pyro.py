"""Small versions of Pyro's examples: Pyro's own losses, recorded steps, and a corruption in front."""

import math
import warnings
from contextlib import nullcontext

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO, config_enumerate
from pyro.infer.autoguide import AutoDelta
from pyro.optim import Adam
from small_examples import BRANCHING, ENUMERATED, EXAMPLES

import pyro_dvae as dv


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)


def with_enumeration():
    return TraceEnum_ELBO(max_plate_nesting=2, strict_enumeration_warning=False)


def run(elbo, built, guide=None, seed=3):
    """Return loss and gradients, by the parameter's name in Pyro, from one random state."""
    pyro.set_rng_seed(seed)
    with poutine.trace(param_only=True) as capture:
        loss = elbo.loss_and_grads(built.model, built.guide if guide is None else guide, *built.args)
    found = {}
    for name, site in capture.trace.nodes.items():
        leaf = site["value"]
        leaf = leaf.unconstrained() if hasattr(leaf, "unconstrained") else leaf
        found[name] = None if leaf.grad is None else leaf.grad.clone()
        leaf.grad = None
    return loss, found


def check(ours, stock, but=()):
    """Assert the same loss, and the same gradient of every parameter that has one, but for some."""
    (loss, gradients), (expected, wanted) = ours, stock
    assert loss == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert gradients.keys() == wanted.keys()
    for name, gradient in wanted.items():
        if any(name.startswith(prefix) for prefix in but):
            continue
        if gradient is None:
            assert gradients[name] is None, name
        else:
            torch.testing.assert_close(gradients[name], gradient, rtol=1e-7, atol=1e-9, msg=name)


def check_all_there(gradients, wanted):
    """Assert a gradient for every parameter that has one under stock."""
    for name, gradient in wanted.items():
        if gradient is not None and bool((gradient != 0).any()):
            assert gradients[name] is not None, name
            assert bool((gradients[name] != 0).any()), name


WEIGHTS = (dv.TraceDenoisingIWAE_ELBO, dv.TraceSemiImplicit_ELBO)


def refusal(example, kind):
    """Return what the refusal of a program under a bound must say; None where it is not refused."""
    if example.own_baselines and kind in WEIGHTS:
        return "'present_0' has its own baseline.* TraceDenoising_ELBO"
    if example.upwards and kind is dv.TraceMeanFieldDenoising_ELBO:
        return "closed-form KL terms do not give a bound; use TraceDenoising_ELBO"
    return None


def told(example, kind):
    """Expect a warning if one weight is of all observations."""
    if example.shared and kind in WEIGHTS:
        return pytest.warns(UserWarning, match="one importance weight covers all of them")
    return nullcontext()


def stock_of(particles, kind=Trace_ELBO):
    return kind(num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=1)


@pytest.fixture(params=EXAMPLES)
def example(request):
    return EXAMPLES[request.param]


def not_compared(example):
    """Parameters with another estimate: those before a discrete site with its own baseline."""
    return ("air", "baseline") if example.own_baselines else ()


@pytest.mark.parametrize("particles", [1, 3])
def test_one_random_state_gives_stocks_value_and_gradient(example, particles):
    built = example.build()
    bound = dv.TraceDenoising_ELBO(num_particles=particles, baseline="none", max_plate_nesting=1)
    check(run(bound, built), run(stock_of(particles), example.build()), not_compared(example))


@pytest.mark.parametrize("particles", [1, 3])
def test_the_nesting_of_plates_is_found(example, particles):
    """Without ``max_plate_nesting`` the loss is the same, and running means are updated once."""
    losses, buffers = [], []
    for nesting in (1, None):
        built = example.build()
        bound = dv.TraceDenoising_ELBO(num_particles=particles, max_plate_nesting=nesting)
        losses.append(run(bound, built)[0])
        buffers.append(dict(built.module.named_buffers()))
    assert losses[1] == pytest.approx(losses[0], rel=1e-12)
    for name, value in buffers[0].items():
        torch.testing.assert_close(buffers[1][name], value, msg=name)


def test_running_means_equal_those_of_stock():
    """The runs that inspect a program do not change the statistics of batch normalisation."""
    buffers = []
    for bound in (Trace_ELBO(), dv.TraceDenoising_ELBO(), dv.TraceSemiImplicit_ELBO(num_mixture=0)):
        built = EXAMPLES["scANVI, types known"].build()
        run(bound, built)
        buffers.append({name: value.clone() for name, value in built.module.named_buffers()})
    assert any("running_mean" in name for name in buffers[0])
    for other in buffers[1:]:
        for name, value in buffers[0].items():
            torch.testing.assert_close(other[name], value, msg=name)


def densities(built, particles):
    """Return log p − log q of stock's draws [K, N] from the state of :func:`run`, scaled, and the scale."""
    pyro.set_rng_seed(3)
    elbo = stock_of(particles)
    model_trace, guide_trace = next(iter(elbo._get_traces(built.model, built.guide, built.args, {})))
    total, scales = 0.0, set()
    for trace, sign in ((model_trace, 1.0), (guide_trace, -1.0)):
        for site in trace.nodes.values():
            if site["type"] == "sample":
                value = site["unscaled_log_prob"]
                value = value if site["mask"] is None else torch.where(site["mask"], value, 0.0)
                total = total + sign * value.reshape(particles, -1)
                scales.add(float(site["scale"]))
    assert len(scales) == 1
    return total, scales.pop()


@pytest.mark.parametrize(("corruptions", "particles"), [(1, 1), (1, 3), (2, 2)])
def test_a_baseline_of_the_sites_own_is_trained(corruptions, particles):
    """The draws share a value [*plates]; other shapes are refused."""
    example = EXAMPLES["attend, infer, repeat"]
    built = example.build()
    bound = dv.TraceDenoising_ELBO(num_corruptions=corruptions, num_particles=particles, max_plate_nesting=1)
    gradients = run(bound, built, example.with_corruption(built))[1]
    assert bool((gradients["baseline$$$weight"] != 0).any())
    built.module.baseline = torch.nn.Linear(8, 3)
    with pytest.raises(dv.InputError, match=r"expected a baseline of shape .* got \(.*3\)"):
        run(bound, built)


ONE_WEIGHT_A_ROW = [name for name, e in EXAMPLES.items() if not (e.shared or e.own_baselines)]


@pytest.mark.parametrize("name", ONE_WEIGHT_A_ROW)
def test_importance_weights_are_per_observation(name):
    """From the densities of stock's own draws, by hand: log 1/K Σ_k w_k of each row, then the sum."""
    example = EXAMPLES[name]
    weights, scale = densities(example.build(), 3)
    expected = scale * float((torch.logsumexp(weights, 0) - math.log(3)).sum().detach())
    for combine in ("average", "pooled", "mixture"):
        bound = dv.TraceDenoisingIWAE_ELBO(num_particles=3, combine=combine, max_plate_nesting=1)
        loss, gradients = run(bound, example.build())
        assert loss == pytest.approx(-expected, rel=1e-9)
        check_all_there(gradients, run(Trace_ELBO(), example.build())[1])


MEAN_FIELD = ["VAE", "semi-supervised VAE, classes known", "conditional VAE", "deep Markov model"]


@pytest.mark.parametrize("name", MEAN_FIELD)
@pytest.mark.parametrize("particles", [1, 3])
def test_closed_forms_equal_those_of_stock(name, particles):
    bound = dv.TraceMeanFieldDenoising_ELBO(num_particles=particles, max_plate_nesting=1)
    stock = run(stock_of(particles, TraceMeanField_ELBO), EXAMPLES[name].build())
    check(run(bound, EXAMPLES[name].build()), stock)


def test_a_guide_without_noise_is_its_own_mixture(example):
    """For a guide without corruption, L_J is the ordinary bound."""
    kind = dv.TraceSemiImplicit_ELBO
    bound = kind(num_mixture=2, max_plate_nesting=1)
    if (message := refusal(example, kind)) is not None:
        with pytest.raises(dv.InputError, match=message):
            run(bound, example.build())
        return
    with told(example, kind):
        loss = run(bound, example.build())[0]
    assert loss == pytest.approx(run(Trace_ELBO(), example.build())[0], rel=1e-9)


WITH_DATA = [name for name, example in EXAMPLES.items() if example.corruption is not None]


@pytest.mark.parametrize("name", WITH_DATA)
@pytest.mark.parametrize("corruptions", [1, 2])
def test_a_corruption_in_front(name, corruptions):
    """M corruptions equal M particles of Pyro's bound, which does not count the corruption."""
    example = EXAMPLES[name]
    built = example.build()
    bound = dv.TraceDenoising_ELBO(num_corruptions=corruptions, baseline="none", max_plate_nesting=1)
    ours = run(bound, built, example.with_corruption(built))
    clean = run(dv.TraceDenoising_ELBO(max_plate_nesting=1), example.build())
    other = example.build()
    stock = run(stock_of(corruptions), other, example.with_corruption(other))
    check(ours, stock, not_compared(example))
    assert ours[0] != pytest.approx(clean[0])  # the guide read other data


@pytest.mark.parametrize("name", WITH_DATA)
def test_every_bound_takes_a_corruption_in_front(name):
    example = EXAMPLES[name]
    for kind in (dv.TraceMeanFieldDenoising_ELBO, *WEIGHTS):
        built = example.build()
        bound = kind(num_corruptions=2, num_particles=2, max_plate_nesting=1)
        guide = example.with_corruption(built)
        if (message := refusal(example, kind)) is not None:
            with pytest.raises(dv.InputError, match=message):
                run(bound, built, guide)
            continue
        with told(example, kind):
            loss, gradients = run(bound, built, guide)
        assert math.isfinite(loss)
        check_all_there(gradients, run(Trace_ELBO(), example.build())[1])


def train(kind, example, elbo, steps=3, wrap=False):
    pyro.clear_param_store()
    built = example.build()
    guide = example.with_corruption(built) if wrap else built.guide
    svi = kind(built.model, guide, Adam({"lr": 0.03}), elbo())
    pyro.set_rng_seed(5)
    losses = [svi.step(*built.args) for _ in range(steps)]
    return losses, {name: value.detach().clone() for name, value in built.module.named_parameters()}


def check_trained(ours, stock):
    assert ours[0] == pytest.approx(stock[0], rel=1e-6)
    for name, value in stock[1].items():
        torch.testing.assert_close(ours[1][name], value, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("wrap", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_recorded_steps_equal_those_of_svi(example, wrap):
    """The recorded graph runs operation by operation; other tests cover the compiler."""
    if wrap and example.corruption is None:
        pytest.skip("its guide reads no data")

    def elbo():
        return dv.TraceDenoising_ELBO(num_corruptions=1 + wrap, num_particles=2, max_plate_nesting=1)

    plain = pytest.warns(UserWarning, match="training by uncompiled steps")
    with nullcontext() if example.recorded else plain:
        ours = train(dv.CompiledSVI, example, elbo, wrap=wrap)
    check_trained(ours, train(SVI, example, elbo, wrap=wrap))


@pytest.mark.slow
def test_compiled_steps_equal_those_of_svi(example):
    def elbo():
        return dv.TraceDenoising_ELBO(num_particles=2, max_plate_nesting=1)

    plain = pytest.warns(UserWarning, match="training by uncompiled steps")
    with nullcontext() if example.recorded else plain:
        ours = train(dv.CompiledSVI, example, elbo)
    check_trained(ours, train(SVI, example, elbo))


BOUNDS = [
    dv.TraceDenoising_ELBO,
    dv.TraceMeanFieldDenoising_ELBO,
    dv.TraceDenoisingIWAE_ELBO,
    dv.TraceSemiImplicit_ELBO,
]


@pytest.mark.filterwarnings("ignore:Found vars in model but not guide")  # Pyro's own, of one draw
@pytest.mark.parametrize("name", ENUMERATED)
@pytest.mark.parametrize("kind", BOUNDS)
@pytest.mark.parametrize("particles", [1, 3])
def test_enumeration_is_refused_and_the_stock_bound_named(name, kind, particles):
    built = ENUMERATED[name].build()
    bound = kind(num_particles=particles, max_plate_nesting=2)
    with pytest.raises(dv.InputError, match=r"asks for enumeration.* with pyro\.infer\.TraceEnum_ELBO"):
        run(bound, built)
    assert math.isfinite(run(with_enumeration(), built)[0])  # the remedy works


def test_enumeration_is_named_where_it_is_why_a_program_does_not_vectorise():
    """The mixture of Pyro's tutorial: its components are indexed, which fails with draws on their left."""

    def model(x):
        with pyro.plate("components", 2):
            locs = pyro.sample("locs", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(x)):
            component = pyro.sample("component", dist.Categorical(torch.ones(2)))
            pyro.sample("x", dist.Normal(locs[component], 1.0), obs=x)

    guide = AutoDelta(pyro.poutine.block(model, expose=["locs"]))
    enumerated = config_enumerate(model)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Found vars in model but not guide")
        for call in (
            lambda x: dv.TraceDenoising_ELBO(num_particles=3).loss(enumerated, guide, x),
            lambda x: dv.log_likelihood(enumerated, guide, x),
        ):
            with pytest.raises(dv.InputError, match=r"site 'component' asks for enumeration"):
                call(torch.randn(6))


def test_enumeration_works_behind_a_corruption_under_the_stock_bound():
    """The guide reads x̃; the sum over its classes is computed by hand."""
    example = EXAMPLES["semi-supervised VAE, classes sampled"]
    built = ENUMERATED["semi-supervised VAE"].build()
    corrupted = dv.DenoisingGuide(built.guide, dv.BitFlip(0.2), plates={"data": -1})
    elbo = TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)
    watched = poutine.trace(corrupted)
    loss = run(elbo, built, watched)[0]
    drawn = {name: site["value"] for name, site in watched.trace.nodes.items() if site["type"] == "sample"}
    x_tilde = drawn["x_tilde"].reshape(built.args[0].shape)
    other = example.build()
    chances = other.module.encoder_y(x_tilde).softmax(-1)
    expected = 0.0
    for label in range(3):
        y = torch.eye(3)[label].expand(len(x_tilde), 3)
        z = drawn["z"].expand(3, *drawn["z"].shape[1:])[label].reshape(len(x_tilde), 2)
        given = {"y": y, "z": z}
        model = poutine.trace(poutine.condition(other.model, given)).get_trace(built.args[0])
        guide = poutine.trace(poutine.condition(other.guide, given)).get_trace(x_tilde)
        model.compute_log_prob()
        guide.compute_log_prob()
        difference = sum(site["log_prob"] for site in model.nodes.values() if site["type"] == "sample")
        difference = difference - guide.nodes["y"]["log_prob"] - guide.nodes["z"]["log_prob"]
        expected = expected + float((chances[:, label] * difference).sum().detach())
    assert loss == pytest.approx(-expected)


@pytest.mark.parametrize("kind", BOUNDS)
def test_a_program_that_branches_on_its_draws_is_looped_over(kind):
    """One pass over several draws is refused with a remedy, and the remedy gives the right value."""
    with pytest.raises(dv.InputError, match=r"K = 3 .*vectorize_particles=False"):
        run(kind(num_particles=3), BRANCHING.build())
    loss, gradients = run(kind(num_particles=3, vectorize_particles=False), BRANCHING.build())
    assert math.isfinite(loss)
    assert all(gradient is not None for gradient in gradients.values())


@pytest.mark.parametrize("particles", [1, 3])
def test_looped_draws_equal_those_of_stock(particles):
    """Also of a program whose sites differ from draw to draw."""
    for example in (BRANCHING, EXAMPLES["VAE"], EXAMPLES["eight schools"]):
        bound = dv.TraceDenoising_ELBO(num_particles=particles, vectorize_particles=False, baseline="none")
        check(run(bound, example.build()), run(Trace_ELBO(num_particles=particles), example.build()))
