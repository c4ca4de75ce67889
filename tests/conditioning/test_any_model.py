"""Conditioning on models as users write them: exact values, or an error that says what to do."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import LinearGaussian
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer.reparam import LocScaleReparam

import pyro_dvae as dv
from pyro_dvae.errors import InputError
from pyro_dvae.networks import GaussianEncoder, NegativeBinomialDecoder

pytestmark = pytest.mark.filterwarnings("ignore:the (missing cells|scores) of")  # few draws

NAN = math.nan
PROBLEM = LinearGaussian(data_size=3, latent_size=2)
ROWS = torch.tensor([[NAN, 0.3, -0.4], [0.5, NAN, NAN], [NAN, NAN, NAN], [1.0, -0.2, 0.1]]).double()
OPTIONS = {"num_draws": 4000, "num_samples": 2000, "seed": 1, "compile": False, "refine": False}


def latents():
    return pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))


def likelihood(z):
    return dist.Normal(z @ PROBLEM.W.T + PROBLEM.b, PROBLEM.log_s.exp())


def in_plate(body):
    def model(x):
        with pyro.plate("data", len(x)):
            body(x)

    return model


def row(column: int):
    """Return a row with a gap in one column."""
    x = torch.tensor([[0.1, 0.2, 0.3]]).double()
    x[0, column] = NAN
    return x


def test_cells_that_no_latent_reaches_have_draws_of_their_own():
    covariance = torch.tensor([[1.0, 0.6], [0.6, 2.0]]).double()

    def body(x):
        latents()
        pyro.sample("free", dist.Normal(torch.tensor(2.0).double(), 0.5), obs=x[:, 0])
        joint = dist.MultivariateNormal(torch.zeros(2).double(), covariance)
        pyro.sample("pair", joint, obs=x[:, 1:])

    found = dv.condition(in_plate(body), PROBLEM.plain_guide, ROWS, **OPTIONS)
    draws = found.draws[:, 0, 0]
    assert abs(draws.mean() - 2) < 5 * 0.5 / math.sqrt(4000)
    assert abs(draws.std() - 0.5) < 0.03
    both = torch.cov(found.draws[:, 1, 1:].T)
    assert torch.allclose(both, covariance, atol=0.2)
    assert float(found.mean[0, 0]) == 2.0


def test_cells_of_a_discrete_model_that_no_latent_reaches_have_draws_of_their_own():
    def body(x):
        k = pyro.sample("k", dist.Bernoulli(torch.tensor(0.3).double()))
        pyro.sample("free", dist.Normal(torch.tensor(2.0).double(), 0.5), obs=x[:, 0])
        pyro.sample("x", dist.Normal(k[..., None].expand(*k.shape, 2), 1.0).to_event(1), obs=x[:, 1:])

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Bernoulli(torch.full((len(x),), 0.5).double()))

    draws = dv.condition(in_plate(body), guide, ROWS, **OPTIONS).draws[:, 0, 0]
    assert abs(draws.std() - 0.5) < 0.03


def test_cells_that_are_mixtures_are_conditioned():
    """Also of components with bounds of their own; a mixture of whole rows is refused."""
    bounds = torch.tensor([[-3.0, 0.0], [1.0, 3.0]]).double()
    parts = {
        "normal": (lambda loc: dist.Normal(torch.stack([loc - 1, loc + 1], -1), 0.6), 0.4),
        "uniform": (lambda loc: dist.Uniform(*bounds).expand([*loc.shape, 2]), 0.3 * -1 + 0.7 * 1.5),
    }
    for components, mean in parts.values():

        def body(x, components=components):
            z = latents()
            weights = torch.tensor([0.3, 0.7]).double().expand(*z.shape[:-1], 3, 2)
            loc = torch.zeros(*z.shape[:-1], 3).double()
            cells = dist.MixtureSameFamily(dist.Categorical(weights), components(loc), validate_args=False)
            pyro.sample("x", cells.to_event(1), obs=x)

        found = dv.condition(in_plate(body), PROBLEM.plain_guide, ROWS, **OPTIONS)
        torch.testing.assert_close(found.mean[ROWS.isnan()], torch.full((6,), mean).double())

    def of_rows(x):
        z = latents()
        weights = torch.ones(*z.shape[:-1], 2).double()
        loc = torch.zeros(*z.shape[:-1], 2, 3).double()
        pyro.sample(
            "x", dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(loc, 1.0).to_event(1)), obs=x
        )

    with pytest.raises(InputError, match="cells of a row under MixtureSameFamily are neither independent"):
        dv.condition(in_plate(of_rows), PROBLEM.plain_guide, ROWS, **OPTIONS)


def test_a_cell_is_drawn_from_the_site_whose_mask_leaves_it_in():
    """Each of two sites observes one half of the rows and is masked in the other."""

    def body(x):
        z = latents()
        first = torch.arange(len(x)) < 2
        with poutine.mask(mask=first):
            pyro.sample("a", likelihood(z).to_event(1), obs=x)
        with poutine.mask(mask=~first):
            pyro.sample("b", dist.Normal(likelihood(z).mean + 100, 1.0).to_event(1), obs=x)

    found = dv.condition(in_plate(body), PROBLEM.plain_guide, ROWS, **OPTIONS)
    assert found.draws[:, :2].abs().max() < 20
    assert (found.draws[:, 2] > 80).all()


def test_a_mask_of_rows_may_belong_to_the_likelihood():
    """``.to_event(1).mask(m)`` says the same as ``poutine.mask``, also for cells that must be positive."""

    def positive(z):
        return dist.LogNormal(z @ PROBLEM.W.T, 0.5).to_event(1)

    def inside(x, kept):
        with pyro.plate("data", len(x)):
            pyro.sample("x", positive(latents()).mask(kept), obs=x)

    def around(x, kept):
        with pyro.plate("data", len(x)):
            z = latents()
            with poutine.mask(mask=kept):
                pyro.sample("x", positive(z), obs=x)

    def guide(x, kept):
        PROBLEM.plain_guide(x)

    kept = torch.tensor([True, True, True, False])
    found, same = (dv.condition(model, guide, ROWS.abs(), kept, **OPTIONS) for model in (inside, around))
    assert torch.equal(found.log_likelihood, same.log_likelihood)
    assert torch.equal(found.draws.nan_to_num(), same.draws.nan_to_num())


def test_a_reparameterised_model_is_conditioned_on_its_cells():
    model = poutine.reparam(PROBLEM.model, {"z": LocScaleReparam(0.0)})

    def guide(x):
        with pyro.plate("data", len(x)):
            loc = x @ PROBLEM.A.T
            pyro.sample("z_decentered", dist.Normal(loc, 0.5).to_event(1))

    options = OPTIONS | {"refine": dv.Refinement(num_steps=50, families=("diagonal",), annealing_steps=0)}
    found = dv.condition(model, guide, ROWS, **options)
    same = dv.condition(PROBLEM.model, PROBLEM.plain_guide, ROWS, **options)
    assert torch.allclose(found.log_likelihood, same.log_likelihood, atol=0.05)
    assert torch.allclose(found.mean, same.mean, atol=0.15)


def test_a_guide_may_have_more_plates_than_the_model():
    def guide(x):
        with pyro.plate("data", len(x)):
            with pyro.plate("cells", 3, dim=-2):
                noisy = dv.corrupt("x_tilde", dv.GaussianNoise(0.1), x.T, event_dim=0)
            pyro.sample("z", dist.Normal(noisy.mT @ PROBLEM.A.T, 0.5).to_event(1))

    with pytest.warns(UserWarning, match="plate statements in guide"):
        dv.TraceDenoising_ELBO().loss(PROBLEM.model, guide, ROWS[3:])
    found = dv.condition(PROBLEM.model, guide, ROWS, **OPTIONS)
    same = dv.condition(PROBLEM.model, PROBLEM.plain_guide, ROWS, **OPTIONS)
    assert torch.allclose(found.log_likelihood, same.log_likelihood, atol=0.15)


def test_a_plate_of_all_rows_is_conditioned_in_blocks_of_more():
    """A block of the refinement repeats rows; the plate's size is the total number of rows."""

    def of_all(program):
        return lambda x: program(x, size=len(ROWS))

    found = dv.condition(of_all(PROBLEM.model), of_all(PROBLEM.guide), ROWS, **OPTIONS)
    exact = PROBLEM.log_evidence(ROWS[3:]).detach()
    assert float((found.log_likelihood[3] - exact).abs()) < 5 * float(found.standard_error[3]) + 1e-6


