"""The plate of the rows is found in the same way by training, bounds, likelihoods, draws and remarks."""

import itertools
import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO

import pyro_dvae as dv
from pyro_dvae.programs.data_plate import data_plates

N, B = 12, 4

PLATES = {
    "without a size": lambda x: pyro.plate("data"),
    "of the batch": lambda x: pyro.plate("data", len(x)),
    "with a subsample size": lambda x: pyro.plate("data", len(x), subsample_size=len(x)),
}
OUTSIDE = {
    "nothing": lambda: None,
    "deterministic": lambda: pyro.deterministic("twice", torch.tensor(2.0)),
    "factor": lambda: pyro.factor("penalty", torch.tensor(0.0)),
    "observed": lambda: pyro.sample("hyper", dist.Uniform(0.0, 1.0), obs=torch.tensor(0.5)),  # log p = 0
}


class Pair:
    """z ~ N(0, I), x ~ N(z, I), and the guide N(x / 2, I), in plates of any kind, with a site outside."""

    def __init__(self, of_model, of_guide, outside=OUTSIDE["nothing"]):
        self.of_model, self.of_guide, self.outside = of_model, of_guide, outside
        torch.manual_seed(0)
        self.encoder = torch.nn.Linear(2, 2).double()

    def model(self, x):
        self.outside()
        with self.of_model(x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with self.of_guide(x):
            pyro.sample("z", dist.Normal(self.encoder(x), 1.0).to_event(1))


def full(x):
    return pyro.plate("data", N, subsample=torch.arange(len(x)))


def data(rows=N):
    return torch.randn(rows, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def quietly(function):
    """Call a function without Pyro's warnings of plates that only one program gives a size."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Found plate statements in guide but not model")
        return function()


BOUNDS = {
    "K draws": dv.TraceDenoising_ELBO(num_particles=3),
    "importance-weighted": dv.TraceDenoisingIWAE_ELBO(num_particles=3),
    "importance-weighted over corruptions": dv.TraceDenoisingIWAE_ELBO(num_particles=3, num_corruptions=2),
}


@pytest.mark.parametrize("bound", BOUNDS)
def test_bounds_are_the_same_whichever_program_gives_the_plate_a_size(bound):
    x, found = data(), {}
    for names in itertools.product(PLATES, repeat=2):
        pair = Pair(*map(PLATES.get, names))
        found[names] = quietly(lambda pair=pair: BOUNDS[bound].loss(pair.model, pair.guide, x))
    expected = found["of the batch", "of the batch"]
    assert found == pytest.approx(dict.fromkeys(found, expected), rel=1e-12)


def test_likelihoods_are_the_same_whichever_program_gives_the_plate_a_size():
    x, found = data(), []
    exact = dist.Normal(0.0, math.sqrt(2.0)).log_prob(x).sum(1)
    for names in itertools.product(PLATES, repeat=2):
        pair = Pair(*map(PLATES.get, names))
        given = quietly(
            lambda pair=pair: dv.log_likelihood(
                pair.model, pair.guide, x, num_samples=2000, refine=False, seed=0, progress=False
            )
        )
        found.append(given.log_likelihood)
        torch.testing.assert_close(given.log_likelihood.double(), exact, atol=0.3, rtol=0)
    assert all(torch.equal(found[0], each) for each in found)


def history(pair, **options):
    """Return the training bounds of a seeded run, and its validation bounds."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    options = {"loss": dv.TraceDenoising_ELBO(), "epochs": 2, "batch_size": B, "progress": False} | options
    run = dv.fit(pair.model, pair.guide, data(), **options)
    return [*run.history.train_bound, *(each for each in run.history.validation_bound if each is not None)]


@pytest.mark.parametrize("outside", OUTSIDE)
@pytest.mark.parametrize("bound", [dv.TraceDenoising_ELBO(), dv.TraceDenoisingIWAE_ELBO(num_particles=2)])
def test_what_lies_outside_the_plate_of_the_rows_does_not_change_the_bound_of_a_row(outside, bound):
    options = {"loss": bound, "validation": data(6)}
    found = history(Pair(full, full, OUTSIDE[outside]), **options)
    assert found == pytest.approx(history(Pair(full, full), **options), rel=1e-12)
    assert all(-10 < nats < -2 for nats in found)


def test_a_plate_without_a_size_trains_without_a_warning():
    unsized, sized = (Pair(PLATES[name], PLATES[name]) for name in ("without a size", "of the batch"))
    assert history(unsized) == pytest.approx(history(sized), rel=1e-12)


def test_check_sees_the_plate_that_training_sees():
    for outside in OUTSIDE.values():
        for name, plate in PLATES.items():
            pair = Pair(plate, plate, outside)
            x = data()
            assert quietly(lambda pair=pair, x=x: dv.check(pair.model, pair.guide, x, num_data=N)).ok, name
    some = Pair(*[lambda x: pyro.plate("data", len(x), subsample_size=3)] * 2)

    def model(x):
        with pyro.plate("data", len(x), subsample_size=3) as rows:
            z = pyro.sample("z", dist.Normal(x.new_zeros(3, 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x[rows])

    def guide(x):
        with pyro.plate("data", len(x), subsample_size=3) as rows:
            pyro.sample("z", dist.Normal(some.encoder(x[rows]), 1.0).to_event(1))

    remarks = dv.check(model, guide, data(), num_data=N).remarks
    assert not any("plate" in remark for remark in remarks), remarks


def test_the_encoder_guide_takes_the_plate_of_a_model_without_a_size():
    pair = Pair(PLATES["without a size"], PLATES["without a size"])
    guide = dv.AutoEncoderGuide(pair.model)
    sized = Pair(PLATES["of the batch"], PLATES["of the batch"])
    losses = []
    for model in (pair.model, sized.model):
        pyro.set_rng_seed(0)
        guide = dv.AutoEncoderGuide(model)
        losses.append(dv.TraceDenoisingIWAE_ELBO(num_particles=3).loss(model, guide, data()))
        pyro.clear_param_store()
    assert losses[0] == losses[1]


def sites_of(model, x):
    return [site for site in poutine.trace(model).get_trace(x).nodes.values() if site["type"] == "sample"]


def test_of_plates_with_as_many_elements_the_one_around_the_latents_or_along_the_rows_counts():
    def columns(x, latents):
        with pyro.plate("rows", len(x), dim=-2):
            if latents:
                pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("columns", x.shape[1], dim=-1):
                pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    square = torch.zeros(4, 4)
    for latents in (True, False):
        found = data_plates(sites_of(lambda x, latents=latents: columns(x, latents), square), 4)
        assert list(found) == ["rows"]

    def turned(x):  # the rows are the last dimension of the observed values
        with pyro.plate("rows", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("times", x.shape[1], dim=-2):
                pyro.sample("x", dist.Normal(0.0, 1.0), obs=x.T)

    assert list(data_plates(sites_of(turned, square), 4)) == ["rows"]
    assert list(data_plates(sites_of(turned, torch.zeros(4, 3)), 4)) == ["rows"]
    assert not data_plates(sites_of(turned, torch.zeros(4, 3)), 5)


def test_a_plate_that_draws_some_of_the_rows_is_theirs_where_this_is_asked_for():
    def model(x):
        with pyro.plate("data", len(x), subsample_size=2) as index:
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x[index])

    sites = [site for site in sites_of(model, torch.zeros(6)) if site["is_observed"]]
    assert list(data_plates(sites, 6, drawn=True)) == ["data"]
    assert not data_plates(sites, 6)


@pytest.mark.parametrize("loss", [Trace_ELBO(), dv.TraceDenoising_ELBO(), dv.TraceDenoisingIWAE_ELBO()])
@pytest.mark.parametrize("kind", ["without a size", "of the batch"])
def test_rows_that_count_otherwise_in_the_guide_than_in_the_model_are_refused(loss, kind):
    for plates, counts in (((full, PLATES[kind]), "as 1 .* as 3"), ((PLATES[kind], full), "as 3 .* as 1")):
        pair = Pair(*plates)
        with pytest.raises(dv.InputError, match=f"^guide: plate 'data' counts .* {counts} in"):
            quietly(lambda pair=pair: history(pair, loss=loss))
        assert not quietly(lambda pair=pair: dv.check(pair.model, pair.guide, data(B), loss=loss)).ok
    assert quietly(lambda: history(Pair(*[PLATES[kind]] * 2), loss=loss))


def test_a_guide_may_scale_its_rows_by_hand():
    pair = Pair(full, PLATES["of the batch"])
    pair.guide = poutine.scale(pair.guide, N / B)
    assert quietly(lambda: history(pair)) == pytest.approx(history(Pair(full, full)), rel=1e-12)


MEASURES = {
    "encode": lambda pair, x: dv.encode(pair.model, pair.guide, x, seed=0).mean["z"],
    "reconstruct": lambda pair, x: dv.reconstruct(pair.model, pair.guide, x, seed=0),
    "denoise": lambda pair, x: dv.denoise(pair.model, pair.guide, x, seed=0),
    "active units": lambda pair, x: dv.evaluation.active_units(pair.model, pair.guide, x).activity["z"],
}


@pytest.mark.parametrize("outside", OUTSIDE)
def test_measures_of_codes_do_not_ask_for_a_plate_around_what_lies_outside(outside):
    x = data()
    for name, measure in MEASURES.items():
        found, expected = (
            quietly(lambda site=site, measure=measure: measure(Pair(full, full, site), x))
            for site in (OUTSIDE[outside], OUTSIDE["nothing"])
        )
        assert torch.equal(found, expected), name


def test_estimates_that_need_a_density_of_each_row_say_how_to_hide_what_lies_outside():
    pair, x = Pair(full, full, OUTSIDE["observed"]), data()
    hidden = poutine.block(pair.model, hide=["hyper"])
    once = {"refine": False, "num_samples": 25, "progress": False, "seed": 0}
    verbs = (
        lambda model: dv.condition(model, pair.guide, x, **once).draws,
        lambda model: torch.tensor(dv.to_arviz(model, pair.guide, x, seed=0).log_likelihood["x"].values),
        lambda model: dv.evaluation.bound_parts(model, pair.guide, x, seed=0).reconstruction.per_datum,
    )
    for verb in verbs:
        with pytest.raises(
            dv.InputError, match=r"site 'hyper' lies .*; hide it, .*block\(model, hide=\['hyper'\]"
        ):
            quietly(lambda verb=verb: verb(pair.model))
        assert quietly(lambda verb=verb: verb(hidden)).isfinite().all()
