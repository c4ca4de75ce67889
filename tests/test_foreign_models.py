"""Models and guides of others, unchanged, with a corruption in front and this package's bounds."""

from dataclasses import dataclass
from typing import Any

import foreign_models
import pyro
import pytest
import torch
from exact import check_estimates
from foreign_models import DeepMarkovModel, ImageVAE, ProdLDA
from pyro.infer import SVI, Trace_ELBO

import pyro_dvae as dv


@dataclass
class Case:
    """A foreign model, its data, a suitable corruption, and the meaning of one datum."""

    kind: Any
    data: Any
    corruption: Any
    event_dim: int
    observed: str  # its first observed site
    chain: bool = False

    def build(self, corruption=None):
        """Return the module, its guide with a corruption in front, and the arguments of both."""
        pyro.set_rng_seed(1)
        module = self.kind()
        corruption = self.corruption() if corruption is None else corruption
        wrapped = dv.DenoisingGuide(module.guide, corruption, event_dim=self.event_dim)
        return module, wrapped, self.data()


CASES = {
    "vae": Case(ImageVAE, foreign_models.images, lambda: dv.SaltAndPepper(0.2), 2, "obs"),
    "topics": Case(ProdLDA, foreign_models.documents, lambda: dv.Masking(0.3), 1, "obs"),
    "markov": Case(DeepMarkovModel, foreign_models.melodies, lambda: dv.BitFlip(0.1), 2, "x_0", chain=True),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def grads(module):
    found = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    return found


def test_training_with_a_corruption_lowers_the_loss(case):
    module, guide, data = case.build()
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    svi = SVI(module.model, guide, pyro.optim.Adam({"lr": 0.02}), dv.TraceDenoising_ELBO())
    losses = torch.tensor([svi.step(*data) for _ in range(100)])
    spread = losses[-20:].std()
    assert losses[-20:].mean() + 3 * spread < losses[:3].mean()
    for name, value in module.named_parameters():
        assert not torch.equal(value, before[name]), name


def test_without_noise_it_is_stock_pyro(case):
    """One seed: the same loss and the same gradients as the bare guide under Trace_ELBO."""
    module, guide, data = case.build(dv.NoCorruption())
    results = []
    for elbo, program in ((Trace_ELBO(), module.guide), (dv.TraceDenoising_ELBO(), guide)):
        pyro.set_rng_seed(3)
        results.append((elbo.loss_and_grads(module.model, program, *data), grads(module)))
    (loss, expected), (ours, found) = results
    assert ours == pytest.approx(loss, rel=1e-6)
    assert found.keys() == expected.keys() == dict(module.named_parameters()).keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-4, msg=name)


def test_several_draws_of_no_corruption_estimate_the_stock_bound(case):
    module, guide, data = case.build(dv.NoCorruption())
    module.eval()  # batch normalisation then uses fixed moments, so that data are independent
    stock = torch.tensor([Trace_ELBO().loss(module.model, module.guide, *data) for _ in range(120)]).double()
    bound = dv.TraceDenoising_ELBO(num_corruptions=2, num_particles=3)
    ours = torch.tensor([bound.loss(module.model, guide, *data) for _ in range(40)]).double()
    check_estimates("bound", ours, stock.mean(), errors=4, slack=4 * float(stock.std()) / 120**0.5)
    assert bound.per_datum(module.model, guide, *data).shape == (len(data[0]),)


@pytest.mark.parametrize(("corruptions", "particles"), [(1, 1), (2, 3)])
def test_the_guide_reads_corrupted_data_and_the_model_observes_clean_ones(case, corruptions, particles):
    module, _, data = case.build()
    seen = []

    def watched(x, *rest):
        seen.append(x.clone())
        return module.guide(x, *rest)

    guide = dv.DenoisingGuide(watched, case.corruption(), event_dim=case.event_dim)
    bound = dv.TraceDenoising_ELBO(num_corruptions=corruptions, num_particles=particles, max_plate_nesting=1)
    draws = bound.draws(module.model, guide, data, {})
    x, corrupted = data[0], draws.guide_trace.nodes["x_tilde"]["value"]
    assert corrupted.shape == ((corruptions, *x.shape) if corruptions > 1 else x.shape)  # M, not M · K
    assert torch.equal(seen[-1], corrupted)
    changed = (corrupted != x).flatten(-2).any(-1) if case.event_dim == 2 else (corrupted != x).any(-1)
    assert changed.float().mean() > 0.9
    observed = draws.model_trace.nodes[case.observed]
    assert observed["is_observed"]
    assert torch.equal(observed["value"], x[:, 0] if case.chain else x)
    latent = draws.latent_sites()[0]
    lead = (particles, corruptions) if corruptions > 1 else ()
    assert latent["value"].shape[:-1] == (*lead, len(x))