def test_a_last_chunk_of_a_single_number_is_conditioned():
    def body(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(1).double(), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.8).to_event(1))

    for x in (torch.tensor([[NAN]]).double(), torch.full((501, 1), NAN).double()):
        found = dv.condition(in_plate(body), guide, x, num_draws=10, num_samples=50, seed=1, refine=False)
        assert found.draws.shape == (10, *x.shape)
        assert found.draws.std() > 0.5


def autoregressive(x):
    z = latents()
    pyro.sample("x_0", dist.Normal(z[..., 0], 1.0), obs=x[:, 0])
    pyro.sample("x_1", dist.Normal(x[:, 0] + z[..., 1], 1.0), obs=x[:, 1])
    pyro.sample("x_2", dist.Normal(x[:, 1], 1.0), obs=x[:, 2])


def with_factor(x):
    pyro.sample("x", likelihood(latents()).to_event(1), obs=x)
    pyro.factor("penalty", -x.square().sum(-1))


def with_prior(x):
    z = pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))
    pyro.sample("x", likelihood(z).to_event(1), obs=x)


def read_again(x):
    y = pyro.sample("x", likelihood(latents()).to_event(1), obs=x)
    pyro.sample("sum", dist.Normal(y.sum(-1), 1.0), obs=torch.zeros(len(x)).double())


