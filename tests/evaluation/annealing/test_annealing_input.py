import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import LinearGaussian
from torch import nn
from torch.distributions import constraints

import pyro_dvae as dv
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.annealing import annealed_log_likelihood

double = torch.float64
ZERO = torch.zeros((), dtype=double)


def refused(message, model=None, guide=None, data=None, **options):
    problem = LinearGaussian()
    data = torch.zeros(3, 3, dtype=double) if data is None else data
    before = torch.get_rng_state()
    with pytest.raises(InputError, match=f"^{message}"):
        annealed_log_likelihood(
            problem.model if model is None else model, guide, data, **{"num_steps": 2, **options}
        )
    return torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": "prier"}, r"start: unknown name 'prier' \(did you mean 'prior'\?\)"),
        ({"start": None}, "start: "),
        ({"schedule": "sigmoidal"}, r"schedule: unknown name 'sigmoidal' \(did you mean 'sigmoid'\?\)"),
        ({"num_steps": 0}, "num_steps: expected a whole number of at least 1, got 0"),
        ({"num_steps": 1.5}, "num_steps: "),
        ({"num_chains": 0}, "num_chains: "),
        ({"leapfrog_steps": 0}, "leapfrog_steps: "),
        ({"target_acceptance": 1.0}, "target_acceptance: "),
        ({"target_acceptance": math.nan}, "target_acceptance: "),
        ({"seed": -1}, "seed: "),
        ({"memory": 0}, "memory: "),
        ({"max_plate_nesting": 0}, "max_plate_nesting: "),
        ({"start": "guide"}, "guide: expected a guide"),
        ({"data": torch.zeros(0, 3)}, "data: expected at least one element"),
        ({"data": torch.tensor([[0.0, math.nan, 0.0]])}, "data: expected finite values"),
        ({"data": [[0.0, 1.0, 2.0]]}, "data: expected a tensor .*, got list"),
        ({"data": torch.tensor(1.0)}, "data: expected data of shape"),
    ],
)
def test_bad_options(options, message):
    refused(message, **options)


def test_a_refused_option_leaves_the_random_stream_alone():
    assert refused("schedule: ", schedule="none")


def observe(z, x):
    pyro.sample("x", dist.Normal(z, 1.0).expand(x.shape), obs=x)


