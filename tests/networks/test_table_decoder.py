"""Mixed tables against scipy column by column, against finite differences, and with known parameters."""

import math

import numpy as np
import pyro
import pytest
import torch
from scipy import stats

import pyro_dvae as dv
from pyro_dvae.errors import InputError
from pyro_dvae.networks import TableDecoder, TableEncoder
from pyro_dvae.networks.columns import KINDS

F64 = torch.float64
COLUMNS = ["real", ("categorical", 3), "positive", ("ordinal", 4), "heavy-tailed", "binary", "count", "real"]
X = torch.tensor(
    [
        [0.3, 2, 1.7, 0, -4.0, 1, 7, 1.1],
        [-1.2, 0, 0.02, 3, 0.5, 0, 0, -0.4],
        [0.0, 1, 40.0, 1, 9.0, 1, 2, 0.0],
    ],
    dtype=F64,
)
Z = torch.tensor([[0.3, -1.0], [1.2, 0.4], [-0.5, 0.8]], dtype=F64)


def made(**options):
    torch.manual_seed(3)
    decoder = TableDecoder(COLUMNS, 2, (5,), "tanh", **options).double()
    for parameter in decoder.likelihood.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return decoder


def part(decoder, kind):
    return next(each for each in decoder.likelihood.parts if type(each) is KINDS[kind])


def outputs(decoder):
    """The outputs for each group of columns, in the order in which the kinds appear."""
    found = decoder.head(decoder.trunk(Z)).split(decoder.likelihood.sizes, -1)
    return {
        type(each): out.detach().numpy() for each, out in zip(decoder.likelihood.parts, found, strict=True)
    }


def expected_cells(decoder):
    a = {kind: outputs(decoder)[KINDS[kind]] for kind in KINDS}
    x = X.numpy()

    def of(kind, name):
        return getattr(part(decoder, kind), name).detach().numpy()

    logits = a["categorical"] - np.logaddexp.reduce(a["categorical"], -1, keepdims=True)
    below = stats.logistic.cdf(of("ordinal", "cutpoints") - a["ordinal"])
    mass = np.diff(np.concatenate([np.zeros((3, 1)), below, np.ones((3, 1))], 1), axis=1)
    real = stats.norm.logpdf(x[:, [0, 7]], a["real"], of("real", "scale"))
    mean, r = np.exp(a["count"]), 1 / of("count", "dispersion")
    p = 1 / (1 + np.exp(-a["binary"]))
    return np.stack(
        [
            real[:, 0],
            logits[np.arange(3), x[:, 1].astype(int)],
            stats.lognorm.logpdf(x[:, 2:3], of("positive", "scale"), scale=np.exp(a["positive"]))[:, 0],
            np.log(mass[np.arange(3), x[:, 3].astype(int)]),
            stats.t.logpdf(
                x[:, 4:5], of("heavy-tailed", "freedom"), a["heavy-tailed"], of("heavy-tailed", "scale")
            )[:, 0],
            stats.bernoulli.logpmf(x[:, 5:6], p)[:, 0],
            stats.nbinom.logpmf(x[:, 6:7], r, r / (r + mean))[:, 0],
            real[:, 1],
        ],
        -1,
    )


