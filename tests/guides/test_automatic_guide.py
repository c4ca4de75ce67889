"""A guide made from a model: against a guide written by hand, against exact evidence, and its errors."""

import copy
import math
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import LinearGaussian
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from pyro.infer.autoguide import AutoDelta

import pyro_dvae as dv
from pyro_dvae.networks import GaussianEncoder

F64 = torch.float64


def rows(count=6, size=3, seed=4):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=F64)


def several(x):
    """Latents of four supports, each in the prior of the next."""
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        b = pyro.sample("b", dist.Gamma(2.0 + a.sum(-1) ** 2, x.new_ones(())))
        c = pyro.sample("c", dist.Dirichlet(x.new_ones(3)))
        e = pyro.sample("d", dist.Beta(x.new_full((2,), 2.0), 2.0).to_event(1))
        loc = a.sum(-1) + b.log() + c[..., 0] + e.sum(-1)
        pyro.sample("x", dist.Normal(loc.unsqueeze(-1), 1.0).expand([*loc.shape, 3]).to_event(1), obs=x)


def seeded(call, *arguments, seed=3):
    pyro.set_rng_seed(seed)
    return call(*arguments)


def test_it_is_the_guide_written_by_hand():
    problem, x = LinearGaussian(), rows()
    guide = dv.AutoEncoderGuide(problem.model, corruption=problem.corruption, hidden_sizes=(5,))
    guide.setup(x)
    encoder = guide.encoders["z"]
    assert isinstance(encoder, GaussianEncoder)

    def by_hand(x):
        with pyro.plate("data", len(x)):
            loc, scale = encoder(dv.corrupt("x_tilde", problem.corruption, x))
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    for bound in (
        dv.TraceDenoising_ELBO(num_corruptions=2, num_particles=3),
        dv.TraceDenoisingIWAE_ELBO(num_corruptions=2, num_particles=3),
        dv.TraceSemiImplicit_ELBO(num_mixture=2),
        dv.TraceMeanFieldDenoising_ELBO(num_particles=2),
    ):
        assert seeded(bound.loss, problem.model, guide, x) == pytest.approx(
            seeded(bound.loss, problem.model, by_hand, x), rel=1e-12
        )


def test_latents_of_any_support_in_the_order_of_the_model():
    x = rows()
    guide = dv.AutoEncoderGuide(several, corruption=dv.GaussianNoise(0.2), hidden_sizes=(5,))
    trace = seeded(poutine.trace(guide).get_trace, x)
    found = trace.nodes["_RETURN"]["value"]
    assert list(found) == ["a", "b", "c", "d"]
    assert [encoder.data_size for encoder in guide.encoders.values()] == [3, 5, 6, 8]  # x̃ and those before
    seen = trace.nodes["x_tilde"]["value"]
    unconstrained = {
        "a": found["a"],
        "b": found["b"].log().unsqueeze(-1),
        "c": torch.distributions.StickBreakingTransform().inv(found["c"]),
        "d": found["d"].logit(),
    }
    jacobian = {
        "a": 0.0,
        "b": unconstrained["b"].sum(-1),
        "c": torch.distributions.StickBreakingTransform().log_abs_det_jacobian(
            unconstrained["c"], found["c"]
        ),
        "d": (found["d"].log() + torch.log1p(-found["d"])).sum(-1),
    }
    trace.compute_log_prob()
    for name, encoder in guide.encoders.items():
        loc, scale = encoder(seen)
        density = dist.Normal(loc, scale).log_prob(unconstrained[name]).sum(-1) - jacobian[name]
        torch.testing.assert_close(trace.nodes[name]["log_prob"], density, rtol=1e-7, atol=1e-7)
        assert trace.nodes[name]["fn"].support.check(found[name]).all()
        seen = torch.cat([seen, unconstrained[name]], -1)
    assert float(trace.nodes["x_tilde"]["log_prob_sum"].detach()) == 0.0


