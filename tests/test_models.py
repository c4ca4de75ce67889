import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from torch import nn

import pyro_dvae as dv
from pyro_dvae.networks import BernoulliDecoder, GaussianDecoder, GaussianEncoder

D, d = 6, 2
BOUNDS = [
    pytest.param(Trace_ELBO, id="stock"),
    pytest.param(lambda: dv.TraceDenoising_ELBO(num_corruptions=1, num_particles=1), id="1-1"),
    pytest.param(lambda: dv.TraceDenoising_ELBO(num_corruptions=3, num_particles=2), id="3-2"),
]


def dvae(corruption=None, seed=0, latent_size=d, decoder=BernoulliDecoder):
    torch.manual_seed(seed)
    return dv.DVAE(GaussianEncoder(D, latent_size, (8,)), decoder(D, latent_size, (8,)), corruption)


def data(count=40, seed=5):
    """Two noisy prototypes, which a model can learn."""
    generator = torch.Generator().manual_seed(seed)
    prototype = torch.randint(0, 2, (count, 1), generator=generator).expand(count, D).float()
    return (prototype - (torch.rand(count, D, generator=generator) < 0.1).float()).abs()


def train(net, bound, x, steps, form="svi", seed=3):
    pyro.set_rng_seed(seed)
    if form == "svi":
        svi = SVI(net.model, net.guide, pyro.optim.Adam({"lr": 0.02}), bound)
        for _ in range(steps):
            svi.step(x)
    else:
        elbo = bound(net.model, net.guide)
        optimizer = torch.optim.Adam(elbo.parameters(), lr=0.02)
        for _ in range(steps):
            optimizer.zero_grad()
            elbo(x).backward()
            optimizer.step()


def evaluated(net, x):
    """The denoising bound per datum under one seed, without touching the param store."""
    pyro.set_rng_seed(7)
    with pyro.settings.context(module_local_params=True):
        return float(
            dv.TraceDenoising_ELBO(num_corruptions=10, num_particles=1)
            .per_datum(net.model, net.guide, x)
            .mean()
        )


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("form", ["svi", "module"])
@pytest.mark.parametrize("make_bound", BOUNDS)
def test_training_raises_the_bound(local, form, make_bound):
    net, x = dvae(dv.SaltAndPepper(0.1)), data()
    before = evaluated(net, x)
    with pyro.settings.context(module_local_params=local):
        train(net, make_bound(), x, 40, form)
    assert evaluated(net, x) > before + 0.5


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("form", ["svi", "module"])
def test_every_parameter_is_trained_with_the_corruption(local, form):
    net = dvae(dv.BitFlip(0.2, learnable=True))
    before = {name: value.detach().clone() for name, value in net.named_parameters()}
    with pyro.settings.context(module_local_params=local):
        train(net, dv.TraceDenoising_ELBO(num_corruptions=2, num_particles=2), data(), 2, form)
    assert any("corruption" in name for name in before)
    for name, value in net.named_parameters():
        assert not torch.equal(value, before[name]), name
    assert len(pyro.get_param_store()) == (0 if local else len(before))


def test_both_settings_and_both_forms_train_alike():
    results = {}
    for local in (False, True):
        for form in ("svi", "module"):
            pyro.clear_param_store()
            net = dvae(dv.GaussianNoise(0.2, learnable=True))
            with pyro.settings.context(module_local_params=local):
                train(net, dv.TraceDenoising_ELBO(), data(), 5, form)
            results[local, form] = torch.cat([value.detach().reshape(-1) for value in net.parameters()])
    for result in results.values():
        torch.testing.assert_close(result, results[False, "svi"], rtol=1e-5, atol=1e-6)


