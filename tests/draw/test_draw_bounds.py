"""The bounds of DRAW against plain computations and numeric integration."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from draw_reference import HIDDEN, KINDS, LATENT, STEPS, D, data, log_normal, network, standardised, terms
from torch import nn

import pyro_dvae as dv

ANALYTIC, SAMPLED = dv.TraceMeanFieldDenoising_ELBO, dv.TraceDenoising_ELBO
NOISE = dv.GaussianNoise(torch.tensor(0.3, dtype=torch.float64))


def seeded(call, *arguments, seed=3):
    pyro.set_rng_seed(seed)
    return call(*arguments)


def gradients(draw):
    found = {name: parameter.grad for name, parameter in draw.named_parameters()}
    draw.zero_grad()
    return found


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("bound", [ANALYTIC(), SAMPLED()], ids=["analytic", "sampled"])
def test_value_and_gradient_equal_the_plain_computation(kind, bound):
    draw, x = network(*kind, corruption=NOISE), data()
    trace = seeded(bound.draws, draw.model, draw.guide, (x,), {}).guide_trace
    noise, x_tilde = standardised(trace), trace.nodes["x_tilde"]["value"]
    expected = 0.0
    for n in range(len(x)):
        likelihood, divergence, ratio = terms(draw, x[n], x_tilde[n], noise[:, n])
        expected = expected + likelihood - (ratio if type(bound) is SAMPLED else divergence)
    (-expected).backward()
    wanted = gradients(draw)
    loss = seeded(bound.loss_and_grads, draw.model, draw.guide, x)
    assert -loss == pytest.approx(float(expected.detach()), rel=1e-12)
    for name, gradient in gradients(draw).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-8, atol=1e-10, msg=name)
        assert float(gradient.abs().max()) > 0, name


@pytest.mark.parametrize("attention", [False, True])
def test_several_draws_are_their_mean(attention):
    draw, x = network(attention, corruption=NOISE), data(2)
    bound = ANALYTIC(num_corruptions=3, num_particles=2, max_plate_nesting=1)
    trace = seeded(bound.draws, draw.model, draw.guide, (x,), {}).guide_trace
    x_tilde = trace.nodes["x_tilde"]["value"]
    assert x_tilde.shape == (3, 2, D)
    noise = standardised(trace)
    assert noise.shape == (STEPS, 2, 3, 2, LATENT)
    expected = torch.zeros(2, dtype=torch.float64)
    for k in range(2):
        for m in range(3):
            for n in range(2):
                likelihood, divergence, _ = terms(draw, x[n], x_tilde[m, n], noise[:, k, m, n])
                expected[n] += (likelihood - divergence).detach() / 6
    torch.testing.assert_close(seeded(bound.per_datum, draw.model, draw.guide, x), expected)


def test_sampled_and_closed_form_have_one_mean():
    draw, x = network(corruption=NOISE), data(1).expand(4000, D)
    analytic, sampled = (
        seeded(bound.per_datum, draw.model, draw.guide, x) for bound in (ANALYTIC(), SAMPLED())
    )
    difference = sampled - analytic
    assert float(difference.std()) > 0.1
    assert abs(float(difference.mean())) < 5 * float(difference.std()) / len(x) ** 0.5


class OneLookEncoder(nn.Module):
    """DRAW's recognition network at T = 1 without attention."""

    def __init__(self, draw):
        super().__init__()
        encoder, decoder = draw.guide.encoder, draw.model.decoder
        self.cell = nn.LSTMCell(2 * D + HIDDEN, HIDDEN).double()
        copy(self.cell, encoder.cell)
        self.head = encoder.head
        self.start, self.hidden, self.canvas = (
            encoder.cell.initial,
            decoder.cell.initial[0],
            decoder.first_canvas,
        )

    def forward(self, x):
        seen = torch.cat([x, x - self.canvas.sigmoid(), self.hidden.expand(len(x), -1)], -1)
        loc, log_variance = self.head(
            self.cell(seen, tuple(s.expand(len(x), -1) for s in self.start))[0]
        ).chunk(2, -1)
        return loc, (log_variance / 2).exp()


class OneStrokeDecoder(nn.Module):
    """DRAW's generative network at T = 1."""

    latent_size = LATENT

    def __init__(self, draw):
        super().__init__()
        decoder = draw.model.decoder
        self.cell = nn.LSTMCell(LATENT, HIDDEN).double()
        copy(self.cell, decoder.cell)
        self.patch, self.start, self.canvas = decoder.writer.patch, decoder.cell.initial, decoder.first_canvas

    def forward(self, z):
        hidden = self.cell(z, tuple(s.expand(len(z), -1) for s in self.start))[0]
        return dist.Bernoulli(logits=self.canvas + self.patch(hidden)).to_event(1)


def copy(theirs, ours):
    theirs.weight_ih, theirs.bias_ih = ours.input.weight, ours.input.bias
    theirs.weight_hh, theirs.bias_hh = ours.recurrent.weight, ours.recurrent.bias


