"""The contract of every exported guide: built from its sizes, run with a small decoder, under every bound."""

import copy
import inspect
import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI
from torch import nn

import pyro_dvae as dv
from pyro_dvae import guides
from pyro_dvae.guides.base import AmortisedGuide
from pyro_dvae.networks import BernoulliDecoder
from pyro_dvae.registration import register

D, d, N = 6, 2, 4
F64 = torch.float64
# Other settings of a guide that are worth every test; a guide that is not named here is built by its sizes.
OPTIONS = {"FlowGuide": [{"flow": "planar", "flows": 2}, {"flow": "iaf", "flows": 2}]}
CLASSES = {
    name: member
    for name in guides.__all__
    if inspect.isclass(member := getattr(guides, name))
    and issubclass(member, AmortisedGuide)
    and not inspect.isabstract(member)
}
CASES = [
    pytest.param((name, options), id="-".join([name, *map(str, options.values())]))
    for name in CLASSES
    for options in OPTIONS.get(name, [{}])
]


class Halved(dv.Corruption):
    """Noise around a constant: what has nothing of the datum in it."""

    def distribution(self, x):
        return dist.Normal(torch.full_like(x, 0.5), torch.ones_like(x))


class Pair(nn.Module):
    """A guide, and a model of its latents with a decoder.

    The prior of a latent lies where the guide's does: it is another guide of the class at a grey datum.
    Where that has no density of its own, or there are several latents, all are real: standard normal.
    """

    def __init__(self, case, corruption, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        name, options = case
        self.guide = CLASSES[name].of_sizes(D, d, (8,), corruption=corruption, **options)
        self.reference = CLASSES[name].of_sizes(D, d, (8,), **options).requires_grad_(False)
        self.to(F64)
        with poutine.block(), torch.no_grad(), pyro.settings.context(module_local_params=True):
            trace = poutine.trace(self.guide).get_trace(data())
        self.latents = [
            site["name"]
            for _, site in trace.iter_stochastic_nodes()
            if not site["infer"].get("is_auxiliary") and site["name"] != "data"
        ]
        self.standard = self.guide.semi_implicit or len(self.latents) > 1
        self.decoder = BernoulliDecoder(D, d * len(self.latents), (8,)).to(F64)

    def model(self, x):
        register("decoder", self.decoder)
        grey = torch.full_like(x[0], 0.5)
        prior = (
            dist.Normal(grey[:d] * 0, 1.0).to_event(1) if self.standard else self.reference.posterior(grey)
        )
        with pyro.plate("data", len(x)):
            z = torch.cat([pyro.sample(site, prior) for site in self.latents], -1)
            pyro.sample("x", self.decoder(z), obs=x)

    def trained(self):
        return {name: value for name, value in self.named_parameters() if value.requires_grad}


def data(count=N, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (count, D), generator=generator).to(F64)


def pair_of(case, corruption="noise"):
    if corruption == "noise":
        corruption = dv.GaussianNoise(torch.tensor(0.3, dtype=F64), learnable=True)
    return Pair(case, corruption)


def train_by(pair, m=1, k=1):
    """The bound that the guide asks for."""
    if pair.guide.semi_implicit:
        return dv.TraceSemiImplicit_ELBO(
            num_corruptions=m, num_particles=k, num_mixture=2, max_plate_nesting=1
        )
    return dv.TraceDenoising_ELBO(num_corruptions=m, num_particles=k, max_plate_nesting=1)


def seeded(call, *arguments, seed=3):
    pyro.set_rng_seed(seed)
    return call(*arguments)


def latents(pair, x, seed=3):
    trace = seeded(poutine.trace(pair.guide).get_trace, x, seed=seed)
    return {site: trace.nodes[site]["value"] for site in pair.latents}


@pytest.fixture(params=CASES)
def case(request):
    return request.param


def test_sites_are_named_and_lie_in_the_plate(case):
    pair, x = pair_of(case), data()
    trace = poutine.trace(pair.guide).get_trace(x)
    assert list(pair.latents) == ["z"] or list(pair.latents) == [
        f"z{number + 1}" for number in range(len(pair.latents))
    ]
    assert trace.nodes["x_tilde"]["value"].shape == x.shape
    for _, site in trace.iter_stochastic_nodes():
        if site["name"] == "data":
            continue
        assert [frame.name for frame in site["cond_indep_stack"]] == ["data"]
        assert site["fn"].batch_shape == (N,)
        if site["value"].is_floating_point():
            assert site["value"].dtype == F64
    last = trace.nodes["_RETURN"]["value"]
    assert torch.equal(last, trace.nodes[list(pair.latents)[-1]]["value"])


@pytest.mark.parametrize("leading", [(), (3,), (4, 2, 3), (4, 1, 2, 3)])
def test_leading_dims_are_computed_one_by_one(case, leading):
    posterior = pair_of(case).guide.posterior
    x = torch.rand(*leading, D, dtype=F64)
    fn = seeded(posterior, x)  # noise of its own is then the same in every call
    z = fn.sample()
    assert z.shape == (*leading, d)
    scores = fn.log_prob(z)
    assert scores.shape == leading
    for index in itertools.product(*map(range, leading)):
        single = seeded(posterior, x[index]).log_prob(z[index])
        torch.testing.assert_close(scores[index], single, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("m", "k"), [(1, 1), (3, 1), (1, 2), (3, 2)])
def test_draws_are_scored_as_one_by_one(case, m, k):
    pair, x = pair_of(case), data()
    draws = seeded(
        dv.TraceDenoising_ELBO(num_corruptions=m, num_particles=k, max_plate_nesting=1).draws,
        pair.model,
        pair.guide,
        (x,),
        {},
    )
    values = draws.log_weight(draws.guide_terms()).values
    assert values.shape == (k, m, N)
    sites = [*draws.auxiliary_sites(), *draws.latent_sites()]
    for particle in range(k):
        for corruption in range(m):
            given = {s["name"]: one_draw(s, particle, corruption, m, k) for s in sites}
            trace = poutine.trace(poutine.condition(pair.guide, data=given)).get_trace(x)
            trace.compute_log_prob()
            expected = -sum(trace.nodes[site]["log_prob"] for site in pair.latents)
            torch.testing.assert_close(values[particle, corruption], expected, rtol=0, atol=1e-9)


def one_draw(site, particle, corruption, m, k):
    value = site["value"]
    event = value.shape[value.dim() - site["fn"].event_dim :]
    is_latent = not site["infer"].get("is_auxiliary")
    lead = (k if is_latent else 1, m, N)
    value = value.reshape(*lead, *event)
    return value[particle if is_latent else 0, corruption]


def test_the_corruption_is_honoured(case):
    """The encoder sees x̃ only; on clean input it sees x."""
    pair = pair_of(case, Halved())
    one, two = data(seed=5), data(seed=6)
    for first, second in zip(latents(pair, one).values(), latents(pair, two).values(), strict=True):
        assert torch.equal(first, second)
    with dv.clean_input():
        assert densities(pair, one, latents(pair, one)) != densities(pair, two, latents(pair, one))
        other = {site: value.clone() for site, value in latents(pair, one).items()}
        again = latents(pair, one)
    assert all(torch.equal(again[site], other[site]) for site in again)


def densities(pair, x, values):
    guide = poutine.condition(pair.guide, data=values)
    trace = seeded(poutine.trace(guide).get_trace, x)
    trace.compute_log_prob()
    return [trace.nodes[site]["log_prob"].tolist() for site in pair.latents]


def test_auxiliary_sites_count_for_nothing(case):
    trace = poutine.trace(pair_of(case).guide).get_trace(data())
    trace.compute_log_prob()
    auxiliary = [s for _, s in trace.iter_stochastic_nodes() if s["infer"].get("is_auxiliary")]
    assert auxiliary
    assert all(torch.count_nonzero(site["log_prob"]) == 0 for site in auxiliary)


@pytest.mark.parametrize(("m", "k"), [(1, 1), (2, 3)])
def test_the_losses_agree_under_one_seed(case, m, k):
    pair, x = pair_of(case), data()
    bound = train_by(pair, m, k)
    loss = seeded(bound.loss, pair.model, pair.guide, x)
    assert math.isfinite(loss)
    assert seeded(bound.loss_and_grads, pair.model, pair.guide, x) == pytest.approx(loss, rel=1e-10)
    value = seeded(bound.differentiable_loss, pair.model, pair.guide, x)
    assert float(value.detach()) == pytest.approx(loss, rel=1e-10)


@pytest.mark.parametrize("local", [False, True])
def test_svi_reaches_every_parameter(case, local):
    with pyro.settings.context(module_local_params=local):
        pair, x = pair_of(case), data()
        before = {name: value.detach().clone() for name, value in pair.trained().items()}
        svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.01}), train_by(pair, 2, 2))
        for _ in range(2):
            assert math.isfinite(svi.step(x))
        for name, value in pair.trained().items():
            assert value.grad is None or torch.count_nonzero(value.grad) == 0, name  # SVI clears them
            assert not torch.equal(value, before[name]), name
            assert bool(torch.isfinite(value).all()), name
        assert len(pyro.get_param_store()) == (0 if local else len(before))


