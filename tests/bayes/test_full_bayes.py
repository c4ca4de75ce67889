"""The parts of full variational Bayes: any decoder, any amortised guide, training, errors."""

import copy
import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI
from torch import nn

import pyro_dvae as dv
from pyro_dvae import guides, networks
from pyro_dvae.engine import record
from pyro_dvae.guides.base import AmortisedGuide
from pyro_dvae.models.bayes import FullBayes, FullBayesGuide, FullBayesModel
from pyro_dvae.models.bayes.full_bayes import Share
from pyro_dvae.models.bayes.weights import Weightless, trainable

D, d, N = 16, 2, 40
# Counts and mixed tables are built of several distributions.
BUILT = [*("PoissonDecoder", "NegativeBinomialDecoder", "MultinomialDecoder"), "DirichletMultinomialDecoder"]
DECODERS = {
    name: getattr(networks, name)
    for name in networks.__all__
    if name.endswith("Decoder") and name not in (*BUILT, "TableDecoder")
}
DRAWS = [(), (3,), (2, 3)]


def data(count=5, dtype=torch.float32):
    return torch.rand(count, D, generator=torch.Generator().manual_seed(5)).round().to(dtype)


def decoder_of(name="BernoulliDecoder"):
    return DECODERS[name](latent_size=d, data_size=D)


def small(corruption=None, decoder=None, **settings):
    guide = dv.GaussianGuide.of_sizes(D, d, (8,), corruption=corruption)
    return FullBayes(
        networks.BernoulliDecoder(D, d, (8,)) if decoder is None else decoder, guide, N, **settings
    )


def drawn(module, draws, dtype=torch.float64):
    return {
        name: (value.detach() + 0.1 * torch.randn(*draws, 1, *value.shape)).to(dtype).requires_grad_()
        for name, value in trainable(module).items()
    }


def one_by_one(decoder, weights, z, x):
    """log p(x|z, w) and the mean of every draw, by an ordinary decoder for each."""
    draws = z.shape[:-2]
    found, means = [], []
    for index in itertools.product(*map(range, draws)):
        own = {name: value[index][0] for name, value in weights.items()}
        likelihood = torch.func.functional_call(decoder, own, (z[index],))
        found.append(likelihood.log_prob(x))
        means.append(likelihood.mean)
    return torch.stack(found).reshape(*draws, len(x)), torch.stack(means).reshape(*draws, *x.shape)


@pytest.mark.parametrize("draws", DRAWS, ids=str)
@pytest.mark.parametrize("name", DECODERS)
def test_every_decoder_on_a_set_of_weights_for_each_draw(name, draws):
    decoder = decoder_of(name).double()
    weights = drawn(decoder, draws)
    z = torch.randn(*draws, 5, d, dtype=torch.float64, requires_grad=True)
    x = data(dtype=torch.float64) * 0.9 + 0.05
    likelihood = Weightless(decoder)(weights, z)
    assert likelihood.batch_shape == (*draws, 5)
    assert likelihood.event_shape == (D,)
    log_prob, mean = one_by_one(decoder, weights, z, x)
    torch.testing.assert_close(likelihood.log_prob(x), log_prob)
    torch.testing.assert_close(likelihood.mean, mean)
    leaves = [z, *weights.values()]
    got = torch.autograd.grad(likelihood.log_prob(x).sum(), leaves)
    wanted = torch.autograd.grad(log_prob.sum(), leaves)
    for a, b, leaf in zip(got, wanted, ["z", *weights], strict=True):
        torch.testing.assert_close(a, b, msg=leaf)
        assert bool((a != 0).any()), leaf


@pytest.mark.parametrize("name", [*BUILT, "TableDecoder"])
def test_a_decoder_built_of_several_distributions_is_refused_for_several_draws(name):
    kind = getattr(networks, name)
    decoder = (kind(["count"] * D, d) if name == "TableDecoder" else kind(D, d)).double()
    weights = drawn(decoder, (3,))
    with pytest.raises(dv.InputError, match=r"decoder: several draws of its weights .*use num_particles=1"):
        Weightless(decoder)(weights, torch.randn(3, 5, d, dtype=torch.float64))


def test_latents_without_draws_are_shared_by_all_weights():
    decoder = decoder_of().double()
    weights, z = drawn(decoder, (3,)), torch.randn(5, d, dtype=torch.float64)
    x = data(dtype=torch.float64)
    found = Weightless(decoder)(weights, z).log_prob(x)
    torch.testing.assert_close(found, one_by_one(decoder, weights, z.expand(3, 5, d), x)[0])
    single = {name: value[:1] for name, value in weights.items()}
    torch.testing.assert_close(Weightless(decoder)(single, z).log_prob(x), found[:1])