@pytest.mark.parametrize("edge", [-30.0, 8.0, 30.0])
def test_densities_are_exact_at_the_edge_of_the_support_in_single_precision(edge):
    """There the value alone no longer tells the unconstrained draw: 1 − 10⁻¹³ is 1."""
    x = rows(2000).float()
    guide = dv.AutoEncoderGuide(several, hidden_sizes=(5,))
    guide.setup(x)
    for encoder in guide.encoders.values():
        with torch.no_grad():
            encoder.head.weight.zero_()
            encoder.head.bias[: encoder.latent_size] = edge
            encoder.head.bias[encoder.latent_size :] = 2 * math.log(0.1)
    trace = seeded(poutine.trace(guide).get_trace, x)
    trace.compute_log_prob()
    entropy = math.log(0.1) + 0.5 * math.log(2 * math.pi * math.e)  # nats of each unconstrained latent
    beta = -abs(edge) if abs(edge) > 20 else 2 * math.log(1 / (1 + math.exp(-edge))) - edge
    sizes = {"b": (1, edge), "d": (2, 2 * beta)}
    for name, (size, log_jacobian) in sizes.items():
        found = float(trace.nodes[name]["log_prob"].detach().mean())
        assert found == pytest.approx(-size * entropy - log_jacobian, abs=0.1)
    loc = torch.full((2,), edge, dtype=F64)
    stick = torch.distributions.StickBreakingTransform()
    log_jacobian = float(stick.log_abs_det_jacobian(loc, stick(loc)))
    if edge < 20:  # beyond, the value is rounded in double precision, too
        found = float(trace.nodes["c"]["log_prob"].detach().mean())
        assert found == pytest.approx(-2 * entropy - log_jacobian, abs=0.1)


def test_raw_rows_of_large_numbers_start_in_the_middle_of_the_support():
    x = 100 * rows().float().abs()
    for seed in range(5):
        pyro.set_rng_seed(seed)
        guide = dv.AutoEncoderGuide(several, corruption=dv.GaussianNoise(0.2), hidden_sizes=(20,))
        assert math.isfinite(dv.TraceDenoising_ELBO(max_plate_nesting=1).loss_and_grads(several, guide, x))


@pytest.mark.parametrize(
    "bound",
    [
        dv.TraceDenoising_ELBO(num_corruptions=2, num_particles=2, max_plate_nesting=1),
        dv.TraceDenoisingIWAE_ELBO(num_corruptions=2, num_particles=3, max_plate_nesting=1),
        dv.TraceSemiImplicit_ELBO(num_corruptions=2, num_mixture=2, max_plate_nesting=1),
        pyro.infer.Trace_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1),
    ],
    ids=lambda bound: type(bound).__name__,
)
def test_every_bound_trains_every_network(bound):
    x = rows()
    guide = dv.AutoEncoderGuide(several, corruption=dv.GaussianNoise(0.2), hidden_sizes=(5,))
    assert math.isfinite(seeded(bound.loss_and_grads, several, guide, x))
    for name, parameter in guide.named_parameters():
        assert torch.count_nonzero(parameter.grad) > 0, name


def test_training_approaches_the_evidence():
    problem, x = LinearGaussian(), rows(40)
    model = poutine.block(problem.model, hide_types=["param"])
    guide = dv.AutoEncoderGuide(model, hidden_sizes=(30,), activation="tanh")
    svi = pyro.infer.SVI(
        model, guide, pyro.optim.Adam({"lr": 0.01}), dv.TraceDenoising_ELBO(num_particles=10)
    )
    pyro.set_rng_seed(0)
    for _ in range(400):
        svi.step(x)
    loss = dv.TraceDenoising_ELBO(num_particles=200).loss(model, guide, x) / 40
    exact = -float(problem.log_evidence(x).mean().detach())
    assert exact - 0.01 < loss < exact + 0.15  # a diagonal Gaussian is not the exact posterior
    found = dv.log_likelihood(model, guide, x[:5], num_samples=2000, seed=0, progress=False)
    torch.testing.assert_close(found.log_likelihood, problem.log_evidence(x[:5]).detach(), rtol=0, atol=0.1)