READERS = [(autoregressive, "x_1"), (with_factor, "penalty"), (with_prior, "z"), (read_again, "sum")]


@pytest.mark.parametrize("validation", [True, False])
@pytest.mark.parametrize(("body", "site"), READERS)
def test_a_density_computed_from_missing_cells_is_refused(body, site, validation):
    model = in_plate(body)
    with pyro.validation_enabled(validation):
        with pytest.raises(InputError, match=f"model: site '{site}' reads missing cells elsewhere"):
            dv.condition(model, PROBLEM.plain_guide, row(0), **OPTIONS)
        with pytest.raises(InputError, match="reads missing cells elsewhere"):
            dv.anomaly_score(model, PROBLEM.plain_guide, ROWS[3:], method="reconstruction", seed=1)
        gaps = dv.with_gaps(model, PROBLEM.plain_guide)
        with pytest.raises(InputError, match=f"model: site '{site}' reads missing cells elsewhere"):
            dv.TraceDenoising_ELBO().loss(*gaps, *dv.fill_gaps(row(0)))


def test_counts_given_their_total_cannot_be_trained_with_gaps():
    rows, seen = dv.fill_gaps(torch.tensor([[1.0, NAN, 2.0], [0.0, 3.0, 1.0]]))
    for library in ("row", "latent"):
        decoder = NegativeBinomialDecoder(3, 2, library=library)
        trained = dv.DVAE(GaussianEncoder(3, 2), decoder)
        pair = dv.with_gaps(trained.model, trained.guide)
        options = {"loss": dv.TraceDenoising_ELBO(), "epochs": 1, "progress": False}
        if library == "latent":
            assert len(dv.fit(*pair, rows, seen, **options).history.epochs) == 1
            continue
        with pytest.raises(InputError, match=r"'x' reads missing cells .*library='latent'"):
            dv.fit(*pair, rows, seen, **options)


def improper(x):
    z = pyro.sample("z", dist.ImproperUniform(constraints.real_vector, (len(x),), (2,)))
    pyro.sample("x", likelihood(z).to_event(1), obs=x)


def test_a_model_without_draws_of_its_prior_is_not_tried_and_has_its_bound():
    gaps = dv.with_gaps(in_plate(improper), PROBLEM.plain_guide)
    assert math.isfinite(dv.TraceDenoising_ELBO().loss(*gaps, *dv.fill_gaps(row(0))))


def test_an_autoregressive_model_takes_gaps_that_nothing_reads():
    found = dv.condition(in_plate(autoregressive), PROBLEM.plain_guide, row(2), **OPTIONS)
    assert abs(float(found.mean[0, 2]) - 0.2) < 1e-6
    assert abs(float(found.draws[:, 0, 2].std()) - 1) < 0.06


def observed(columns, times=1):
    def body(x):
        z = latents()
        for number in range(times):
            fn = dist.Normal(likelihood(z).mean[..., columns], 1.0).to_event(1)
            pyro.sample(f"x_{number}", fn, obs=x[:, columns])

    return in_plate(body)


@pytest.mark.parametrize(("columns", "times"), [((1, 2), 0), ((0, 1, 2), 2)])
def test_a_missing_cell_is_observed_once(columns, times):
    model = observed(list(columns), max(times, 1))
    with pytest.raises(InputError, match=f"cell 0 of a row is observed {times} times"):
        dv.condition(model, PROBLEM.plain_guide, row(0), **OPTIONS)


def test_a_cell_that_no_site_observes_has_no_reconstruction():
    guide = PROBLEM.plain_guide
    options = {"method": "reconstruction", "seed": 1}
    by_cell = dv.anomaly_score(observed([1, 2]), guide, ROWS[3:], by="column", **options)
    assert by_cell.isnan().tolist() == [[True, False, False]]
    assert torch.equal(dv.anomaly_score(observed([1, 2]), guide, ROWS[3:], **options), by_cell.nansum(1))


@pytest.mark.parametrize("validation", [True, False])
def test_a_guide_that_leaves_the_support_is_not_refined(validation):
    """The inverse of a bijection to an interval maps values outside of the interval to its ends."""

    def body(x):
        z = pyro.sample("z", dist.Uniform(torch.tensor(0.0).double(), 1.0))
        pyro.sample("x", dist.Normal(z[..., None].expand(*z.shape, 3), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.full((len(x),), 0.5).double(), 0.5))

    with pyro.validation_enabled(validation), pytest.raises(InputError, match="'z' lie outside its support"):
        dv.condition(in_plate(body), guide, ROWS, **OPTIONS)