def test_two_models_are_independent_with_local_parameters():
    x = data()
    with pyro.settings.context(module_local_params=True):
        alone = [dvae(dv.BitFlip(0.1), seed) for seed in (0, 1)]
        for net in alone:
            train(net, dv.TraceDenoising_ELBO(), x, 4)
        together = [dvae(dv.BitFlip(0.1), seed) for seed in (0, 1)]
        steps = [
            SVI(n.model, n.guide, pyro.optim.Adam({"lr": 0.02}), dv.TraceDenoising_ELBO()) for n in together
        ]
        states = []
        for _ in steps:
            pyro.set_rng_seed(3)
            states.append(torch.get_rng_state())
        for _ in range(4):
            for index, svi in enumerate(steps):
                torch.set_rng_state(states[index])
                svi.step(x)
                states[index] = torch.get_rng_state()
    for one, other in zip(alone, together, strict=True):
        for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
            assert torch.equal(a, b), name
    assert not torch.equal(together[0].model.decoder.head.weight, together[1].model.decoder.head.weight)
    assert len(pyro.get_param_store()) == 0


@pytest.mark.parametrize("latent_size", [d, 3])
def test_with_the_param_store_a_second_model_keeps_its_own_parameters(latent_size):
    x, first, second = data(), dvae(seed=0), dvae(seed=1, latent_size=latent_size)
    before = list(second.parameters())
    train(first, Trace_ELBO(), x, 2)
    train(second, Trace_ELBO(), x, 2)
    assert all(a is b for a, b in zip(second.parameters(), before, strict=True))
    assert len(pyro.get_param_store()) == 2 * len(before)


@pytest.mark.parametrize("decoder", [BernoulliDecoder, GaussianDecoder])
@pytest.mark.parametrize("leading", [(), (5,), (2, 5)])
def test_encode_and_decode(decoder, leading):
    net = dvae(dv.SaltAndPepper(1.0), decoder=decoder)
    x = torch.rand(*leading, D)
    state = torch.get_rng_state()
    loc, scale = net.encode(x)
    mean = net.decode(loc)
    assert torch.equal(torch.get_rng_state(), state)
    assert loc.shape == scale.shape == (*leading, d)
    assert mean.shape == (*leading, D)
    assert bool((scale > 0).all())
    assert bool(((mean >= 0) & (mean <= 1)).all())
    assert not any(value.requires_grad for value in (loc, scale, mean))
    expected_loc, expected_scale = net.guide.encoder(x)
    assert torch.equal(loc, expected_loc)
    assert torch.equal(scale, expected_scale)
    assert torch.equal(mean, net.model.decoder(loc).mean)


def test_the_model_observes_clean_data_and_only_the_encoder_sees_the_corruption():
    net, x = dvae(dv.Masking(1.0)), data(5)
    seen = []
    net.guide.encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    draws = dv.TraceDenoising_ELBO().draws(net.model, net.guide, (x,), {})
    assert len(seen) == 1
    assert not bool(seen[0].any())
    site = draws.model_trace.nodes["x"]
    assert site["is_observed"]
    assert site["value"] is x


def test_the_sites_of_the_model():
    torch.manual_seed(1)
    model, x = dv.LatentVariableModel(BernoulliDecoder(D, d, (8,))), data(5)
    trace = poutine.trace(model).get_trace(x)
    trace.compute_log_prob()
    z = trace.nodes["z"]
    assert trace.nodes["_RETURN"]["value"] is z["value"]
    assert z["value"].shape == (5, d)
    torch.testing.assert_close(z["log_prob"], dist.Normal(0.0, 1.0).log_prob(z["value"]).sum(-1))
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], model.decoder(z["value"]).log_prob(x))
    for name in ("z", "x"):
        assert {frame.name for frame in trace.nodes[name]["cond_indep_stack"]} == {"data"}
    assert list(pyro.get_param_store()) == [
        f"decoder$$${name}" for name, _ in model.decoder.named_parameters()
    ]