def with_globals(x):
    loc = pyro.sample("loc", dist.Normal(x.new_zeros(3), 10.0).to_event(1))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("x", dist.Normal(loc + 0.0 * z.unsqueeze(-1), 1.0).to_event(1), obs=x)


def test_latents_outside_the_plate_are_left_to_pyro():
    x = rows(50) + 2
    guide = dv.AutoEncoderGuide(with_globals, corruption=dv.GaussianNoise(0.1), hidden_sizes=(5,))
    svi = pyro.infer.SVI(with_globals, guide, pyro.optim.Adam({"lr": 0.05}), dv.TraceDenoising_ELBO())
    pyro.set_rng_seed(0)
    for _ in range(400):
        svi.step(x)
    exact = x.sum(0) / (50 + 0.01)  # the conjugate posterior: precision 50 + 1/100
    found = guide.global_part.median()["loc"].detach()
    torch.testing.assert_close(found, exact, rtol=0, atol=0.1)
    assert set(guide(x)) == {"loc", "z"}
    point = dv.AutoEncoderGuide(with_globals, global_guide=AutoDelta)
    point(x)
    assert isinstance(point.global_part, AutoDelta)


def test_the_corruption_is_honoured():
    x = rows(size=2)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    guide = dv.AutoEncoderGuide(model, corruption=dv.Masking(1.0))
    guide.setup(x)
    assert torch.equal(seeded(guide, x)["z"], seeded(guide, 2 * x)["z"])
    with dv.clean_input():
        assert not torch.equal(seeded(guide, x)["z"], seeded(guide, 2 * x)["z"])


def test_mini_batches_given_and_drawn_have_the_scale_of_the_plate():
    problem, x = LinearGaussian(), rows(20)
    guide = dv.AutoEncoderGuide(problem.model, corruption=problem.corruption)
    guide.setup(x[:5], 20)
    trace = poutine.trace(guide).get_trace(x[:5], 20)
    assert trace.nodes["z"]["scale"] == 4.0
    assert trace.nodes["z"]["value"].shape == (5, 2)

    def drawn(x):
        with pyro.plate("data", 20, subsample_size=5) as index:
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ problem.W.T, 1.0).to_event(1), obs=x[index])

    guide = dv.AutoEncoderGuide(drawn, corruption=dv.GaussianNoise(0.0))
    trace = poutine.trace(guide).get_trace(x)
    assert torch.equal(trace.nodes["x_tilde"]["value"], x[trace.nodes["data"]["value"]])
    replayed = poutine.trace(poutine.replay(drawn, trace)).get_trace(x)
    assert torch.equal(replayed.nodes["x"]["value"], trace.nodes["x_tilde"]["value"])
    assert replayed.nodes["x"]["scale"] == trace.nodes["z"]["scale"] == 4.0


def test_rows_of_any_shape_and_further_arguments():
    def model(x, shift):
        size = x.dim() - 1
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            loc = (z + shift).reshape(*z.shape, *(1,) * size)
            pyro.sample("x", dist.Normal(loc, 1.0).expand([*z.shape, *x.shape[1:]]).to_event(size), obs=x)

    for x in (torch.randn(4), torch.randn(4, 2), torch.randn(4, 3, 5)):
        guide = dv.AutoEncoderGuide(model, corruption=dv.GaussianNoise(0.1))
        loss = dv.TraceDenoising_ELBO(num_corruptions=2, num_particles=2, max_plate_nesting=1)
        assert math.isfinite(loss.loss_and_grads(model, guide, x, 1.0))


def test_categories_that_are_enumerated_are_left_to_the_bound():
    def model(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(x.new_ones(2)), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(k.to(x.dtype), 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).to_event(1), obs=x)

    x = rows(4, 1)
    guide = dv.AutoEncoderGuide(model, corruption=dv.GaussianNoise(0.1))
    assert set(guide(x)) == {"z"}
    assert math.isfinite(TraceEnum_ELBO(max_plate_nesting=1).loss_and_grads(model, guide, x))