class Tied(nn.Module):
    """One matrix in two layers, a frozen bias and a buffer; a learned scale that is a single number."""

    def __init__(self):
        super().__init__()
        self.latent_size = 4
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.second.bias.requires_grad_(False)
        self.raw = nn.Parameter(torch.tensor(-1.0))
        self.register_buffer("shift", torch.full((4,), 0.5))

    def forward(self, z):
        return dist.Normal(self.second(self.first(z).tanh()) + self.shift, self.raw.exp()).to_event(1)


@pytest.mark.parametrize("draws", DRAWS, ids=str)
def test_shared_frozen_and_scalar_parameters(draws):
    decoder = Tied().double()
    weights = drawn(decoder, draws)
    assert set(weights) == {"first.weight", "first.bias", "raw"}
    z, x = torch.randn(*draws, 5, 4).double(), torch.randn(5, 4).double()
    found = Weightless(decoder)(weights, z).log_prob(x)
    torch.testing.assert_close(found, one_by_one(decoder, weights, z, x)[0])
    assert {name for name, _ in Weightless(decoder).named_parameters()} == {"decoder.second.bias"}


class Mixed(nn.Module):
    """A distribution that its parameters do not make: a mixture."""

    def __init__(self):
        super().__init__()
        self.latent_size = d
        self.layer = nn.Linear(d, D)

    def forward(self, z):
        loc = torch.stack([self.layer(z), -self.layer(z)], -2)
        components = dist.Normal(loc, 1.0).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=torch.zeros_like(loc[..., 0])), components)


def test_a_distribution_of_another_kind_takes_one_draw_and_refuses_several():
    bayes = small(decoder=Mixed())
    assert math.isfinite(dv.TraceDenoising_ELBO().loss(bayes.model, bayes.guide, data()))
    with pytest.raises(dv.InputError, match=r"decoder: .*got MixtureSameFamily; use num_particles=1"):
        dv.TraceDenoising_ELBO(num_corruptions=1, num_particles=2).loss(bayes.model, bayes.guide, data())


def test_pyro_validation_still_sees_the_parameters_of_every_draw():
    bayes = small(decoder=networks.GaussianDecoder(D, d, (8,)))
    with torch.no_grad():
        bayes.guide.weights.loc["head/bias"].fill_(math.nan)
    with pytest.raises(ValueError, match="constraint"):
        dv.TraceDenoising_ELBO(num_corruptions=1, num_particles=2).loss(bayes.model, bayes.guide, data())


def _latent_vector(cls):
    if (
        not (isinstance(cls, type) and issubclass(cls, AmortisedGuide))
        or cls.sample is not AmortisedGuide.sample
    ):
        return False
    support = cls.of_sizes(D, d, (8,)).posterior(data()).support
    return not support.is_discrete and bool(support.check(torch.full((5, d), -30.0)).all())


GUIDES = {name: cls for name in guides.__all__ if _latent_vector(cls := getattr(guides, name))}


@pytest.mark.parametrize(("m", "k"), [(1, 1), (2, 3)])
@pytest.mark.parametrize("name", GUIDES)
def test_every_amortised_guide_of_one_latent(name, m, k):
    guide = GUIDES[name].of_sizes(D, d, (8,), corruption=dv.SaltAndPepper(0.1))
    bayes = FullBayes(networks.BernoulliDecoder(D, d, (8,)), guide, N)
    dv.TraceDenoising_ELBO(num_corruptions=m, num_particles=k).loss_and_grads(
        bayes.model, bayes.guide, data()
    )
    for parameter, value in bayes.named_parameters():
        assert value.grad is not None, parameter
        assert bool(torch.isfinite(value.grad).all()), parameter


def test_it_starts_from_a_trained_decoder_and_leaves_it_alone():
    trained = dv.DVAE(networks.GaussianEncoder(D, d, (8,)), networks.BernoulliDecoder(D, d, (8,)))
    before = copy.deepcopy(trained.state_dict())
    bayes = FullBayes.from_trained(trained.model, trained.guide, N, initial_scale=1e-9)
    x, z = data(), torch.randn(5, d)
    likelihood = Weightless(trained.model.decoder)(bayes.guide.weights.means(), z)
    torch.testing.assert_close(likelihood.log_prob(x), trained.model.decoder(z).log_prob(x))
    torch.testing.assert_close(bayes.mean_decoder()(z).mean, trained.model.decoder(z).mean)
    optimizer = torch.optim.SGD(bayes.guide.weights.parameters(), lr=0.1)
    dv.TraceDenoising_ELBO().loss_and_grads(bayes.model, bayes.guide, x)
    optimizer.step()
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(value, before[name])
    assert bayes.model.prior is trained.model.prior
    assert not torch.equal(bayes.mean_decoder()(z).mean, trained.model.decoder(z).mean)