def by_hand(encoder, decoder):
    """The VAE of Pyro's tutorial."""

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(x.new_zeros(d), x.new_ones(d)).to_event(1))
            pyro.sample("x", decoder(z), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", x.shape[0]):
            loc, scale = encoder(x)
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    return model, guide


@pytest.mark.parametrize("corruption", [None, dv.NoCorruption()])
@pytest.mark.parametrize("bound", [Trace_ELBO(), dv.TraceDenoising_ELBO()])
def test_without_corruption_it_is_the_vae_under_one_seed(corruption, bound):
    net, x = dvae(corruption).double(), data().double()
    model, guide = by_hand(net.guide.encoder, net.model.decoder)
    pyro.set_rng_seed(3)
    expected = Trace_ELBO().loss_and_grads(model, guide, x)
    expected_grads = [parameter.grad.clone() for parameter in net.parameters()]
    net.zero_grad()
    pyro.set_rng_seed(3)
    assert bound.loss_and_grads(net.model, net.guide, x) == pytest.approx(expected, rel=1e-12)
    for parameter, gradient in zip(net.parameters(), expected_grads, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-10, atol=1e-12)
        assert bool(gradient.any())


def test_without_corruption_several_draws_are_vectorised_particles():
    net, x = dvae().double(), data().double()
    model, guide = by_hand(net.guide.encoder, net.model.decoder)
    pyro.set_rng_seed(3)
    expected = Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1).loss(
        model, guide, x
    )
    pyro.set_rng_seed(3)
    ours = dv.TraceDenoising_ELBO(num_corruptions=1, num_particles=4, max_plate_nesting=1).loss(
        net.model, net.guide, x
    )
    assert ours == pytest.approx(expected, rel=1e-12)


def test_double_precision():
    net, x = dvae(dv.SaltAndPepper(0.1)).double(), data(5).double()
    draws = dv.TraceDenoising_ELBO(num_corruptions=2, num_particles=3).draws(net.model, net.guide, (x,), {})
    for trace in (draws.guide_trace, draws.model_trace):
        for name in trace.stochastic_nodes + trace.observation_nodes:
            if name != "data":
                assert trace.nodes[name]["value"].dtype == torch.float64, name
                assert trace.nodes[name]["log_prob"].dtype == torch.float64, name


def test_state_dict_round_trip_and_copies(tmp_path):
    x = data(5)
    net, other = dvae(dv.BitFlip(0.3), seed=0), dvae(dv.BitFlip(0.1), seed=1)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    other.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True))
    assert evaluated(other, x) == evaluated(net, x) == evaluated(copy.deepcopy(net), x)
    assert float(other.guide.corruption.rate()) == pytest.approx(0.3)


def test_bad_input_is_refused():
    net = dvae(dv.BitFlip(0.1))
    with pytest.raises(
        dv.InputError, match=rf"^x: expected a last dimension of {D} \(data_size\), got shape \(4, 5\)"
    ):
        net.guide(torch.rand(4, 5))
    with pytest.raises(dv.InputError, match=r"^x: expected finite values, got 24 NaN or infinite of 24"):
        net.guide(torch.full((4, D), float("nan")))
    with pytest.raises(dv.InputError, match=r"^corruption: expected a pyro_dvae corruption, got float$"):
        dv.DVAE(net.guide.encoder, net.model.decoder, 0.1).guide(torch.rand(4, D))


def test_any_module_of_the_right_form_will_do():
    class Encoder(nn.Module):
        def forward(self, x):
            return x[..., :d], torch.ones_like(x[..., :d])

    class Decoder(nn.Module):
        latent_size = d

        def forward(self, z):
            return dist.Normal(z.repeat_interleave(D // d, -1), 1.0).to_event(1)

    net, x = dv.DVAE(Encoder(), Decoder(), dv.GaussianNoise(0.1)), torch.rand(4, D)
    assert dv.TraceDenoising_ELBO(num_corruptions=3, num_particles=2).per_datum(
        net.model, net.guide, x
    ).shape == (4,)
    assert torch.equal(net.decode(net.encode(x)[0]), x[:, :d].repeat_interleave(D // d, -1))
