"""DRAW as a model and a guide: sites, what each network sees, parameters, recording, pictures."""

import copy
import math

import pyro
import pytest
import torch
from draw_reference import HIDDEN, KINDS, LATENT, SHAPE, STEPS, D, data, network
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO

import pyro_dvae as dv
from pyro_dvae.engine import record
from pyro_dvae.models.draw import DRAW

LATENTS = [f"z{step}" for step in range(1, STEPS + 1)]


def seeded(call, *arguments, seed=3):
    pyro.set_rng_seed(seed)
    return call(*arguments)


def evaluated(draw, x):
    with pyro.settings.context(module_local_params=True):
        return seeded(
            dv.TraceDenoising_ELBO(num_corruptions=4, num_particles=2, max_plate_nesting=1).per_datum,
            draw.model,
            draw.guide,
            x,
        )


def test_the_sites():
    draw, x = network(corruption=dv.BitFlip(0.2)), data()
    guide = poutine.trace(draw.guide).get_trace(x)
    model = poutine.trace(poutine.replay(draw.model, trace=guide)).get_trace(x)
    assert [name for name in guide.stochastic_nodes if name != "data"] == ["x_tilde", *LATENTS]
    assert [name for name in model.stochastic_nodes if name != "data"] == LATENTS
    assert model.observation_nodes == ["x"]
    assert model.nodes["x"]["value"] is x
    for name in LATENTS:
        assert guide.nodes[name]["value"].shape == (len(x), LATENT)
        assert {frame.name for frame in guide.nodes[name]["cond_indep_stack"]} == {"data"}
    latents, canvas = guide.nodes["_RETURN"]["value"], model.nodes["_RETURN"]["value"]
    assert all(z is guide.nodes[name]["value"] for z, name in zip(latents, LATENTS, strict=True))
    torch.testing.assert_close(
        model.nodes["x"]["fn"].log_prob(x),
        torch.distributions.Bernoulli(logits=canvas).log_prob(x).sum(-1),
    )


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_recognition_network_never_sees_clean_data(kind):
    """If a corruption replaces everything, the guide is the same for every x, but the bound is not."""
    draw, one, other = network(*kind, corruption=dv.Masking(1.0)), data(), 1 - data()
    traces = [
        seeded(
            dv.TraceDenoising_ELBO(num_corruptions=2, num_particles=3).draws, draw.model, draw.guide, (x,), {}
        )
        for x in (one, other)
    ]
    for name in LATENTS:
        first, second = (each.guide_trace.nodes[name] for each in traces)
        assert torch.equal(first["fn"].mean, second["fn"].mean)
        assert torch.equal(first["value"], second["value"])
    assert not torch.equal(*(each.model_trace.nodes["x"]["log_prob"] for each in traces))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_guide_reads_the_canvases_that_the_model_draws(kind):
    draw, x = network(*kind, corruption=dv.SaltAndPepper(0.2)), data()
    looked, drawn = [], []
    draw.guide.encoder.register_forward_pre_hook(lambda module, args: looked.append(args[1]))
    draw.model.decoder.register_forward_hook(lambda module, args, drawing: drawn.append(drawing))
    bound = dv.TraceDenoising_ELBO(num_corruptions=2, num_particles=3, max_plate_nesting=1)
    bound.draws(draw.model, draw.guide, (x,), {})  # the first run looks whether the pair vectorises
    looked.clear()
    drawn.clear()
    draws = bound.draws(draw.model, draw.guide, (x,), {})
    assert len(looked) == STEPS
    by_guide, by_model = drawn[: STEPS - 1], drawn[STEPS - 1 :]
    assert len(by_model) == STEPS
    for seen, guided, modelled in zip(looked[1:], by_guide, by_model, strict=False):
        assert torch.equal(seen.canvas, modelled.canvas)
        assert torch.equal(guided.canvas, modelled.canvas)
        assert all(torch.equal(a, b) for a, b in zip(seen.state, modelled.state, strict=True))
    likelihood = draw.model.decoder.likelihood(by_model[-1].canvas).log_prob(x)
    assert torch.equal(likelihood, draws.model_trace.nodes["x"]["log_prob"])


