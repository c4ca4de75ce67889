"""What ``dv.check`` reports of a pair: its sites, what a training step does, and warnings."""

import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from features import FEATURES, X, guide, loc, model, scale
from pyro.infer import Trace_ELBO
from small_examples import EXAMPLES

import pyro_dvae as dv


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)


def checked(name, **options):
    own_model, own_guide, args = FEATURES[name].build()
    return dv.check(own_model, own_guide, *args, **options)


def test_the_table_of_a_pair():
    loss = dv.TraceDenoising_ELBO(num_corruptions=2, num_particles=3)
    found = checked("salt and pepper, learned", num_data=4, loss=loss)
    first = "(the first one {} times and {} times).".format(*found.step.first_runs)
    assert str(found).splitlines() == [
        "site     kind         plates  shape  distributions    gradient",
        "x_tilde  corruption   data 4  [4]    Replacement      score function, baseline leave-one-out",
        "z        latent       data 4  [4]    Normal / Normal  pathwise",
        "x        observation  data 4  [4]    Normal",
        "",
        "A step of TraceDenoising_ELBO (M = 2, K = 3) runs the model once and the guide once " + first,
        "No remarks.",
    ]
    assert found.ok
    assert repr(found) == str(found)


def kinds(found):
    return {row.name: row.kind for row in found.sites}


def test_kinds_of_sites():
    assert kinds(checked("`dv.auxiliary` noise")) == {"noise": "noise", "z": "latent", "x": "observation"}
    assert kinds(checked("`pyro.factor` in the guide"))["density"] == "factor"
    assert kinds(checked("`pyro.deterministic` in both"))["spread"] == "deterministic"
    assert kinds(checked("`AutoDiagonalNormal`"))["_AutoDiagonalNormal_latent"] == "auxiliary"
    assert kinds(checked("a latent missing in the guide"))["b"] == "latent, not in the guide"


def test_plates_are_shown_with_what_is_subsampled():
    found = checked("a mini-batch, by `subsample=`")
    assert {row.plates for row in found.sites} == {"data 4 of 40"}
    assert {row.plates for row in checked("a plate without a size").sites} == {"data"}
    assert checked("a sequential plate").sites[0].plates == "data (sequential)"


ESTIMATORS = [
    ("one plate", None, "pathwise"),
    ("one plate", Trace_ELBO(), "pathwise"),
    ("one plate", dv.TraceDenoising_ELBO(gradient="stl"), "sticking the landing"),
    ("one plate", dv.TraceDenoisingIWAE_ELBO(gradient="dreg"), "doubly reparameterised"),
    ("one plate", dv.TraceMeanFieldDenoising_ELBO(), "pathwise, KL in closed form"),
    ("`poutine.scale` around the model alone", dv.TraceMeanFieldDenoising_ELBO(), "pathwise"),
    ("no parameters", None, "none: fixed"),
    ("Bernoulli", None, "score function, baseline none (a single draw)"),
    ("Bernoulli", Trace_ELBO(), "score function, baseline none"),
    ("Bernoulli", dv.TraceDenoising_ELBO(num_particles=2), "score function, baseline leave-one-out"),
    (
        "Bernoulli",
        dv.TraceDenoisingIWAE_ELBO(num_particles=2, baseline="none"),
        "score function, baseline none",
    ),
    ("a site with its own baseline", None, "score function, baseline of its own"),
]


@pytest.mark.parametrize(("name", "loss", "gradient"), ESTIMATORS)
def test_the_estimator_of_a_latent(name, loss, gradient):
    found = {row.name: row.gradient for row in checked(name, loss=loss).sites}
    assert found["z"] == gradient
    assert found["x"] == ""


def test_how_often_the_programs_run():
    once = checked("Gaussian noise").step
    assert (once.model_runs, once.guide_runs, once.first_runs) == (1, 1, (1, 1))
    mixture = checked("Gaussian noise", loss=dv.TraceSemiImplicit_ELBO(num_mixture=2)).step
    assert (mixture.model_runs, mixture.guide_runs) == (1, 2)
    assert "runs the model once and the guide twice" in str(
        checked("Gaussian noise", loss=dv.TraceSemiImplicit_ELBO(num_mixture=2))
    )


