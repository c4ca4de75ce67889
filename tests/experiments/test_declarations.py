"""Every declared experiment names parts that exist and fit together."""

import dataclasses
import subprocess
import sys

import pytest

import pyro_dvae as dv
from pyro_dvae.jobs.experiments import Case, Experiment, Published, Table, experiment, experiments, plan
from pyro_dvae.jobs.experiments.catalogue import listed
from pyro_dvae.jobs.experiments.checked import require_sound
from pyro_dvae.jobs.experiments.declaration import Claim
from pyro_dvae.jobs.experiments.measures import MEASURES
from pyro_dvae.jobs.experiments.one_run import PROGRAMS
from pyro_dvae.jobs.experiments.pictures import PICTURES
from pyro_dvae.jobs.experiments.running import reproduce
from pyro_dvae.jobs.options import Options
from pyro_dvae.jobs.parts import build_bound, build_corruption, build_decoder, build_encoder, check_training

ASKED_FOR = {
    *("table1", "table2", "table3", "figure1", "augmentation", "mean-image", "learned-noise"),
    *("scheduled-noise", "manifolds", "samples-by-batch", "depth", "estimators", "activations"),
    *("autoencoder", "full-bayes", "encoder-depth", "reconstruction"),
    *("table1-long", "table2-long", "samples-by-batch-long", "figure1-equal"),
    *("importance-weighting", "silhouettes", "gaps"),
}
ALL = list(experiments().values())
SMALL = Experiment(
    "small",
    "A small one",
    "a test",
    (
        Case("VAE", "0 %", {"noise": 0.0}, Published(1.0, 0.1)),
        Case("VAE", "5 %", {"noise": 0.05}),
        Case("DVAE, K = 2", "5 %", {"noise": 0.05, "particles": 2, "epochs": 7}),
    ),
    Table("bound, nats"),
    epochs=3,
    seeds=2,
    options={"dataset": "digits"},
)


def test_all_that_were_asked_for_are_there():
    assert set(experiments()) >= ASKED_FOR


@pytest.mark.parametrize("declared", ALL, ids=lambda e: e.name)
def test_a_declaration_names_what_exists(declared):
    assert set(declared.measures) <= set(MEASURES)
    assert declared.picture in PICTURES
    names = [case.name for case in declared.cases]
    assert len(set(names)) == len(names)
    planned = plan(declared)
    assert len(planned) == len(names) * declared.seeds
    assert len({each.key for each in planned}) == len(planned)
    sizes = {"mnist": (784, (28, 28)), "frey": (560, (28, 20)), "digits": (64, (8, 8))}
    sizes["caltech101-silhouettes"] = sizes["mnist"]
    for each in planned:
        options = each.options
        check_training(options)
        shape = sizes[options.dataset]
        build_bound(options)
        build_corruption(options)
        assert each.case.program in PROGRAMS
        decoder = build_decoder(options, *shape)
        assert build_encoder(options, *shape).latent_size == decoder.latent_size


@pytest.mark.parametrize("declared", ALL, ids=lambda e: e.name)
def test_its_parts_fit_together(declared):
    require_sound(declared)