def test_the_first_look_is_computed_for_each_corruption_and_not_for_each_latent():
    draw, x = network(), data()
    shapes = []
    draw.guide.encoder.register_forward_hook(lambda module, args, state: shapes.append(state[0].shape))
    bound = dv.TraceDenoising_ELBO(num_corruptions=2, num_particles=4, max_plate_nesting=1)
    bound.loss(draw.model, draw.guide, x)  # the first run looks whether the pair vectorises
    shapes.clear()
    bound.loss(draw.model, draw.guide, x)
    later = (4, 2, len(x), HIDDEN)
    assert [tuple(shape) for shape in shapes] == [(2, len(x), HIDDEN), later, later]


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_parameter_is_announced_once_and_trained(kind, local):
    draw, x = network(*kind, corruption=dv.GaussianNoise(0.2, learnable=True)).double(), data()
    before = {name: value.detach().clone() for name, value in draw.named_parameters()}
    with pyro.settings.context(module_local_params=local):
        svi = SVI(
            draw.model,
            draw.guide,
            pyro.optim.Adam({"lr": 0.01}),
            dv.TraceDenoising_ELBO(num_corruptions=2, num_particles=2),
        )
        svi.step(x)
        svi.step(x)
    for name, value in draw.named_parameters():
        assert not torch.equal(value, before[name]), name
    if not local:
        wanted = {
            name.replace("model.decoder.", "decoder$$$").replace("guide.encoder.", "encoder$$$")
            for name in before
        }
        wanted = {name.replace("guide.corruption.", "x_tilde$$$") for name in wanted}
        assert set(pyro.get_param_store()) == wanted


@pytest.mark.parametrize("local", [False, True])
def test_the_module_form_has_every_parameter_once(local):
    draw, x = network(), data()
    with pyro.settings.context(module_local_params=local):
        elbo = dv.TraceMeanFieldDenoising_ELBO()(draw.model, draw.guide)
        elbo(x).backward()
    found = list(elbo.parameters())
    assert len(found) == len(list(draw.parameters()))
    assert all(float(parameter.grad.abs().max()) > 0 for parameter in found)


def test_a_name_that_was_there_before_is_kept():
    draw, x = network(), data()
    pyro.module("mine", draw.model.decoder)
    Trace_ELBO().loss(draw.model, draw.guide, x)
    names = set(pyro.get_param_store())
    assert {name.partition("$$$")[0] for name in names} == {"mine", "encoder"}
    assert len(names) == len(list(draw.parameters()))


@pytest.mark.parametrize("attention", [False, True])
def test_training_raises_the_bound(attention):
    torch.manual_seed(0)
    sizes = {"image_shape": SHAPE, "hidden_size": 16, "latent_size": 2, "read_size": 3, "write_size": 4}
    draw = DRAW(steps=3, attention=attention, corruption=dv.SaltAndPepper(0.05), **sizes)
    x = data(2).float().repeat(20, 1)
    before = float(evaluated(draw, x).mean())
    options = {"epochs": 80, "batch_size": 40, "learning_rate": 0.03, "progress": False}
    dv.fit(draw.model, draw.guide, x, loss=dv.TraceMeanFieldDenoising_ELBO(max_plate_nesting=1), **options)
    after = float(evaluated(draw, x).mean())
    assert before < -13
    assert -6 < after < 0


def test_state_dict_round_trip_and_copies(tmp_path):
    x = data()
    draw, other = network(corruption=dv.BitFlip(0.2), seed=0), network(corruption=dv.BitFlip(0.1), seed=1)
    assert not torch.equal(evaluated(draw, x), evaluated(other, x))
    torch.save(draw.state_dict(), tmp_path / "draw.pt")
    other.load_state_dict(torch.load(tmp_path / "draw.pt", weights_only=True))
    assert torch.equal(evaluated(other, x), evaluated(draw, x))
    copied = copy.deepcopy(draw)
    assert torch.equal(evaluated(copied, x), evaluated(draw, x))
    assert copied.guide.decoder is copied.model.decoder is not draw.model.decoder
    assert copied.guide.decoder.cell.input.weight is copied.model.decoder.cell.input.weight