def discrete(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Bernoulli(ZERO + 0.5))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def enumerated(x):
    with pyro.plate("data", len(x)):
        infer = {"enumerate": "sequential"}
        z = pyro.sample("z", dist.Normal(ZERO, 1.0), infer=infer)
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def a_point(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Delta(ZERO))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def global_latent(x):
    mean = pyro.sample("mean", dist.Normal(ZERO, 1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(mean, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def observed_outside(x):
    pyro.sample("y", dist.Normal(ZERO, 1.0), obs=ZERO)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(ZERO, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def no_plate(x):
    z = pyro.sample("z", dist.Normal(ZERO, 1.0))
    pyro.sample("x", dist.Normal(z, 1.0).expand([len(x)]).to_event(1), obs=x)


def smaller_plate(x):
    with pyro.plate("data", len(x), subsample_size=2) as rows:
        z = pyro.sample("z", dist.Normal(ZERO, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[rows])


def no_latent(x):
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(ZERO, 1.0), obs=x)


def no_data(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(ZERO, 1.0))


def scaled(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(ZERO, 1.0))
        with pyro.poutine.scale(scale=0.5):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def part_of_a_row(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(ZERO, 1.0))
        with pyro.plate("columns", 4, subsample_size=2, dim=-2):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def plain(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(ZERO, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def random_density(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(ZERO, 1.0))
        dropped = nn.functional.dropout(z + 10)
        pyro.sample("x", dist.Normal(dropped, 1.0), obs=x)


def no_number(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(ZERO, 1.0))
        pyro.sample("x", dist.Normal(z * math.nan, 1.0, validate_args=False), obs=x)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (discrete, "model: latent 'z' is discrete, .* use pyro_dvae.log_likelihood"),
        (enumerated, "model: latent 'z' asks for enumeration, .* use pyro_dvae.log_likelihood"),
        (a_point, "model: latent 'z' is a point mass"),
        (global_latent, "model: latent 'mean' lies outside the data plate 'data'.*condition"),
        (observed_outside, "model: "),
        (no_plate, "model: expected one plate with the 3 rows of a batch .* got none"),
        (smaller_plate, "model: expected one plate with the 3 rows of a batch .* got 'data' of 2"),
        (no_latent, "model: expected at least one latent"),
        (no_data, "model: expected an observed sample site"),
        (part_of_a_row, "model: plate 'columns' inside an observation is subsampled, so observed site 'x'"),
        (random_density, "model: two runs with the same latents give different densities"),
        (no_number, "model: its log-density of the data is NaN"),
    ],
)
def test_models_that_cannot_be_annealed(model, message):
    refused(message, model, data=torch.arange(3, dtype=double))


def test_a_scale_changes_no_likelihood():
    x = torch.arange(3, dtype=double)
    guide = guide_of(("z", dist.Normal(x, 1.0)))
    options = {"seed": 0, "progress": False}
    for model in (scaled, pyro.poutine.scale(plain, scale=0.01)):
        for call in (
            lambda program: dv.annealed_log_likelihood(program, None, x, num_steps=5, **options),
            lambda program: dv.log_likelihood(program, guide, x, num_samples=50, refine=True, **options),
        ):
            assert torch.equal(call(model).log_likelihood, call(plain).log_likelihood)


@pytest.mark.parametrize(
    "extra",
    [
        lambda z: pyro.factor("extra", -z, has_rsample=True),
        lambda z: pyro.sample("extra", dist.Normal(z, 1.0), obs=ZERO, infer={"is_auxiliary": True}),
    ],
)
@pytest.mark.parametrize(
    "function",
    [dv.log_likelihood, dv.condition, dv.inference_gaps, partial(dv.log_likelihood, refine=True)],
)
def test_what_a_guide_observes_is_no_density_of_its_latents(function, extra):
    """A loss in the guide (scANVI's classifier) would change log p(x); without it, the value is exact."""

    def guide(x):
        with pyro.plate("data", len(x)):
            extra(pyro.sample("z", dist.Normal(x / 2, 0.5**0.5)))

    x = torch.arange(3, dtype=double)
    with pytest.raises(dv.InputError, match=r"^guide: site 'extra' is observed .*hide=\['extra'\]"):
        function(plain, guide, x)
    hidden = pyro.poutine.block(guide, hide=["extra"])
    found = dv.log_likelihood(plain, hidden, x, num_samples=5).log_likelihood
    torch.testing.assert_close(found, dist.Normal(ZERO, 2**0.5).log_prob(x))


def guide_of(*sites):
    def guide(x):
        with pyro.plate("data", len(x)):
            for name, fn in sites:
                pyro.sample(name, fn)

    return guide


NORMAL = dist.Normal(ZERO, 1.0)


@pytest.mark.parametrize(
    ("guide", "message"),
    [
        (guide_of(), "guide: the model's latent 'z' is not sampled in the guide"),
        (guide_of(("z", NORMAL), ("y", NORMAL)), "guide: site 'y' is not a latent of the model"),
        (guide_of(("z", dist.Delta(ZERO))), r"guide: latent 'z' is a point mass \(Delta\)"),
        (lambda x: pyro.sample("z", NORMAL.expand([3]).to_event(1)), "guide: latent 'z' lies outside"),
    ],
)
def test_guides_that_cannot_start(guide, message):
    refused(message, plain, guide, torch.zeros(3, dtype=double), start="guide")


def test_a_guide_that_leaves_the_support_of_the_latent():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(ZERO + 1, ZERO + 1))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    refused(
        "guide: draws of the latent 'z' lie outside its support",
        model,
        guide_of(("z", NORMAL)),
        torch.zeros(3, dtype=double),
        start="guide",
    )


def test_too_few_plate_dimensions():
    def model(x):
        with pyro.plate("data", x.shape[0], dim=-2), pyro.plate("columns", x.shape[1], dim=-1):
            z = pyro.sample("z", dist.Normal(ZERO, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    refused("max_plate_nesting: ", model, data=torch.zeros(3, 2, dtype=double), max_plate_nesting=1)


def test_a_latent_with_an_improper_prior():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.ImproperUniform(constraints.real, (), (3,)))
            observe_rows(z, x)

    def observe_rows(z, x):
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

    words = r"model: latent 'z' has an improper prior \(ImproperUniform\), .*log_likelihood"
    for start in ("prior", "guide"):
        refused(words, model, guide, start=start)


def test_a_mixture_of_the_discrete_is_discrete_and_one_without_a_bijection_is_named():
    def of(components):
        def model(x):
            weights = dist.Categorical(torch.ones(len(x), 2))
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.MixtureSameFamily(weights, components))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

        return model

    refused("model: latent 'z' is discrete", of(dist.Poisson(torch.ones(3, 2))))