CELLS = ("VAE", "0 %"), ("VAE", "5 %")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"picture": "gaps"}, "picture: gaps needs the measure inference-gaps, which small lacks"),
        ({"picture": "manifolds"}, "picture: manifolds needs the measure manifold"),
        ({"picture": "samples"}, "picture: samples needs the measure samples"),
        ({"picture": "lines-and-digits"}, "picture: lines-and-digits needs the measure reconstruction"),
        ({"picture": "line"}, "picture: unknown name 'line' .did you mean 'lines'"),
        ({"measures": ("unit",)}, "measures: unknown name 'unit' .did you mean 'units'"),
        (
            {"table": Table("units", figure="active_units")},
            "table: unknown name 'active_units'.*known: bound",
        ),
        ({"claims": (Claim("c", *CELLS, figure="noise"),)}, "claims: unknown name 'noise'"),
        ({"claims": (Claim("c", CELLS[0], ("IWAE", "5 %")),)}, "claims: small has no cell IWAE, 5 %"),
        ({"cases": (Case("VAE", "5 %"), Case("VAE", "5 %"))}, "cases: expected each row and column of small"),
        ({"cases": (Case("VAE", "5 %", program="vae"),)}, "program: unknown name 'vae'"),
    ],
)
def test_parts_that_do_not_fit_are_refused_before_the_training(changes, message, tmp_path):
    wrong = dataclasses.replace(SMALL, **changes)
    with pytest.raises(dv.InputError, match=message):
        reproduce(wrong, [], tmp_path / "x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("declared", ALL, ids=lambda e: e.name)
def test_claims_are_of_its_cells(declared):
    for claim in declared.claims:
        assert {claim.better, claim.worse} <= declared.cells.keys()
        assert claim.better != claim.worse
    assert len({claim.name for claim in declared.claims}) == len(declared.claims)


@pytest.mark.parametrize("declared", experiments().values(), ids=lambda each: each.name)
def test_settings_of_a_claim_are_compared_in_the_same_way(declared):
    for claim in declared.claims:
        same = [each for each in declared.claims if each.text == claim.text]
        assert {(each.figure, each.lower, each.margin) for each in same} == {
            (claim.figure, claim.lower, claim.margin)
        }


def test_published_figures_have_the_scale_of_their_table():
    for name, low, high in (
        ("table1", 93, 97),
        ("table2", 1290, 1340),
        ("table3", 92, 97),
        ("figure1", 92, 95),
    ):
        figures = [case.published.mean for case in experiment(name).cases]
        assert min(figures) > low
        assert max(figures) < high
    cell = {case.name: case.published for case in experiment("table1").cases}
    assert cell["DIWAE, K = 5, 2 layers, 5 %"] == Published(93.08, 0.08)
    cell = {case.name: case.published for case in experiment("table2").cases}
    assert cell["DVAE, K = 5, 1 layer, 0.075"] == Published(1298.40, 4.74)


def test_a_plan_takes_seed_after_seed():
    found = plan(SMALL)
    assert [each.options.seed for each in found] == [0, 0, 0, 1, 1, 1]
    assert [each.options.epochs for each in found[:3]] == [3, 3, 7]
    assert found[0].options.dataset == "digits"
    assert found[2].options.particles == 2
    assert found[1].name == "VAE, 5 %, seed 0"


def test_a_plan_is_narrowed():
    found = plan(SMALL, seeds=1, epochs=2, only=("vae, 5",), overrides={"bfloat16": True})
    assert [each.name for each in found] == ["VAE, 5 %, seed 0"]
    assert found[0].options.epochs == 2
    assert found[0].options.bfloat16
    assert len(plan(SMALL, only=("0 %", "K = 2"))) == 4
    with pytest.raises(
        dv.InputError, match=r"only: 'K = 9' matches no case of small; cases: VAE, 0 %; VAE, 5 %"
    ):
        plan(SMALL, only=("K = 9",))


@pytest.mark.parametrize(
    ("name", "only", "found"),
    [
        ("table1", "0 %", 6),
        ("table1", "5 %", 6),
        ("table1", "k = 1, 1 layer", 4),
        ("table2", "DVAE, K = 1, 1 layer, 0", 1),
        ("autoencoder", "autoencoder", 10),
        ("autoencoder", "2", 4),
    ],
)
def test_a_text_is_of_whole_words(name, only, found):
    assert len(plan(experiment(name), seeds=1, only=(only,))) == found


def test_an_unknown_option_or_name_is_refused():
    wrong = dataclasses.replace(SMALL, options={"noize": 0.1})
    with pytest.raises(dv.InputError, match="'noize', which is not a training option"):
        plan(wrong)
    with pytest.raises(dv.InputError, match=r"name: unknown name 'tabel1' \(did you mean 'table1'\?\)"):
        experiment("tabel1")


def test_a_key_depends_on_the_computation_and_not_on_its_place():
    first = plan(SMALL)[0]

    def key(**changes):
        return dataclasses.replace(first, options=dataclasses.replace(first.options, **changes)).key

    assert key(data_folder="elsewhere", device="cpu", compiled=False, importance_samples=7) == first.key
    others = [key(seed=1), key(epochs=4), key(noise=0.01), key(bfloat16=True), key(dataset="mnist")]
    assert len({first.key, *others}) == 6
    assert dataclasses.replace(first, measures=("bounds",)).key == first.key
    smaller = dataclasses.replace(first.case, train_size=10)
    assert dataclasses.replace(first, case=smaller).key != first.key


def test_a_new_option_leaves_the_keys_as_they_are(monkeypatch):
    """An option at its default is not part of a key, so later versions recognise the results."""
    first = plan(SMALL)[0]
    before = first.key
    plain = Options.as_dict
    monkeypatch.setattr(Options, "as_dict", lambda self: plain(self) | {"added_later": 1})
    assert first.key == before


def test_listing_is_quick_and_says_how_long():
    lines = listed().splitlines()
    assert {line.split()[0] for line in lines if line[0] != " "} == {"Times", *(each.name for each in ALL)}
    assert max(map(len, lines)) <= 100
    depth = listed().partition("\ndepth ")[2].partition("\nencoder-depth ")[0]
    assert "8 cases, 8 runs of 100 to 1,000 epochs, about 11 minutes of one core" in depth
    script = (
        "import sys; from pyro_dvae.jobs.experiments.catalogue import listed; listed(); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_an_experiment_is_one_file(tmp_path, monkeypatch):
    """A module next to the others is found automatically."""
    from pyro_dvae.jobs.experiments import catalogue

    (tmp_path / "another.py").write_text(
        "from pyro_dvae.jobs.experiments import Case, Experiment, Table\n"
        "EXPERIMENTS = (Experiment('another', 'T', 'S', (Case('a', 'b'),), Table('nats'), epochs=1),)\n"
    )
    monkeypatch.setattr(catalogue, "__path__", [*catalogue.__path__, str(tmp_path)])
    assert experiment("another").title == "T"