def test_another_start_than_the_decoder():
    first, other = networks.BernoulliDecoder(D, d, (8,)), networks.BernoulliDecoder(D, d, (8,))
    bayes = small(decoder=first, start=other, initial_scale=0.2)
    for name, value in trainable(other).items():
        torch.testing.assert_close(bayes.guide.weights.means()[name], value)
        torch.testing.assert_close(bayes.guide.weights.scales()[name], torch.full_like(value, 0.2))


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("kind", [dv.TraceDenoising_ELBO, dv.TraceMeanFieldDenoising_ELBO])
def test_svi_trains_local_and_global_latents(kind, local):
    x = data(1).expand(N, D)
    with pyro.settings.context(module_local_params=local):
        bayes = small(dv.SaltAndPepper(0.1))
        bound = kind()
        svi = SVI(bayes.model, bayes.guide, pyro.optim.Adam({"lr": 0.05}), bound)
        before = {name: value.detach().clone() for name, value in bayes.named_parameters()}
        losses = [svi.step(x[:10]) for _ in range(60)]
        assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
        for name, value in bayes.named_parameters():
            assert not torch.equal(value, before[name]), name


@pytest.mark.parametrize("draws", [1, 3])
def test_a_step_can_be_recorded(draws):
    bayes, x = small(dv.SaltAndPepper(0.1)), data()
    bound = dv.TraceMeanFieldDenoising_ELBO(num_corruptions=1, num_particles=draws, max_plate_nesting=1)

    def loss(x):
        return bound.differentiable_loss(bayes.model, bayes.guide, x)

    graph = record(loss, x)
    pyro.set_rng_seed(1)
    wanted = loss(x).detach()
    pyro.set_rng_seed(1)
    torch.testing.assert_close(graph(x), wanted)
    pyro.set_rng_seed(1)
    assert bool((graph(1 - x) - wanted).abs() > 1)


def test_fit_shows_a_bound_per_datum():
    bayes, x = small(bound_of="batch"), data(N)
    history = dv.fit(
        bayes.model,
        bayes.guide,
        x,
        loss=dv.TraceMeanFieldDenoising_ELBO(),
        epochs=2,
        batch_size=16,
        progress=False,
    ).history
    bayes.model.share = bayes.guide.share = Share(N)
    whole = -dv.TraceMeanFieldDenoising_ELBO().loss(bayes.model, bayes.guide, x) / N
    assert history.train_bound[-1] == pytest.approx(whole, rel=0.2)


def test_float64_and_saved_state():
    bayes, x = small().double(), data(dtype=torch.float64)
    other = small().double()
    other.load_state_dict(bayes.state_dict())
    losses = []
    for pair in (bayes, other):
        pyro.clear_param_store()
        pyro.set_rng_seed(1)
        losses.append(
            dv.TraceDenoising_ELBO(num_corruptions=1, num_particles=2).loss(pair.model, pair.guide, x)
        )
    assert losses[0] == losses[1]


def test_per_datum_measures_refuse_the_pair_with_the_remedy():
    bayes, x = small(), data()
    with pytest.raises(dv.InputError, match="PredictiveModel"):
        dv.log_likelihood(bayes.model, bayes.guide, x, num_samples=10)
    with pytest.raises(dv.InputError, match="PredictiveModel"):
        dv.evaluate_bound(bayes.model, bayes.guide, x, loss=dv.TraceDenoising_ELBO())
    with pytest.raises(dv.InputError, match="PredictiveModel"):
        dv.evaluation.reconstruction_error(bayes.model, bayes.guide, x)
    predictive = (bayes.predictive(), bayes.guide.guide)
    assert dv.log_likelihood(*predictive, x, num_samples=10).log_likelihood.shape == (5,)
    assert dv.evaluation.reconstruction_error(*predictive, x, seed=1).from_mean is not None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: small(decoder=nn.Linear(2, 2)), "latent_size"),
        (lambda: FullBayesModel("decoder", N), "decoder"),
        (lambda: FullBayesModel(networks.BernoulliDecoder(D, d), 0), "num_data"),
        (lambda: FullBayesModel(networks.BernoulliDecoder(D, d), N, weight_prior=0.0), "weight_prior"),
        (lambda: small(initial_scale=-1.0), "initial_scale"),
        (lambda: small(bound_of="epoch"), "bound_of"),
        (lambda: small(start=networks.BernoulliDecoder(D, d, (9,))), "start: expected weight"),
        (lambda: FullBayesGuide(lambda x: x, networks.BernoulliDecoder(D, d), N), "guide: expected"),
        (lambda: small(prior=dv.priors.StandardNormal(d + 1)), "prior"),
        (lambda: small(decoder=networks.BernoulliDecoder(D, d).requires_grad_(False)), "trainable"),
        (lambda: small().model(data(N + 1)), "num_data = 40 rows, got 41"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(dv.InputError, match=message):
        call()
