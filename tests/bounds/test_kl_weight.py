"""KL warm-up takes the gradient of the tempered bound and reports the value of the bound."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import nn

import pyro_dvae as dv

X = torch.randn(6, 3, generator=torch.Generator().manual_seed(1)).double()


class Linear(nn.Module):
    """The linear-Gaussian pair: z ~ N(0, I), x | z ~ N(Wz + b, s²I), q(z | x) = N(Ax + c, diag v)."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.decoder, self.encoder = nn.Linear(2, 3).double(), nn.Linear(3, 2).double()
        self.log_scale = nn.Parameter(torch.tensor([-0.5, 0.2]).double())

    def model(self, x):
        pyro.module("pair", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 0.7).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("pair", self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x), self.log_scale.exp()).to_event(1))

    def gradients(self, bound, seed=3):
        """Return loss and gradient under one seed."""
        pyro.clear_param_store()
        torch.manual_seed(seed)
        self.zero_grad()
        loss = bound.differentiable_loss(self.model, self.guide, X)
        loss.backward()
        return float(loss.detach()), [parameter.grad.clone() for parameter in self.parameters()]

    def by_hand(self, weight, seed=3):
        """Return reconstruction + weight × KL in closed form, at the draws of the seed."""
        torch.manual_seed(seed)
        self.zero_grad()
        loc, scale = self.encoder(X), self.log_scale.exp()
        z = dist.Normal(loc, scale).rsample()
        reconstruction = -dist.Normal(self.decoder(z), 0.7).log_prob(X).sum()
        kl = (0.5 * (loc**2 + scale**2 - 1) - self.log_scale).sum()
        (reconstruction + weight * kl).backward()
        return float((reconstruction + kl).detach()), [
            parameter.grad.clone() for parameter in self.parameters()
        ]


def assert_equal(found, expected):
    assert found[0] == pytest.approx(expected[0], rel=1e-12)
    for one, other in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0, 2.5])
def test_the_gradient_is_of_reconstruction_and_weighted_kl(weight):
    pair = Linear()
    assert_equal(pair.gradients(dv.TraceMeanFieldDenoising_ELBO(kl_weight=weight)), pair.by_hand(weight))


@pytest.mark.parametrize("draws", [(1, 1), (2, 3)])
def test_sampled_terms_are_weighted_alike(draws):
    pair = Linear()
    options = dict(zip(("num_corruptions", "num_particles"), draws, strict=True))
    value, full = pair.gradients(dv.TraceDenoising_ELBO(**options))
    _, none = pair.gradients(dv.TraceDenoising_ELBO(kl_weight=0.0, **options))
    expected = [none_ + 0.4 * (full_ - none_) for none_, full_ in zip(none, full, strict=True)]
    assert_equal(pair.gradients(dv.TraceDenoising_ELBO(kl_weight=0.4, **options)), (value, expected))
    decoder_only = pair.by_hand(0.0)[1]
    if draws == (1, 1):
        assert_equal((0.0, none), (0.0, decoder_only))