@pytest.mark.parametrize(
    "bound",
    [
        dv.TraceDenoising_ELBO(num_corruptions=2, num_particles=2, max_plate_nesting=1),
        dv.TraceDenoisingIWAE_ELBO(num_corruptions=2, num_particles=3, max_plate_nesting=1),
        dv.TraceDenoisingIWAE_ELBO(num_corruptions=2, num_particles=3, combine="pooled", max_plate_nesting=1),
        dv.TraceDenoisingIWAE_ELBO(
            num_corruptions=2, num_particles=3, combine="mixture", max_plate_nesting=1
        ),
        dv.TraceSemiImplicit_ELBO(num_corruptions=2, num_particles=2, num_mixture=3, max_plate_nesting=1),
    ],
    ids=["denoising", "average", "pooled", "mixture", "semi-implicit"],
)
def test_every_bound_gives_finite_gradients(case, bound):
    pair, x = pair_of(case), data()
    assert math.isfinite(seeded(bound.loss_and_grads, pair.model, pair.guide, x))
    for name, parameter in pair.trained().items():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name
        assert torch.count_nonzero(parameter.grad) > 0, name


def test_importance_weights_tighten_the_bound(case):
    pair, rows = pair_of(case), data().repeat(500, 1)
    with torch.no_grad():
        simple = dv.TraceDenoising_ELBO(max_plate_nesting=1).per_datum(pair.model, pair.guide, rows)
        several = dv.TraceDenoisingIWAE_ELBO(num_particles=5, max_plate_nesting=1)
        weighted = several.per_datum(pair.model, pair.guide, rows)
    error = math.sqrt(float(simple.var() + weighted.var()) / len(rows))
    assert float(weighted.mean() - simple.mean()) > -4 * error