def test_the_decoder_is_one_also_after_the_store_has_replaced_its_parameters():
    x, first, second = data(), network(seed=0), network(seed=1)
    Trace_ELBO().loss(first.model, first.guide, x)
    store = pyro.get_param_store()
    store.set_state(copy.deepcopy(store.get_state()))  # as if loaded
    with pytest.warns(UserWarning, match="takes its value from Pyro's param store"):
        Trace_ELBO().loss(second.model, second.guide, x)
    assert second.guide.decoder.first_canvas is second.model.decoder.first_canvas
    for (name, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_clean_input():
    draw, x = network(corruption=dv.Masking(1.0)), data()
    plain = network()
    with dv.clean_input():
        trace = seeded(poutine.trace(draw.guide).get_trace, x)
    pyro.clear_param_store()
    expected = seeded(poutine.trace(plain.guide).get_trace, x)
    for name in LATENTS:
        torch.testing.assert_close(trace.nodes[name]["fn"].mean, expected.nodes[name]["fn"].mean)


@pytest.mark.parametrize("kind", [(True, "lstm"), (False, "gru")], ids=str)
def test_it_can_be_recorded(kind):
    draw, x = network(*kind, steps=2, corruption=dv.SaltAndPepper(0.2)), data()
    bound = dv.TraceMeanFieldDenoising_ELBO(num_corruptions=2, num_particles=3, max_plate_nesting=1)

    def loss(x):
        return bound.differentiable_loss(draw.model, draw.guide, x)

    loss(x)  # registers
    graph = record(loss, x)
    for rows in (x, 1 - x):
        assert torch.equal(seeded(graph, rows), seeded(loss, rows).detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dtype_is_kept(dtype):
    draw, x = network(corruption=dv.BitFlip(0.1)).to(dtype), data().to(dtype)
    draws = dv.TraceDenoising_ELBO(num_corruptions=2, num_particles=3).draws(draw.model, draw.guide, (x,), {})
    for name in LATENTS:
        assert draws.guide_trace.nodes[name]["value"].dtype == dtype
        assert draws.model_trace.nodes[name]["log_prob"].dtype == dtype
    assert draws.model_trace.nodes["x"]["log_prob"].dtype == dtype
    assert draw.sample(2).dtype == draw.reconstruct(x).dtype == dtype


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_the_accelerator_agrees_with_the_processor():
    draw, x = network(), data()
    expected = draw.reconstruct(x)
    moved = copy.deepcopy(draw).cuda()
    torch.testing.assert_close(moved.reconstruct(x.cuda()).cpu(), expected, rtol=0, atol=1e-10)
    assert moved.sample(2).device.type == "cuda"
    assert (
        dv.TraceDenoising_ELBO(num_corruptions=2, num_particles=3).loss(moved.model, moved.guide, x.cuda())
        > 0
    )


@pytest.mark.parametrize("attention", [False, True])
def test_sample_draws_from_the_model(attention):
    draw, count = network(attention), 20000
    canvases = seeded(draw.sample, count)
    assert canvases.shape == (STEPS, count, D)
    assert not canvases.requires_grad
    assert bool(((canvases > 0) & (canvases < 1)).all())
    prior = torch.randn(STEPS, count, LATENT, dtype=torch.float64)
    drawing = draw.model.decoder.start()
    for step in range(STEPS):
        drawing = draw.model.decoder(prior[step], drawing)
        pixels = drawing.canvas.sigmoid().detach()
        for power in (1, 2):
            difference = (canvases[step] ** power).mean(0) - (pixels**power).mean(0)
            error = (((canvases[step] ** power).var(0) + (pixels**power).var(0)) / count).sqrt()
            assert bool((difference.abs() < 5 * error).all())
    torch.testing.assert_close(seeded(draw.sample, 3), seeded(draw.sample, 3), rtol=0, atol=0)


@pytest.mark.parametrize("leading", [(), (4,), (2, 4)])
def test_reconstruct_follows_the_means_of_the_guide(leading):
    draw, x = network(), data(8)[: math.prod(leading)].reshape(*leading, D)
    canvases = draw.reconstruct(x)
    assert canvases.shape == (STEPS, *leading, D)
    rows = x.reshape(-1, D)
    means = [torch.zeros(len(rows), LATENT, dtype=torch.float64)] * STEPS
    for step, name in enumerate(LATENTS):  # each depends on those before it
        given = dict(zip(LATENTS, means, strict=True))
        trace = poutine.trace(poutine.condition(draw.guide, data=given)).get_trace(rows)
        means[step] = trace.nodes[name]["fn"].mean.detach()
    given = dict(zip(LATENTS, means, strict=True))
    last = poutine.condition(draw.model, data=given)(rows)
    torch.testing.assert_close(canvases[-1].reshape(-1, D), last.sigmoid().detach())


BAD = [
    ({"image_shape": 20}, r"image_shape: expected \(height, width\), got 20"),
    ({"image_shape": (4, 0)}, "image_shape: expected a whole number of at least 1, got 0"),
    ({"steps": 0}, "steps: expected a whole number of at least 1"),
    ({"hidden_size": 1.5}, "hidden_size: expected a whole number"),
    ({"latent_size": 0}, "latent_size: expected a whole number"),
    ({"read_size": 0}, "read_size: expected a whole number"),
    ({"write_size": -1}, "write_size: expected a whole number"),
    ({"cell": "lstn"}, r"cell: unknown name 'lstn' \(did you mean 'lstm'\?\)"),
    ({"corruption": 0.1}, "corruption: expected a pyro_dvae corruption, got float"),
]


@pytest.mark.parametrize(("option", "message"), BAD)
def test_bad_options_are_refused(option, message):
    with pytest.raises(dv.InputError, match=f"^{message}"):
        DRAW(**{"image_shape": SHAPE} | option)


def test_bad_data_are_refused():
    draw = network()
    with pytest.raises(dv.InputError, match=rf"^x: expected a last dimension of {D} \(data_size\)"):
        draw.guide(torch.rand(4, D + 1).double())
    with pytest.raises(dv.InputError, match=r"^count: expected a whole number of at least 1"):
        draw.sample(0)