@pytest.mark.parametrize("bound", [ANALYTIC(), SAMPLED()], ids=["analytic", "sampled"])
def test_one_step_without_attention_is_a_vae(bound):
    draw, x = network(False, steps=1, corruption=NOISE), data()
    vae = dv.DVAE(OneLookEncoder(draw), OneStrokeDecoder(draw), NOISE)
    expected = seeded(bound.loss_and_grads, vae.model, vae.guide, x)
    wanted = gradients(draw)
    pyro.clear_param_store()
    assert seeded(bound.loss_and_grads, draw.model, draw.guide, x) == pytest.approx(expected, rel=1e-12)
    for name, gradient in gradients(draw).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-9, atol=1e-12, msg=name)


def log_evidence(draw, x, nodes=40):
    """log p(x) of each row for two steps of one latent each, by Gauss-Hermite quadrature over both."""
    points, weights = (torch.as_tensor(each) for each in np.polynomial.hermite_e.hermegauss(nodes))
    first, second = points[:, None, None], points[None, :, None]
    decoder = draw.model.decoder
    canvas = decoder(second, decoder(first, decoder.start())).canvas
    log_likelihood = decoder.likelihood(canvas[:, :, None]).log_prob(x)
    log_weight = (weights / weights.sum()).log()
    return torch.logsumexp(
        (log_likelihood + log_weight[:, None, None] + log_weight[:, None]).flatten(0, 1), 0
    )


def test_likelihood_and_bounds_against_quadrature():
    draw, x = network(steps=2, latent_size=1, corruption=NOISE), data(3)
    exact = log_evidence(draw, x).detach()
    torch.testing.assert_close(exact, log_evidence(draw, x, 30).detach(), rtol=0, atol=1e-6)
    for proposal in ("clean", "corrupted", "mixture"):
        found = dv.log_likelihood(
            draw.model, draw.guide, x, num_samples=4000, proposal=proposal, seed=1, max_plate_nesting=1
        )
        error = found.standard_error.clamp(min=1e-6)
        assert bool(((found.log_likelihood - exact).abs() < 5 * error).all()), proposal
        assert float(error.max()) < 0.1
    many = x.repeat_interleave(500, 0)
    bounds = [
        SAMPLED(),
        dv.TraceDenoisingIWAE_ELBO(num_corruptions=1, num_particles=5),
        dv.TraceDenoisingIWAE_ELBO(num_corruptions=1, num_particles=50),
    ]
    means = []
    for bound in bounds:
        values = bound.per_datum(draw.model, draw.guide, many).reshape(3, 500)
        error = values.std(1) / 500**0.5
        assert bool((values.mean(1) < exact + 5 * error).all())
        means.append(float(values.mean()))
    assert means == sorted(means)


ELSEWHERE = {
    "denoising": SAMPLED(num_corruptions=3, num_particles=2),
    "mean-field": ANALYTIC(num_corruptions=3, num_particles=2),
    "stl": SAMPLED(num_corruptions=3, num_particles=2, gradient="stl"),
    "importance": dv.TraceDenoisingIWAE_ELBO(num_corruptions=3, num_particles=2),
    "pooled": dv.TraceDenoisingIWAE_ELBO(num_corruptions=3, num_particles=2, combine="pooled"),
    "mixture": dv.TraceDenoisingIWAE_ELBO(num_corruptions=3, num_particles=2, combine="mixture"),
    "semi-implicit": dv.TraceSemiImplicit_ELBO(num_corruptions=3, num_particles=2, num_mixture=2),
    "stock": pyro.infer.Trace_ELBO(),
    "stock mean-field": pyro.infer.TraceMeanField_ELBO(),
}


@pytest.mark.parametrize("name", ELSEWHERE)
@pytest.mark.parametrize("attention", [False, True])
def test_every_bound_applies(attention, name):
    draw, x = network(attention, corruption=dv.SaltAndPepper(0.2)), data()
    reference = SAMPLED(num_corruptions=200, max_plate_nesting=1).per_datum(draw.model, draw.guide, x).sum()
    loss = ELSEWHERE[name].loss_and_grads(draw.model, draw.guide, x)
    assert -loss == pytest.approx(float(reference), abs=20)
    for parameter, gradient in gradients(draw).items():
        assert bool(torch.isfinite(gradient).all()), parameter
        assert float(gradient.abs().max()) > 0, parameter


def test_the_doubly_reparameterised_gradient_is_refused():
    draw, x = network(), data()
    with pytest.raises(dv.InputError, match="depends on 'z1' in the guide; use gradient='pathwise'"):
        dv.TraceDenoisingIWAE_ELBO(num_corruptions=1, num_particles=3, gradient="dreg").loss_and_grads(
            draw.model, draw.guide, x
        )


def test_the_prior_is_standard_normal():
    draw, x = network(), data()
    trace = pyro.poutine.trace(draw.model).get_trace(x)
    trace.compute_log_prob()
    for step in range(1, STEPS + 1):
        site = trace.nodes[f"z{step}"]
        torch.testing.assert_close(site["log_prob"], log_normal(site["value"]).sum(-1))