@pytest.mark.parametrize("proposal", ["clean", "corrupted", "mixture"])
def test_the_likelihood_of_every_proposal_is_one_number(case, proposal):
    """Importance sampling from any guide estimates the same log p(x), which the prior alone gives too."""
    pair, x = pair_of(case), data(2)
    found = dv.log_likelihood(
        pair.model, pair.guide, x, num_samples=2000, proposal=proposal, defensive=0.2, seed=1, progress=False
    )
    with torch.no_grad():
        pyro.set_rng_seed(11)
        rows = x.repeat_interleave(10_000, 0)
        trace = poutine.trace(pair.model).get_trace(rows)
        trace.compute_log_prob()
        log_p = trace.nodes["x"]["log_prob"].reshape(2, -1)
        weights = (log_p - log_p.max(-1, keepdim=True).values).exp()
        expected = weights.mean(-1).log() + log_p.max(-1).values
        spread = weights.std(-1) / weights.mean(-1) / math.sqrt(10_000)
    error = (found.standard_error.square() + spread.square()).sqrt()
    assert bool(((found.log_likelihood - expected).abs() < 5 * error + 1e-6).all())


def test_state_dict_round_trip(case, tmp_path):
    noise = dv.GaussianNoise(torch.tensor(0.1, dtype=F64), learnable=True)
    with pyro.settings.context(module_local_params=True):
        pair, other, x = pair_of(case), Pair(case, noise, seed=1), data()
        values = latents(pair, x)
        assert densities(pair, x, values) != densities(other, x, values)
        torch.save(pair.guide.state_dict(), tmp_path / "guide.pt")
        other.guide.load_state_dict(torch.load(tmp_path / "guide.pt", weights_only=True))
        assert densities(pair, x, values) == densities(other, x, values)