def test_rows_of_a_single_number_are_imputed_and_scored():
    """x ~ N(1, 1 + s²), where a row is one number and not a vector."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_tensor(1.0), 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.2 + 0.8 * x, 0.2**0.5))

    rows = torch.tensor([0.3, NAN, 2.0]).double()
    filled = dv.impute(model, guide, rows, **OPTIONS | {"refine": True})
    assert torch.equal(filled[::2], rows[::2])
    assert abs(filled[1] - 1) < 5 / math.sqrt(4000)
    drawn = dv.sample_given(model, guide, rows[:2], num_draws=5, seed=0, compile=False)
    assert drawn.shape == (5, 2)
    exact = dist.Normal(1.0, 1.25**0.5).log_prob(rows[::2])
    scores = dv.anomaly_score(model, guide, rows[::2], seed=0, compile=False)
    torch.testing.assert_close(scores, -exact, atol=0.05, rtol=0)
    errors = dv.anomaly_score(model, guide, rows[::2], method="reconstruction", num_samples=4000, seed=0)
    assert errors.shape == (2,)


def test_whole_rows_need_no_conditionals():
    """A multinomial has no closed form of some cells alone; of whole rows it has a density."""
    prior = torch.tensor([1.0, 2.0, 0.5]).double()

    def model(x):
        with pyro.plate("documents", len(x)):
            shares = pyro.sample("shares", dist.Dirichlet(prior))
            pyro.sample("words", dist.Multinomial(int(x.sum(-1).max()), shares), obs=x)

    def guide(x):
        with pyro.plate("documents", len(x)):
            pyro.sample("shares", dist.Dirichlet(prior + x))

    x = torch.tensor([[3, 1, 0], [0, 0, 5], [2, 2, 2]])
    exact = dist.DirichletMultinomial(prior, x.sum(-1).double()).log_prob(x.double())
    found = dv.condition(model, guide, x, **OPTIONS)
    assert bool(((found.log_likelihood - exact).abs() < 5 * found.standard_error).all())
    with pytest.raises(InputError, match="on missing cells"):
        dv.condition(model, guide, torch.tensor([[3.0, NAN, 1.0]]).double(), **OPTIONS)


def test_labels_observed_as_integers_are_refused_with_the_remedy():
    def model(x, whole=True):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x[:, 0])
            label = x[:, 1].long() if whole else x[:, 1]
            pyro.sample("label", dist.Categorical(logits=torch.stack([z, -z], -1)), obs=label)

    def guide(x, whole=True):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.8 * x[:, 0], 0.5))

    for row in ([0.5, NAN], [NAN, 1.0]):
        given = torch.tensor([row]).double()
        with pytest.raises(InputError, match=r"\.long\(\)"):
            dv.condition(model, guide, given, **OPTIONS)
        assert bool(dv.condition(model, guide, given, **OPTIONS, whole=False).reliable.all())


def test_the_remedy_for_latents_outside_the_plate_of_the_rows_works():
    """Persons × items: with the difficulties fixed and hidden, quadrature gives log p(x) of a person."""

    def model(x):
        items = pyro.plate("items", 4, dim=-1)
        with items:
            b = pyro.sample("b", dist.Normal(torch.zeros(()), 1.0))
        with pyro.plate("persons", len(x), dim=-2):
            ability = pyro.sample("ability", dist.Normal(torch.zeros(()), 1.0))
            with items:
                pyro.sample("x", dist.Bernoulli(logits=ability - b), obs=x)

    def guide(x):
        with pyro.plate("persons", len(x), dim=-2):
            pyro.sample("ability", dist.Normal(x.mean(-1, keepdim=True) - 0.5, 0.9))

    x, b = torch.bernoulli(torch.full((3, 4), 0.5)), torch.linspace(-1.0, 1.0, 4)
    with pytest.raises(
        dv.InputError, match=r"'b' lies .*block\(pyro.poutine.condition\(model, {'b': value}\), h"
    ):
        dv.condition(model, guide, x)
    fixed = pyro.poutine.block(pyro.poutine.condition(model, {"b": b}), hide=["b"])
    grid = torch.linspace(-8.0, 8.0, 2001)
    log_joint = dist.Bernoulli(logits=grid[:, None, None] - b).log_prob(x).sum(-1)
    log_joint = log_joint + dist.Normal(0.0, 1.0).log_prob(grid)[:, None] + math.log(16 / 2000)
    found = dv.log_likelihood(fixed, guide, x, num_samples=20_000, seed=0)
    error = (found.log_likelihood - log_joint.logsumexp(0)).abs() / found.standard_error
    assert float(error.max()) < 5
    assert dv.condition(fixed, guide, x, num_draws=1, seed=0).reliable.all()