BOUNDS = {
    "mean field": lambda: dv.TraceMeanFieldDenoising_ELBO(num_corruptions=2, num_particles=3),
    "average": lambda: dv.TraceDenoisingIWAE_ELBO(num_corruptions=2, num_particles=3),
    "pooled": lambda: dv.TraceDenoisingIWAE_ELBO(num_corruptions=2, num_particles=3, combine="pooled"),
    "mixture": lambda: dv.TraceDenoisingIWAE_ELBO(num_corruptions=2, num_particles=3, combine="mixture"),
    "semi-implicit": lambda: dv.TraceSemiImplicit_ELBO(num_corruptions=2, num_particles=3, num_mixture=4),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_every_bound_runs_and_every_parameter_has_a_gradient(case, name):
    module, guide, data = case.build()
    loss = BOUNDS[name]().loss_and_grads(module.model, guide, *data)
    assert 0 < loss < 1e5
    found = grads(module)
    assert found.keys() == dict(module.named_parameters()).keys()
    for parameter, gradient in found.items():
        assert bool((gradient != 0).any()), parameter


def mean_bound(bound, module, guide, data, repeats=40):
    values = [bound.per_datum(module.model, guide, *data).double().mean() for _ in range(repeats)]
    values = torch.stack(values)
    return float(values.mean()), float(values.std()) / repeats**0.5


def test_the_bounds_are_in_order(case):
    """L_dvae ≤ L_J ≤ log p(x), L_dvae ≤ L_diwae ≤ pooled: one weight per sequence, document or image."""
    module, guide, data = case.build()
    module.eval()
    nesting = {"max_plate_nesting": 1}
    dvae, error = mean_bound(
        dv.TraceDenoising_ELBO(num_corruptions=4, num_particles=5, **nesting), module, guide, data
    )
    semi, semi_error = mean_bound(
        dv.TraceSemiImplicit_ELBO(num_corruptions=4, num_particles=5, num_mixture=5, **nesting),
        module,
        guide,
        data,
    )
    diwae, _ = mean_bound(
        dv.TraceDenoisingIWAE_ELBO(num_corruptions=4, num_particles=5, **nesting), module, guide, data
    )
    pooled, _ = mean_bound(
        dv.TraceDenoisingIWAE_ELBO(num_corruptions=4, num_particles=5, combine="pooled", **nesting),
        module,
        guide,
        data,
    )
    assert dvae < semi + 4 * (error + semi_error)
    assert dvae + 4 * error < diwae < pooled
    found = dv.log_likelihood(
        module.model, guide, *data, num_samples=200, seed=0, compile=False, max_plate_nesting=1
    )
    assert found.mean > pooled


def test_doubly_reparameterised_gradients_are_for_one_layer_of_latents(case):
    module, guide, data = case.build()
    bound = dv.TraceDenoisingIWAE_ELBO(num_corruptions=2, num_particles=3, gradient="dreg")
    if case.chain:  # the guide's latents of a sequence depend on one another
        with pytest.raises(dv.InputError, match=r"^gradient: .*(chain|depend)"):
            bound.loss_and_grads(module.model, guide, *data)
        return
    assert 0 < bound.loss_and_grads(module.model, guide, *data) < 1e5
    assert grads(module).keys() == dict(module.named_parameters()).keys()


@pytest.mark.parametrize("name", ["vae", "markov"])
def test_a_learned_corruption_is_learned_in_front_of_a_foreign_guide(name):
    module, guide, data = CASES[name].build(dv.BitFlip(0.2, learnable=True))
    dv.TraceDenoising_ELBO(num_corruptions=2, num_particles=1).loss_and_grads(module.model, guide, *data)
    gradient = guide.corruption.rate.raw.grad
    assert gradient is not None
    assert float(gradient) != 0


def test_padding_of_a_sequence_counts_for_nothing():
    """The values after a sequence's end change neither the bound nor any importance weight."""
    module, guide, (x, lengths) = CASES["markov"].build(dv.NoCorruption())
    beyond = (torch.arange(x.shape[1]) >= lengths.unsqueeze(-1)).unsqueeze(-1)
    assert bool(beyond.any())
    other = torch.where(beyond, 1.0, x)
    for bound in (dv.TraceDenoising_ELBO(), dv.TraceDenoisingIWAE_ELBO(num_corruptions=2, num_particles=3)):
        values = []
        for padded in (x, other):
            pyro.set_rng_seed(3)
            values.append(bound.per_datum(module.model, guide, padded, lengths))
        torch.testing.assert_close(values[0], values[1])


@pytest.mark.parametrize("name", [None, "average", "semi-implicit"])
def test_annealing_of_the_divergence_reaches_every_bound(name):
    """``poutine.scale`` on the latents of both, as in the example: the denoising bound is linear in it."""
    module, guide, (x, lengths) = CASES["markov"].build()
    bound = dv.TraceDenoising_ELBO() if name is None else BOUNDS[name]()
    losses = []
    for factor in (0.25, 0.5, 0.75):
        pyro.set_rng_seed(3)
        losses.append(bound.loss(module.model, guide, x, lengths, factor))
    assert losses[0] < losses[1] < losses[2]
    if name is None:
        assert losses[1] == pytest.approx((losses[0] + losses[2]) / 2, rel=1e-5)


def test_a_wrapped_foreign_guide_needs_to_know_what_one_datum_is():
    module, _, data = CASES["vae"].build()
    with pytest.raises(dv.InputError, match=r"^guide: its plate 'data' has 40 elements.* set event_dim"):
        dv.DenoisingGuide(module.guide, dv.BitFlip(0.1))(*data)