def test_a_copy_after_a_run_is_independent(case):
    pair, x = pair_of(case), data()
    train_by(pair).loss_and_grads(pair.model, pair.guide, x)
    pyro.clear_param_store()
    other = copy.deepcopy(pair)
    values = latents(pair, x)
    before = densities(pair, x, values)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1)
    assert densities(pair, x, values) == before


def test_single_precision(case):
    pair = pair_of(case, dv.SaltAndPepper(0.1)).float()
    x = data().float()
    trace = poutine.trace(pair.guide).get_trace(x)
    for site in pair.latents:
        value = trace.nodes[site]["value"]
        assert value.dtype == torch.float32 or not value.is_floating_point()
    bound = train_by(pair, 2, 2)
    assert bound.differentiable_loss(pair.model, pair.guide, x).dtype == torch.float32


def test_a_recording_follows_the_run(case):
    """The gradient of the guide's bound as a graph: the values of the plain run, for two seeds."""
    from pyro_dvae.engine.gradient import record_gradient

    with pyro.settings.context(module_local_params=True):
        pair, x = pair_of(case), data()
        bound = train_by(pair, 2, 2)
        leaves = list(pair.trained().values())

        def run(x):
            return bound.loss_and_grads(pair.model, pair.guide, x)

        recorded = record_gradient(run, leaves, [x])
        assert len(recorded.leaves) == len(leaves)
        for seed in (1, 2):
            pair.zero_grad()
            loss = seeded(run, x, seed=seed)
            with torch.no_grad():
                got, *grads = seeded(recorded.graph, *recorded.leaves, x, seed=seed)
            assert float(got) == pytest.approx(loss, rel=1e-9)
            for leaf, grad in zip(recorded.leaves, grads, strict=True):
                torch.testing.assert_close(grad, leaf.grad, rtol=1e-6, atol=1e-9)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_the_accelerator_agrees_with_the_processor(case):
    pair, x = pair_of(case), data()
    values = latents(pair, x)
    trace = poutine.trace(pair.guide).get_trace(x)
    given = values | {
        s["name"]: s["value"] for _, s in trace.iter_stochastic_nodes() if s["name"] not in values
    }
    given.pop("data", None)
    expected = densities(pair, x, given)
    pyro.clear_param_store()
    pair.cuda()
    x = x.cuda()
    found = densities(pair, x, {site: value.cuda() for site, value in given.items()})
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=0, atol=1e-8)
    assert all(value.device.type == "cuda" for value in latents(pair, x).values())
    assert math.isfinite(train_by(pair, 2, 2).loss_and_grads(pair.model, pair.guide, x))


@pytest.mark.parametrize("argument", ["data_size", "latent_size"])
@pytest.mark.parametrize("value", [0, -3, 2.0, "4", None, True])
def test_bad_sizes_are_refused(case, argument, value):
    name, options = case
    sizes = {"data_size": D, "latent_size": d, argument: value}
    with pytest.raises(dv.InputError, match=f"^{argument}: expected a whole number"):
        CLASSES[name].of_sizes(**sizes, **options)


def test_what_is_no_network_or_no_corruption_is_refused(case):
    name, options = case
    with pytest.raises(dv.InputError, match=r"^corruption: expected a pyro_dvae corruption, got float"):
        CLASSES[name].of_sizes(D, d, corruption=0.1, **options)
    with pytest.raises(dv.InputError, match=r"gelo"):
        CLASSES[name].of_sizes(D, d, (8,), "gelo", **options)
    guide = CLASSES[name].of_sizes(D, d, **options)
    with pytest.raises(dv.InputError, match=r"^x: expected a last dimension of \d+"):
        guide(torch.rand(3, D + 1))