def test_a_discrete_latent_has_the_gradient_of_the_enumerated_tempered_bound():
    """E over 400,000 draws of the score function against the sum over z ∈ {0, 1}."""
    logit, weight, count = torch.tensor(0.4).double().requires_grad_(), 0.3, 400_000

    def model(x):
        with pyro.plate("data", count):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3).double()))
            pyro.sample("x", dist.Normal(2 * z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", count):
            pyro.sample("z", dist.Bernoulli(logits=logit))

    x = torch.full((count,), 0.8).double()
    bound = dv.TraceDenoising_ELBO(kl_weight=weight, max_plate_nesting=1)
    torch.manual_seed(0)
    loss = bound.differentiable_loss(model, guide, x) / count
    (found,) = torch.autograd.grad(loss, logit)

    def tempered(logit, weight):
        q = torch.stack([1 - logit.sigmoid(), logit.sigmoid()])
        prior = torch.tensor([0.7, 0.3]).double()
        likelihood = dist.Normal(torch.tensor([0.0, 2.0]).double(), 1.0).log_prob(torch.tensor(0.8).double())
        return (q * (-likelihood + weight * (q.log() - prior.log()))).sum()

    (wanted,) = torch.autograd.grad(tempered(logit, weight), logit)
    assert float(found) == pytest.approx(float(wanted), abs=5e-3)
    assert float(loss.detach()) == pytest.approx(float(tempered(logit, 1.0).detach()), abs=5e-3)
    assert abs(float(torch.autograd.grad(tempered(logit, 1.0), logit)[0]) - float(wanted)) > 0.05


def test_a_schedule_moves_with_the_epochs_and_values_are_untempered():
    seen = []
    pair = Linear()
    bound = dv.TraceMeanFieldDenoising_ELBO(kl_weight=dv.LinearSchedule(0.0, 1.0, epochs=2))
    for epoch in range(4):
        bound.set_epoch(epoch)
        found = pair.gradients(bound)
        assert_equal(found, pair.by_hand([0.0, 0.5, 1.0, 1.0][epoch]))
        seen.append(found[0])
    assert len(set(seen)) == 1
    pyro.clear_param_store()
    torch.manual_seed(3)
    plain = Trace_ELBO().loss(pair.model, pair.guide, X)
    bound.set_epoch(0)
    torch.manual_seed(3)
    other = dv.TraceDenoising_ELBO(kl_weight=0.0)
    assert other.loss(pair.model, pair.guide, X) == pytest.approx(plain, rel=1e-12)
    torch.manual_seed(3)
    assert float(other.per_datum(pair.model, pair.guide, X).sum()) == pytest.approx(-plain, rel=1e-12)


@pytest.mark.usefixtures("interpreted")
def test_a_compiled_step_follows_the_schedule():
    losses = []
    for kind in (SVI, dv.CompiledSVI):
        pyro.clear_param_store()
        pair = Linear()
        bound = dv.TraceDenoising_ELBO(kl_weight=dv.LinearSchedule(0, 1, epochs=4))
        svi = kind(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.05}), bound)
        torch.manual_seed(3)
        for number in range(6):
            bound.set_epoch(number)
            losses += [(kind, svi.step(X)) for _ in range(3)]
    assert svi.recorded == 1
    plain, compiled = ([loss for each, loss in losses if each is kind] for kind in (SVI, dv.CompiledSVI))
    assert compiled == pytest.approx(plain, rel=1e-9)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.slow
def test_models_of_one_batch_follow_the_schedule():
    """Each ends where it would alone, and not where it would without the warm-up."""

    def ends(many, weight):
        pyro.clear_param_store()
        pairs = [Linear(), Linear()]
        options = {"epochs": 4, "batch_size": 6, "learning_rate": 0.05, "progress": False}
        options["loss"] = dv.TraceDenoising_ELBO(kl_weight=weight, max_plate_nesting=1)
        if many:
            dv.fit_many([(pair.model, pair.guide) for pair in pairs], X, seeds=[0, 1], **options)
        else:
            dv.fit(pairs[0].model, pairs[0].guide, X, seed=0, compile=True, **options)
        return [parameter.detach() for parameter in pairs[0].parameters()]

    warm = dv.LinearSchedule(0.0, 1.0, epochs=4)
    together, alone, plain = ends(True, warm), ends(False, warm), ends(False, 1.0)
    for one, other, without in zip(together, alone, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
        assert not torch.allclose(one, without, rtol=1e-3)


@pytest.mark.parametrize(
    "options",
    [{"gradient": "stl", "kl_weight": 0.5}, {"baseline": nn.Linear(3, 1), "kl_weight": 0.5}],
)
def test_estimators_that_have_no_single_terms_refuse_it(options):
    with pytest.raises(dv.InputError, match=r"kl_weight: needs gradient='pathwise'"):
        dv.TraceDenoising_ELBO(**options)


@pytest.mark.parametrize("kind", [dv.TraceDenoisingIWAE_ELBO, dv.TraceSemiImplicit_ELBO])
def test_bounds_without_a_kl_term_refuse_it(kind):
    with pytest.raises(dv.InputError, match="kl_weight: only TraceDenoising_ELBO has a KL term"):
        kind(kl_weight=0.5)


def test_a_weight_below_zero():
    with pytest.raises(dv.InputError, match="kl_weight: expected"):
        dv.TraceDenoising_ELBO(kl_weight=-1.0)