REMARKS = [
    (
        "one plate",
        {"num_data": 40},
        r"plate 'data' has size 4, but num_data is 40: the loss counts 4 obs",
    ),
    (
        "latents shared by all observations",
        {"num_data": 40},
        r"the prior of 'mean' counts 10 times as much as it should; .* pyro\.plate\('data', 40, subsample",
    ),
    ("a plate without a size", {"num_data": 40}, r"plate 'data' has size 4, but num_data is 40"),
    ("no plate", {"num_data": 4}, r"no plate around the observations has the 4 rows"),
    ("a dimension that no plate declares", {}, r"site 'z' has batch shape \(4,\), .* add \.to_event"),
    ("a latent missing in the guide", {}, r"does not sample the model's latents 'b': sample them"),
    ("a latent missing in the guide", {}, r"a step of this loss raises: guide: .*'b' is not sampled"),
    (
        "a site of the guide missing in the model",
        {},
        r"the guide's sites 'other' are not in the model",
    ),
    ("a site of the guide", {}, r"a step of this loss raises: .*pyro\.infer\.TraceEnum_ELBO"),
    ("dropout in the guide", {}, r"the density of 'z' differs between two runs on the same draws"),
    ("no parameters", {}, r"no parameter gets a gradient; see pyro\.param and pyro\.module"),
]


@pytest.mark.parametrize(("name", "options", "remark"), REMARKS)
def test_remarks(name, options, remark):
    found = checked(name, **options).remarks
    assert any(re.search(remark, text) for text in found), found


QUIET = [
    ("one plate", {"num_data": 4}),
    ("a mini-batch, by `subsample=`", {"num_data": 40}),
    ("shared latents and a mini-batch", {"num_data": 40}),
    ("nested plates", {}),
    ("batch normalisation in the guide", {}),
    ("two layers, in the model's order", {}),
    ("two layers, the guide in reverse order", {}),
    ("`AutoNormal`", {}),
    ("`EasyGuide`", {}),
]


@pytest.mark.parametrize(("name", "options"), QUIET)
def test_nothing_to_remark(name, options):
    found = checked(name, **options)
    assert found.remarks == ()
    assert str(found).endswith("No remarks.")


def test_a_dependence_that_the_guide_breaks():
    """Two causes of one observation depend on each other given it; a guide may draw one from the other."""

    def causes(x):
        with pyro.plate("data", len(x)):
            a, b = (pyro.sample(name, dist.Normal(0.0, 1.0)) for name in "ab")
            pyro.sample("x", dist.Normal(a + b, 0.6), obs=x)

    def apart(x):
        with pyro.plate("data", len(x)):
            for name in "ab":
                pyro.sample(name, dist.Normal(loc() * x, scale()))

    def together(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(loc() * x, scale()))
            pyro.sample("b", dist.Normal(x - a, scale()))

    (remark,) = dv.check(causes, apart, X).remarks
    assert remark.startswith("given the data, 'a' and 'b' depend on each other, but the guide draws")
    assert dv.check(causes, together, X).remarks == ()


def test_parameters_without_a_gradient_are_named():
    def unused(x):
        pyro.param("forgotten", torch.tensor(1.0))
        guide(x)

    assert dv.check(model, unused, X).remarks == ("no gradient reaches the parameters 'forgotten'",)


def test_a_check_changes_nothing():
    """Random streams, running means, gradients, modes and the loss do not change."""
    built = EXAMPLES["scANVI, types known"].build()
    loss = dv.TraceDenoising_ELBO(num_particles=2)
    parameter = next(built.module.parameters())
    parameter.grad = torch.ones_like(parameter)
    before = {name: value.clone() for name, value in built.module.state_dict().items()}
    state = torch.get_rng_state()
    dv.check(built.model, built.guide, *built.args, loss=loss)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in built.module.state_dict().items())
    assert torch.equal(parameter.grad, torch.ones_like(parameter))
    assert built.module.training
    assert loss.max_plate_nesting == float("inf")


def test_networks_of_the_library():
    encoder, decoder = dv.networks.GaussianEncoder(6, 2, (8,)), dv.networks.BernoulliDecoder(6, 2, (8,))
    net = dv.DVAE(encoder, decoder, dv.BitFlip(0.1))
    found = dv.check(net.model, net.guide, torch.rand(5, 6).round(), num_data=5)
    assert found.ok
    assert kinds(found)["x_tilde"] == "corruption"
    assert found.sites[0].gradient == "none: fixed"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_data": 0}, "num_data: expected a whole number of at least 1, got 0"),
        ({"loss": "elbo"}, r"loss: expected a bound \(a Pyro ELBO\), got str"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(dv.InputError, match=message):
        dv.check(model, guide, X, **options)
