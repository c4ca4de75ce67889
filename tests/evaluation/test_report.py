import dataclasses
import itertools
import json
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import BinaryProblem, Enumerated, LinearGaussian, check_estimates
from test_plots import check_layout

import pyro_dvae as dv
from pyro_dvae import plots
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation import OrderViolation

SMALL = {"num_mixture": (1, 4), "num_particles": (1, 3), "num_corruptions": 2, "num_samples": 100}
NAMES = ["dvae", "semi_implicit_1", "semi_implicit_4", "upper_4", "diwae_1", "diwae_3"]
NAMES += ["pooled_3", "mixture_3", "log_likelihood"]


def data(count, seed=5):
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def linear():
    """A report of 600 data of the linear-Gaussian problem, the problem and the data."""
    problem, x = LinearGaussian(sigma=1.0), data(600)
    with pyro.settings.context(module_local_params=False):
        return dv.bounds_report(problem.model, problem.guide, x, seed=1), problem, x


def replaced(report, name, **values):
    """The report with other values in the entry ``name``."""
    entries = [dataclasses.replace(e, **values) if e.name == name else e for e in report.entries]
    return dataclasses.replace(report, entries=tuple(entries))


def test_exact_values_in_the_linear_gaussian_case(linear):
    report, problem, x = linear
    with torch.no_grad():
        l_dvae, l_cvae, evidence = problem.l_dvae(x), problem.l_cvae(x), problem.log_evidence(x)
    zero = torch.zeros((), dtype=torch.float64)
    check_estimates("L_dvae", report["dvae"].estimate.per_datum - l_dvae, zero)
    # The same K = 1 bound from independent draws.
    check_estimates("L_diwae, K=1", report["diwae_1"].estimate.per_datum - l_dvae, zero)
    likelihood = report["log_likelihood"]
    error = likelihood.sampling_error
    check_estimates("log p(x)", likelihood.estimate.per_datum + error**2 / 2 - evidence, zero)
    # The standard errors say how far each datum's estimate lies from its exact value.
    z = (likelihood.estimate.per_datum - evidence) / error
    assert 0.85 < float(z.std()) < 1.3
    below, above = (report[name].estimate.per_datum for name in ("semi_implicit_100", "upper_100"))
    for value, sign in ((below, 1), (above, -1)):
        error = float((value - l_cvae).std()) / math.sqrt(len(x))
        assert -4 * error < sign * float((l_cvae - value).mean()) < 0.05 + 4 * error
    assert bool((below < above).double().mean() > 0.5)


def test_the_report_is_in_the_order_of_the_bounds(linear):
    report, _, _ = linear
    assert report.violations() == []
    means = {entry.name: entry.estimate.mean for entry in report.entries}
    chains = (
        ["dvae", "semi_implicit_1", "semi_implicit_10", "semi_implicit_100", "upper_100"],
        ["diwae_1", "diwae_5", "diwae_50", "pooled_50"],
    )
    for chain in chains:
        assert [means[name] for name in chain] == sorted(means[name] for name in chain)
    assert "order: as it must be" in report.table()
    places = {entry.name: place for place, entry in enumerate(report.entries)}
    assert all(places[lower] < places[upper] for lower, upper in report.orders)


def test_bounds_of_as_many_draws_share_them(linear):
    report, _, _ = linear
    chain = [report[name].estimate.per_datum for name in ("dvae", "diwae_50", "pooled_50")]
    for low, high in itertools.pairwise(chain):
        assert bool((low <= high).all())  # Jensen's inequality on the very same weights