def test_it_is_fitted_copied_and_pickled():
    x = rows(40).float()
    model = dv.LatentVariableModel(dv.networks.GaussianDecoder(3, 2, (5,), bounded=False))
    guide = dv.AutoEncoderGuide(model, corruption=dv.GaussianNoise(0.1))
    assert not [name for name, _ in guide.named_parameters()]  # the model's are not its own
    found = dv.fit(model, guide, x, loss=dv.TraceDenoising_ELBO(), epochs=5, batch_size=20, progress=False)
    assert found.history.train_bound[-1] > found.history.train_bound[0]
    for other in (copy.deepcopy(guide), pickle.loads(pickle.dumps(guide))):
        pyro.clear_param_store()
        assert torch.equal(seeded(other, x)["z"], seeded(guide, x)["z"])


def mixture(components):
    def model(x):
        weights = dist.Categorical(x.new_ones(2))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MixtureSameFamily(weights, components, validate_args=False))

    return model


def beyond(bound):
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Pareto(bound(x), x.new_full((), 3.0)))

    return model


@pytest.mark.parametrize(
    ("model", "lowest"),
    [
        (mixture(dist.LogNormal(torch.zeros(2, dtype=F64), 0.5)), 0.0),
        (beyond(lambda x: x.new_full((), 0.5)), 0.5),
    ],
)
def test_supports_that_all_components_or_rows_share(model, lowest):
    """Also of other numbers of rows, and of several draws."""
    guide = dv.AutoEncoderGuide(model, hidden_sizes=(5,))
    for count in (6, 4):
        found = poutine.trace(guide).get_trace(rows(count)).nodes["z"]["value"]
        assert found.shape == (count,)
        assert bool((found > lowest).all())
        assert math.isfinite(dv.TraceDenoising_ELBO(num_particles=3).loss(model, guide, rows(count)))


def nested(x):
    with pyro.plate("data", len(x)), pyro.plate("inner", 2, dim=-2):
        pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))


def undeclared(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x.new_zeros(2, 1), 1.0))


def discrete(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Bernoulli(x.new_full((), 0.5)))


def observed(x):
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(0.0, 1.0).expand([3]).to_event(1), obs=x)


def elsewhere(x):
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))


def left(x):
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nested, r"^model: expected the latent 'z' in the plate 'data' alone.*got plates"),
        (undeclared, r"^model: expected the latent 'z' in the plate 'data' alone.*batch shape \(2, 6\)"),
        (discrete, r"^model: the latent 'z' is discrete; mark it infer="),
        (observed, r"^model: expected a latent inside the plate 'data', got none; use an AutoGuide"),
        (elsewhere, r"^plate: the model has no plate 'data'; its plates: 'rows'"),
        (mixture(dist.Uniform(torch.zeros(2), torch.tensor([1.0, 2.0]))), "latent 'z' .* of each component"),
        (beyond(lambda x: x[:, 0].abs()), "support of the latent 'z' is known .lower_bound differs between"),
        (left, r"^plate: expected 'data' at dim -1 with the 6 rows of x, got 6 at dim -2"),
    ],
)
def test_what_it_cannot_do_is_refused(model, message):
    with pytest.raises(dv.InputError, match=message):
        dv.AutoEncoderGuide(model)(rows())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": 3}, "^model: expected a callable"),
        ({"plate": 3}, "^plate: expected text"),
        ({"corruption": 0.1}, "^corruption: expected a pyro_dvae corruption, got float"),
        ({"hidden_sizes": ()}, "^hidden_sizes: expected at least one layer size"),
        ({"activation": "gelo"}, "^activation: unknown name 'gelo'"),
        ({"global_guide": None}, "^global_guide: expected a callable"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(dv.InputError, match=message):
        dv.AutoEncoderGuide(**({"model": several} | arguments))
    with pytest.raises(dv.InputError, match=r"^x: expected floating-point values"):
        dv.AutoEncoderGuide(several)(torch.ones(3, 2, dtype=torch.int64))
