import json
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import BinaryProblem, check_estimates
from measured_problems import Hierarchy, InnerPlate, Mixed, binary, linear_gaussian, normal

import pyro_dvae as dv
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.measures import bound_parts, reconstruction_error
from pyro_dvae.networks import BernoulliDecoder, GaussianEncoder


@pytest.mark.parametrize("chunk", [None, 1, 5])
def test_the_mean_code_of_a_linear_gaussian(chunk):
    problem, x = linear_gaussian()
    found = reconstruction_error(problem.model, problem.guide, x, batch_size=chunk)
    with torch.no_grad():
        decoded = (x @ problem.A.T + problem.c) @ problem.W.T + problem.b
    torch.testing.assert_close(found.from_mean.squared.per_datum, (x - decoded).square().mean(1))
    assert found.from_mean.cross_entropy is None
    assert found.from_samples.cross_entropy is None


@pytest.mark.parametrize("clean", [True, False])
def test_sampled_codes_of_a_linear_gaussian(clean):
    problem, x = linear_gaussian(1)
    found = reconstruction_error(
        problem.model, problem.guide, x.expand(3000, -1), num_samples=2, clean=clean, seed=1
    )
    with torch.no_grad():
        decoded = (x @ problem.A.T + problem.c) @ problem.W.T + problem.b
        covariance = torch.diag(problem.log_v.exp()) if clean else problem._covariances()[1]
        spread = (problem.W @ covariance @ problem.W.T).diagonal().mean()
        exact = (x - decoded).square().mean() + spread
    check_estimates("squared error", found.from_samples.squared.per_datum, exact)


def test_the_cross_entropy_of_bernoulli_data():
    problem, x = BinaryProblem(dv.BitFlip(0.2)), binary(20)
    found = reconstruction_error(problem.model, problem.guide, x, num_samples=3, seed=2)
    with torch.no_grad():
        likelihood = dist.Bernoulli(logits=problem.logits(problem.encode(x)[0]))
    torch.testing.assert_close(found.from_mean.cross_entropy.per_datum, -likelihood.log_prob(x).sum(1))
    torch.testing.assert_close(found.from_mean.squared.per_datum, (x - likelihood.mean).square().mean(1))
    many = reconstruction_error(problem.model, problem.guide, x[:1].expand(2000, -1), num_samples=1)
    other = bound_parts(problem.model, problem.guide, x[:1].expand(2000, -1))
    difference = many.from_samples.cross_entropy.per_datum + other.reconstruction.per_datum
    check_estimates("cross-entropy", difference, torch.zeros(()))


def test_grey_data_under_a_bernoulli_decoder():
    decoder, encoder = BernoulliDecoder(3, 2, (4,)), GaussianEncoder(3, 2, (4,))
    dvae = dv.DVAE(encoder, decoder, dv.SaltAndPepper(0.1))
    x = torch.rand(5, 3)
    found = reconstruction_error(dvae.model, dvae.guide, x)
    p = dvae.decode(dvae.encode(x)[0]).double()
    exact = -(x * p.log() + (1 - x) * (-p).log1p()).sum(1)
    torch.testing.assert_close(found.from_mean.cross_entropy.per_datum, exact, rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match=r"the Bernoulli site 'x': expected values in \[0, 1\]"):
        reconstruction_error(dvae.model, dvae.guide, x + 1)


def test_the_mean_code_of_a_hierarchy_follows_the_means():
    problem, x = Hierarchy(), normal(6, 3)
    before = torch.get_rng_state()
    found = reconstruction_error(problem.model, problem.guide, x, seed=4)
    decoded = x @ problem.A.T @ problem.W.T
    torch.testing.assert_close(found.from_mean.squared.per_datum, (x - decoded).square().mean(1))
    assert torch.equal(torch.get_rng_state(), before)
    again = reconstruction_error(problem.model, problem.guide, x, seed=4)
    assert torch.equal(found.from_samples.squared.per_datum, again.from_samples.squared.per_datum)


def test_a_discrete_latent_is_decoded_from_its_probability():
    problem, x = Mixed(category=False), binary(6)
    found = reconstruction_error(problem.model, problem.guide, x, data_site="pixels")
    means = problem.means(x)
    logits = torch.cat([means["switch"], means["level"].unsqueeze(-1)], -1) @ problem.weights
    exact = -dist.Bernoulli(logits=logits).log_prob(x).sum(1)
    torch.testing.assert_close(found.from_mean.cross_entropy.per_datum, exact)


def test_a_category_has_no_mean_code():
    problem, x = Mixed(), binary(6)
    found = reconstruction_error(problem.model, problem.guide, x, data_site="pixels")
    assert found.from_mean is None
    assert found.from_samples.squared.per_datum.shape == (6,)
    assert found.to_dict()["from_mean"] is None
    assert "from mean" not in found.table()


def test_data_in_an_inner_plate():
    problem, x = InnerPlate(), normal(6, 3)
    found = reconstruction_error(problem.model, problem.guide, x)
    exact = (x - x.mean(-1, keepdim=True)).square().mean(1)
    torch.testing.assert_close(found.from_mean.squared.per_datum, exact)


def test_table_and_dictionary_of_errors():
    problem, x = Mixed(category=False), binary(5)
    found = reconstruction_error(problem.model, problem.guide, x, data_site="pixels", num_samples=4)
    assert str(found).startswith("reconstruction error of 5 rows, 4 sampled codes of each\nfrom mean ")
    values = json.loads(json.dumps(found.to_dict(per_datum=True), allow_nan=False))
    assert len(values["from_samples"]["cross_entropy"]["per_datum"]) == 5


def test_an_unknown_data_site():
    problem, x = Mixed(), binary()
    with pytest.raises(InputError, match=r"^data_site: unknown name 'pixel' \(did you mean 'pixels'\?\)"):
        reconstruction_error(problem.model, problem.guide, x, data_site="pixel")
    with pytest.raises(InputError, match=r"^data_site: unknown name 'level'"):
        reconstruction_error(problem.model, problem.guide, x, data_site="level")


def test_a_data_site_without_a_mean():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Cauchy(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    with pytest.raises(
        InputError, match=r"^data_site: expected a distribution with a mean at 'x', got Cauchy"
    ):
        reconstruction_error(model, guide, normal(4))


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (torch.zeros(0, 3), {}, "data: "),
        (torch.full((2, 3), math.nan), {}, "data: "),
        (torch.zeros(2, 3), {"num_samples": 0}, "num_samples: "),
    ],
)
def test_bad_input_of_reconstruction_error(x, options, message):
    problem, _ = linear_gaussian()
    with pytest.raises(InputError, match=f"^{message}"):
        reconstruction_error(problem.model, problem.guide, x, **options)