def test_enumerated_values():
    problem = BinaryProblem(dv.BitFlip(0.3), data_size=2)
    rows = torch.tensor([[0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    options = {"num_mixture": (1, 2), "num_particles": (1,), "num_corruptions": 2, "num_samples": 200}
    report = dv.bounds_report(problem.model, problem.guide, rows.repeat(2500, 1), seed=3, **options)
    exact = Enumerated(problem, rows)
    with torch.no_grad():
        expected = {
            "dvae": exact.semi_implicit(0),
            "semi_implicit_1": exact.semi_implicit(1),
            "semi_implicit_2": exact.semi_implicit(2),
            "upper_2": exact.upper(2),
            "diwae_1": exact.iwae("average", 2, 1),
            "pooled_1": exact.iwae("pooled", 2, 1),
            "mixture_1": exact.iwae("mixture", 2, 1),
        }
    assert [entry.name for entry in report.entries] == [*expected, "log_likelihood"]
    for name, value in expected.items():
        check_estimates(name, report[name].estimate.per_datum.reshape(2500, 2), value)
    assert report.violations() == []


@pytest.mark.parametrize(
    "pair", [("dvae", "semi_implicit_1"), ("diwae_1", "diwae_50"), ("pooled_50", "log_likelihood")]
)
def test_a_swapped_record_is_a_violation(linear, pair):
    report, _, _ = linear
    lower, upper = (report[name].estimate for name in pair)
    if pair[0] == "pooled_50":  # a bound that counts its corruption: above log p(x)
        swapped = replaced(report, pair[0], estimate=dv.Estimate(upper.per_datum + 0.5))
    else:
        swapped = replaced(replaced(report, pair[0], estimate=upper), pair[1], estimate=lower)
    found = {(v.lower, v.upper): v for v in swapped.violations()}
    assert pair in found
    assert isinstance(found[pair], OrderViolation)
    assert found[pair].excess > 4 * found[pair].standard_error > 0
    assert f"{pair[0]} exceeds {pair[1]} by" in str(found[pair])
    assert f"order violated: {report[pair[0]].label} exceeds {report[pair[1]].label}" in swapped.table()
    listed = swapped.to_dict()["violations"]
    assert [(v["lower"], v["upper"]) for v in listed] == list(found)


def test_the_bias_of_importance_sampling_is_no_violation(linear):
    """log p(x) is too low by half its squared error; if that error is large, the difference shows nothing."""
    report, _, x = linear
    truth = report["log_likelihood"].estimate.per_datum
    error = torch.full((len(x),), 0.4, dtype=torch.float64)
    low = dv.Estimate(truth - 0.08)
    tight = replaced(report, "pooled_50", estimate=dv.Estimate(truth - 1e-4))
    biased = replaced(tight, "log_likelihood", estimate=low, sampling_error=error)
    assert biased.violations() == []
    precise = replaced(tight, "log_likelihood", estimate=low, sampling_error=error / 10)
    assert any(v.lower == "pooled_50" for v in precise.violations())
    useless = replaced(precise, "log_likelihood", sampling_error=2 * error)
    assert not any(v.upper == "log_likelihood" for v in useless.violations())


def test_the_evidence_equals_that_of_log_likelihood(linear):
    report, problem, x = linear
    entry = report["log_likelihood"]
    exact = problem.log_evidence(x).detach()
    assert bool(((entry.estimate.per_datum - exact).abs() < 5 * entry.sampling_error).all())
    assert "too low by about" in entry.note
    assert "mixture of 5" in entry.definition


def test_an_unreliable_estimate_says_so():
    problem = LinearGaussian()
    with torch.no_grad():
        problem.log_v.fill_(-9.0)
    report = dv.bounds_report(problem.model, problem.guide, data(20), **SMALL, seed=0)
    note = report["log_likelihood"].note
    assert "too low by more than" in note
    assert "Pareto k above" in note
    assert "sampling error above 0.5" in note


def test_with_the_exact_posterior_all_bounds_are_the_evidence():
    """Constant weights, in single precision: rounding alone is no violation."""

    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(x / 2, math.sqrt(0.5)))

    x = torch.linspace(-3, 3, 50)
    report = dv.bounds_report(model, guide, x, **SMALL)
    for entry in report.entries:
        exact = dist.Normal(0.0, math.sqrt(2)).log_prob(x).double()
        torch.testing.assert_close(entry.estimate.per_datum, exact, rtol=1e-5, atol=1e-5)
    assert report.violations() == []


def test_clean_input_is_the_plain_guide():
    problem, x = LinearGaussian(sigma=1.0), data(1).expand(300, -1)
    plain = LinearGaussian(sigma=0.0, learn_sigma=False)
    report = dv.bounds_report(problem.model, dv.clean_input(problem.guide), x, seed=1, **SMALL)
    with torch.no_grad():
        check_estimates("L_dvae", report["dvae"].estimate.per_datum, plain.l_dvae(x[:1])[0])
    for name in ("semi_implicit_4", "upper_4"):
        torch.testing.assert_close(report[name].estimate.per_datum, report["dvae"].estimate.per_datum)


def test_any_pair_with_plates_of_its_own():
    """A wrapped guide, a plate inside the data plate, and a seed that does not touch the global stream."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            with pyro.plate("pixels", x.shape[-1], dim=-2):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x.T)

    def guide(x):
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(x.mean(-1), 1.0))

    x = data(7)
    wrapped = dv.DenoisingGuide(guide, dv.GaussianNoise(0.3))
    before = torch.get_rng_state()
    report = dv.bounds_report(model, wrapped, x, seed=2, **SMALL)
    assert torch.equal(torch.get_rng_state(), before)
    again = dv.bounds_report(model, wrapped, x, seed=2, **SMALL)
    for entry in report.entries:
        assert entry.estimate.per_datum.shape == (7,)
        assert torch.equal(entry.estimate.per_datum, again[entry.name].estimate.per_datum)
    pyro.set_rng_seed(1)
    first = dv.bounds_report(model, wrapped, x, **SMALL)
    assert not torch.equal(
        first["dvae"].estimate.per_datum,
        dv.bounds_report(model, wrapped, x, **SMALL)["dvae"].estimate.per_datum,
    )


def small_report(count=5, **options):
    pyro.clear_param_store()
    problem = LinearGaussian()
    return dv.bounds_report(problem.model, problem.guide, data(count), seed=0, **{**SMALL, **options})


def test_table_dictionary_and_progress():
    seen = []
    report = small_report(progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert len({total for _, total in seen}) == 1
    assert seen[-1][0] == seen[-1][1]
    assert [entry.name for entry in report.entries] == NAMES
    head, names, *lines = report.table().splitlines()
    assert "5 rows" in head
    assert "mean ± s.e." in names
    assert len({line.index("±") for line in lines[: len(NAMES)]}) == 1
    for entry, line in zip(report.entries, lines, strict=False):
        value = f"{entry.estimate.mean:.3f} ± {entry.estimate.standard_error:.3f}"
        assert line.startswith(entry.label)
        assert value in line
        assert line.endswith(entry.note)
    values = report.to_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert [entry["kind"] for entry in values["entries"]] == ["lower"] * 3 + ["upper"] + ["lower"] * 4 + [
        "estimate"
    ]
    full = report.to_dict(per_datum=True)
    assert full["entries"][0]["per_datum"] == report["dvae"].estimate.per_datum.tolist()
    assert full["entries"][0]["mean"] == report["dvae"].estimate.mean
    assert str(report) == report.table()


def test_a_single_datum_has_no_standard_error():
    report = small_report(count=1)
    assert "n/a" in report.table()
    assert report.to_dict()["entries"][0]["standard_error"] is None
    assert report.violations() == []


def test_the_picture(tmp_path):
    report = small_report()
    axes = report.plot(title="A title")
    path = plots.write_figure(tmp_path / "new" / "bounds.png", axes)
    assert path.read_bytes().startswith(b"\x89PNG")
    figure = axes.figure
    first, values = figure.axes
    assert first is axes
    assert axes.get_xlabel().startswith("nats per observation")
    assert axes.get_title() == "A title"
    assert [t.get_text() for t in axes.get_yticklabels()] == [entry.label for entry in report.entries]
    assert values.get_yticklabels()[0].get_text() == f"−{-report['dvae'].estimate.mean:.3f}"  # noqa: RUF001
    dots = sorted((y, x) for line in axes.lines if line.get_marker() in "ovD" for x, y in line.get_xydata())
    assert [x for _, x in dots] == pytest.approx([entry.estimate.mean for entry in report.entries])
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first on top
    check_layout(figure)
    lost = replaced(report, "diwae_1", estimate=dv.Estimate(torch.full((5,), math.nan)))
    assert lost.plot(ax=plots.new_figure(4, 4).add_subplot()).lines
    assert small_report(count=1).plot().lines
    with pytest.raises(InputError, match="ax: expected matplotlib axes"):
        report.plot(ax="bounds.pdf")


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"num_mixture": ()}, "num_mixture"),
        ({"num_mixture": (0, 1)}, "num_mixture"),
        ({"num_mixture": 1.5}, "num_mixture"),
        ({"num_particles": []}, "num_particles"),
        ({"num_particles": (0,)}, "num_particles"),
        ({"num_particles": (2.0,)}, "num_particles"),
        ({"num_particles": None}, "num_particles"),
        ({"num_corruptions": 0}, "num_corruptions"),
        ({"num_samples": 0}, "num_samples"),
        ({"seed": -1}, "seed"),
        ({"data": torch.zeros(0, 3)}, "data"),
        ({"data": torch.tensor(1.0)}, "data"),
        ({"data": torch.tensor([[0.0, math.nan, 1.0]])}, "data"),
        ({"data": [[0.0, 0.0, 1.0]]}, "data"),
    ],
)
def test_bad_input(options, name):
    problem = LinearGaussian()
    with pytest.raises(InputError, match=f"^{name}: "):
        dv.bounds_report(problem.model, problem.guide, options.pop("data", data(2)), **options)


def test_an_unknown_entry():
    with pytest.raises(InputError, match="did you mean 'dvae'"):
        small_report()["dva"]


def test_one_corruption():
    report = small_report(count=200, num_corruptions=1)
    assert report.violations() == []
    for name in ("pooled_3", "mixture_3"):
        same = report["diwae_3"].estimate.per_datum
        torch.testing.assert_close(report[name].estimate.per_datum, same)


def test_single_numbers_and_repetitions():
    report = small_report(num_mixture=4, num_particles=(3, 1, 3))
    assert [entry.name for entry in report.entries] == [name for name in NAMES if name != "semi_implicit_1"]


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.float16], ids=str)
def test_data_of_any_type_give_float64_figures(dtype):
    problem = LinearGaussian(sigma=1.0)

    def guide(x):
        return problem.guide(x.double())

    def model(x):
        return problem.model(x.double())

    x = torch.tensor([[1, 0, 1], [0, 0, 1]])
    report = dv.bounds_report(model, guide, x.to(dtype), **SMALL, seed=1)
    wanted = dv.bounds_report(problem.model, problem.guide, x.double(), **SMALL, seed=1)
    for entry in report.entries:
        assert entry.estimate.per_datum.dtype == torch.float64
        torch.testing.assert_close(entry.estimate.per_datum, wanted[entry.name].estimate.per_datum)