def test_each_cell_has_the_density_of_its_kind():
    decoder = made()
    expected = torch.as_tensor(expected_cells(decoder))
    torch.testing.assert_close(decoder(Z).column_log_prob(X).detach(), expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(decoder(Z).log_prob(X).detach(), expected.sum(-1), rtol=1e-8, atol=1e-8)
    wide = decoder(Z).expand([4, 3])
    assert (wide.batch_shape, wide.event_shape) == ((4, 3), (8,))
    torch.testing.assert_close(wide.log_prob(X), decoder(Z).log_prob(X).expand(4, 3))


def test_draws_are_cells_of_their_kind_and_have_the_means():
    torch.manual_seed(0)
    fn = made()(Z)
    draws = fn.sample((20_000,))
    assert draws.shape == (20_000, 3, 8)
    assert set(draws[..., 1].unique().tolist()) <= {0, 1, 2}
    assert set(draws[..., 3].unique().tolist()) <= {0, 1, 2, 3}
    assert draws[..., 2].min() > 0
    assert fn.log_prob(draws).isfinite().all()
    mean = fn.mean.detach()
    assert mean.isnan().nonzero().tolist() == [[row, 1] for row in range(3)]  # categories have none
    light = [0, 3, 5, 6, 7]
    error = draws[..., light].std(0) / math.sqrt(20_000)
    assert ((draws[..., light].mean(0) - mean[..., light]).abs() < 5 * error).all()


def test_gradients_match_finite_differences():
    decoder = made()
    names, values = zip(*decoder.named_parameters(), strict=True)

    def log_likelihood(*parameters):
        named = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(decoder, named, (Z,)).log_prob(X)

    assert torch.autograd.gradcheck(log_likelihood, values)


def test_what_an_encoder_sees():
    encoder = TableEncoder(COLUMNS, 2)
    assert encoder.trunk[0].in_features == 10
    row = X[:1]
    seen = []
    encoder.trunk.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    encoder.double()(row)
    expected = [0.3, 1.1, 0, 0, 1, math.log(1.7), -1.0, -4.0, 1, math.log(8.0)]
    torch.testing.assert_close(seen[0], torch.tensor([expected], dtype=F64))


def test_known_parameters_are_found():
    generator = np.random.default_rng(0)
    n = 4000
    rows = np.stack(
        [
            generator.normal(2, 0.5, n),
            generator.choice(3, n, p=[0.2, 0.5, 0.3]),
            generator.lognormal(1.0, 0.7, n),
            generator.choice(4, n, p=[0.1, 0.2, 0.3, 0.4]),
            3 + 0.5 * generator.standard_t(4, n),
            generator.random(n) < 0.3,
            generator.negative_binomial(2, 0.25, n),
            generator.normal(-1, 3.0, n),
        ],
        -1,
    )
    x, z = torch.as_tensor(rows), torch.zeros(1, 2, dtype=F64)
    torch.manual_seed(0)
    decoder = TableDecoder(COLUMNS, 2, (3,)).double()
    optimiser = torch.optim.LBFGS(decoder.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def negative():
        optimiser.zero_grad()
        loss = -decoder(z).log_prob(x).mean()
        loss.backward()
        return loss

    optimiser.step(negative)
    fn = decoder(z)
    probabilities = {}
    for column, size in ((1, 3), (3, 4)):
        cells = X[:1].repeat(size, 1)
        cells[:, column] = torch.arange(size, dtype=F64)
        probabilities[column] = fn.column_log_prob(cells)[:, column].exp().tolist()
    assert probabilities[1] == pytest.approx([0.2, 0.5, 0.3], abs=0.03)
    assert probabilities[3] == pytest.approx([0.1, 0.2, 0.3, 0.4], abs=0.03)
    assert part(decoder, "real").scale.tolist() == pytest.approx([0.5, 3.0], rel=0.05)
    assert part(decoder, "positive").scale.item() == pytest.approx(0.7, rel=0.05)
    assert part(decoder, "heavy-tailed").freedom.item() == pytest.approx(4, rel=0.25)
    assert part(decoder, "heavy-tailed").scale.item() == pytest.approx(0.5, rel=0.06)
    assert part(decoder, "count").dispersion.item() == pytest.approx(0.5, rel=0.1)
    mean = fn.mean[0].tolist()
    assert mean[0] == pytest.approx(2, abs=0.05)
    assert mean[2] == pytest.approx(math.exp(1 + 0.49 / 2), rel=0.05)
    assert mean[5] == pytest.approx(0.3, abs=0.03)
    assert mean[6] == pytest.approx(6, rel=0.05)


@pytest.mark.parametrize("bound", [dv.TraceDenoising_ELBO, dv.TraceDenoisingIWAE_ELBO])
def test_a_table_trains_with_swapped_cells(bound):
    pyro.set_rng_seed(0)
    rows = X.repeat(20, 1).float()
    pair = dv.DVAE(TableEncoder(COLUMNS, 2), TableDecoder(COLUMNS, 2), dv.SwapNoise(0.2, rows))
    loss = bound(num_corruptions=2, num_particles=2, max_plate_nesting=1)
    found = dv.fit(pair.model, pair.guide, rows, loss=loss, epochs=30, batch_size=20, progress=False, seed=0)
    assert found.history.train_bound[-1] > found.history.train_bound[0] + 2


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("real", "expected a kind for each column, got 'real'"),
        ([], "expected a kind for each column"),
        (["reel"], r"unknown name 'reel' \(did you mean 'real'\?\)"),
        (["categorical"], r"expected \('categorical', number of levels\), got 'categorical'"),
        ([("real", 3)], r"expected 'real', got \('real', 3\)"),
        ([("ordinal", 1)], "expected a whole number of at least 2, got 1"),
        ([("ordinal", 3, 4)], r"expected \('ordinal', number of levels\)"),
        ([()], "unknown name"),
        ([3], "unknown name 3"),
    ],
)
@pytest.mark.parametrize("kind", [TableDecoder, TableEncoder])
def test_columns_that_are_no_kinds_are_refused(kind, columns, message):
    with pytest.raises(InputError, match=f"^columns: {message}"):
        kind(columns, 2)


OUTSIDE = {
    "binary": ("binary", 0.5, "0 or 1"),
    "count": ("count", 1.5, "whole numbers of at least 0"),
    "ordinal": (("ordinal", 2), 2.0, "whole numbers from 0 to 1"),
    "categorical": (("categorical", 2), -1.0, "whole numbers from 0 to 1"),
    "positive": ("positive", -2.0, "values above 0"),
}


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", OUTSIDE)
def test_a_value_that_its_column_cannot_have_is_refused(name, compiled):
    """Also in a later batch of a compiled run, and in a likelihood."""
    kind, value, words = OUTSIDE[name]
    kinds = ["real", kind]
    rows = torch.stack([torch.randn(40), torch.ones(40)], 1)
    pair = dv.DVAE(TableEncoder(kinds, 2, (4,)), TableDecoder(kinds, 2, (4,)), dv.SwapNoise(0.1, rows))
    options = {"loss": dv.TraceDenoising_ELBO(), "epochs": 1, "batch_size": 10, "progress": False}
    dv.fit(pair.model, pair.guide, rows, compile=compiled, **options)
    rows[35, 1] = value
    message = rf"support of the likelihood of site 'x', column 1 \({words}\), got values from {value:g} to"
    with pytest.raises(InputError, match=message):
        dv.fit(pair.model, pair.guide, rows, compile=compiled, **options)
    with pytest.raises(InputError, match=message):
        dv.log_likelihood(pair.model, pair.guide, rows, num_samples=2)


def test_missing_cells_are_in_the_support_of_a_table():
    support = made()(Z).support
    gaps = X.clone()
    gaps[0, 1] = gaps[2, 6] = math.nan
    assert support.check(gaps).tolist() == [True, True, True]
    gaps[1, 4], gaps[1, 5] = -1e9, 0.5  # a heavy tail has all numbers, a binary column two
    assert support.check(gaps).tolist() == [True, False, True]
    assert (~support.cells(gaps)).nonzero().tolist() == [[1, 5]]
    assert not support.is_discrete
