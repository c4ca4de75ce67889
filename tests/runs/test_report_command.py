"""``pyro-dvae report``: pages of small runs, as a reader without network access or scripts sees them."""

import html.parser
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import commands
import pyro
import pytest
import torch
from click.testing import CliRunner
from matplotlib.image import imread

import pyro_dvae as dv
from pyro_dvae.datasets import load_dataset
from pyro_dvae.errors import InputError
from pyro_dvae.jobs import guess
from pyro_dvae.jobs.click_options import training_options
from pyro_dvae.jobs.data import of_file
from pyro_dvae.jobs.options import EvaluationOptions, Options
from pyro_dvae.jobs.report.charts import Curve, curves, histogram, ticks
from pyro_dvae.jobs.report.content import ReportedRun, diagnosed, figures, read
from pyro_dvae.jobs.report.markup import Html, element, table
from pyro_dvae.jobs.report.write import write_report

SMALL = ["--epochs", "2", "--importance-samples", "5", "--width", "8", "--latent-size", "2", "--quiet"]
ARGUMENTS = ["--samples", "40", "--count", "12", "--annealed", "0", "--simulated", "0", "--no-compile"]
NAME = "<b>people's & co"


def call(*arguments, code=0):
    commands.call(*arguments, code=code)
    pyro.clear_param_store()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def images(folder):
    call("train", "--dataset", "digits", *SMALL, "--noise", "0.1", "--output", folder / "images")
    call("evaluate", folder / "images", *ARGUMENTS, "--quiet")
    return folder / "images"


@pytest.fixture(scope="module")
def rows(folder):
    values = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)).tolist()
    lines = ["height,<i>weight</i>,age & more", *(",".join(f"{each:.4f}" for each in row) for row in values)]
    (folder / f"{NAME}.csv").write_text("\n".join(lines))
    call("train", "--dataset", folder / f"{NAME}.csv", *SMALL, "--scale", "none", "--output", folder / NAME)
    return folder / NAME


class Reader(html.parser.HTMLParser):
    """Reads a page, refuses unclosed elements, and keeps the elements that the tests need."""

    VOID = ("meta", "img")

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data

    def of(self, tag):
        return [attributes for each, attributes in self.elements if each == tag]


def page_of(*folders, **options):
    path = write_report(folders, Path(folders[0]).parent / "page.html", quiet=True, **options)
    return Reader(path.read_text(encoding="utf-8"))


def self_contained(page):
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "base", "form"}
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/png;base64,"))
    assert all(each["alt"] for each in page.of("img"))
    assert all(each.get("aria-label") for each in page.of("svg") if each.get("class") != "key")
    assert page.of("html") == [{"lang": "en"}]


def test_an_evaluated_run(images):
    page = page_of(images)
    self_contained(page)
    results = json.loads((images / "results.json").read_text())
    evaluation = json.loads((images / "evaluation/evaluation.json").read_text())
    for label, mean, error in (
        ("test bound", *results["test_bound"].values()),
        ("log p(x)", *(evaluation["log_likelihood"][each] for each in ("mean", "sampling_error"))),
    ):
        shown = re.search(re.escape(label) + r"(-[\d.]+)± ([\d.]+)", page.text).groups()
        assert [float(each) for each in shown] == pytest.approx([mean, error], abs=0.06 * error)
        assert f"{shown[0]} ± {shown[1]}" in page.text
    values = evaluation["log_likelihood"]["per_datum"]["log_likelihood"]
    assert f"{min(values):.2f}" in page.text
    assert "Grid" not in page.text
    assert len(page.of("img")) == 6  # samples, reconstructions, manifold; convergence, hardest, KL
    assert len([each for each in page.of("svg") if each.get("class") != "key"]) == 3
    assert "Is this fit good enough?" not in page.text
    assert "--noise 0.1" in page.text
    assert f"pyro-dvae evaluate {images} --samples 40 --count 12 --no-compile --annealed 0" in page.text


def test_a_run_that_was_not_evaluated_is_diagnosed_and_says_what_to_type(rows, monkeypatch):
    from pyro_dvae.jobs.report import content

    few = {"num_samples": 30, "refine": dv.Refinement(num_steps=2, annealing_steps=0)}
    monkeypatch.setattr(content, "diagnose", lambda *a, **k: dv.diagnose(*a, **{**k, **few}))
    page = page_of(rows)
    self_contained(page)
    assert f"pyro-dvae evaluate {shlex.quote(str(rows))}" in page.text
    assert "Is this fit good enough?" in page.text
    for name in ("amortisation gap", "calibration", "over-fitting", "active units"):
        assert name in page.text
    assert NAME in page.text  # escaped in the markup
    assert "i" not in {tag for tag, _ in page.elements}
    assert "Scatter plots" in page.of("img")[0]["alt"] + page.of("img")[-1]["alt"] + page.of("img")[1]["alt"]
    off = page_of(rows, diagnose=False)
    assert "Is this fit good enough?" not in off.text


def test_runs_side_by_side_mark_their_differences(images, rows, tmp_path):
    other = tmp_path / "other"
    call("train", "--dataset", "digits", *SMALL, "--noise", "0.2", "--output", other)
    page = page_of(images, other, diagnose=False)
    self_contained(page)
    marked = [attributes for attributes in page.of("tr") if attributes.get("class") == "marked"]
    assert len(marked) == 1
    assert re.search(r"noise\s*0\.1\s*0\.2", page.text)
    assert "All options are the same" not in page.text
    assert "not comparable" not in page.text
    assert [each["href"] for each in page.of("a")] == ["#run-1", "#run-2"]
    assert {each["id"] for each in page.of("section") if "id" in each} == {"run-1", "run-2"}
    mixed = page_of(images, rows, diagnose=False)
    assert "The runs differ in data, likelihood, scale, binarisation, so their bounds" in mixed.text
    assert "All options are the same" in page_of(images, images, diagnose=False).text


def test_a_stopped_run_says_how_to_resume(images, tmp_path):
    stopped = tmp_path / "stopped"
    shutil.copytree(images, stopped, ignore=shutil.ignore_patterns("evaluation", "results.json", "*.lock"))
    config = json.loads((stopped / "config.json").read_text())
    config["options"]["epochs"] = 50
    (stopped / "config.json").write_text(json.dumps(config))
    page = page_of(stopped, diagnose=False)
    assert "stopped after 2 of 50 epochs" in page.text
    assert f"--resume {stopped}" in page.text
    shutil.copy(images / "results.json", stopped)
    assert "was stopped" not in page_of(stopped, diagnose=False).text  # by a callback, to the end
    (stopped / "checkpoint.safetensors").unlink()
    page = page_of(stopped)
    assert "stopped in its first epoch" in page.text
    assert diagnosed(read(stopped)) == "it needs the checkpoint of a run"


def test_an_evaluation_of_an_earlier_epoch_is_named(images, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(images, copy, ignore=shutil.ignore_patterns("*.lock"))
    path = copy / "evaluation/evaluation.json"
    content = json.loads(path.read_text())
    content["epoch"] = 99
    path.write_text(json.dumps(content))
    assert "belongs to epoch 99, but the run has continued" in page_of(copy).text
    del content["bound_parts"]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"was not written by this version .*repeat pyro-dvae evaluate"):
        read(copy)
    content["log_likelihood"]["per_datum"] = None
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="per_datum"):
        read(copy)


def test_a_run_whose_data_are_gone_says_so(rows, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(rows, copy, ignore=shutil.ignore_patterns("*.lock"))
    config = json.loads((copy / "config.json").read_text())
    config["options"]["dataset"] = str(tmp_path / "gone.csv")
    (copy / "config.json").write_text(json.dumps(config))
    page = page_of(copy)
    assert "There is no diagnosis: " in page.text
    assert "gone.csv" in page.text


def test_a_saved_model_of_the_user(tmp_path):
    draw = dv.DRAW(image_shape=(2, 2), steps=2, hidden_size=3, latent_size=2, attention=False)
    x = torch.bernoulli(torch.full((20, 4), 0.5))
    options = {"epochs": 2, "validation": x, "progress": False, "compile": False}
    dv.fit(draw.model, draw.guide, x, loss=dv.TraceDenoising_ELBO(), **options).save(tmp_path / "draw")
    page = page_of(tmp_path / "draw")
    self_contained(page)
    assert "fitted.diagnose(x)" in page.text
    assert "2 epochs" in page.text
    assert len([each for each in page.of("svg") if each.get("class") != "key"]) == 1


def test_the_command(images, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call("report", images, "--no-diagnose")
    assert (images / "report.html").exists()
    assert str(images / "report.html") in capsys.readouterr().out
    call("report", images, images, "--output", "both.html", "--quiet")
    assert "Side by side" in (tmp_path / "both.html").read_text()
    for arguments, words in (
        (["nowhere"], "no folder nowhere"),
        ([tmp_path], "is not a run folder"),
        ([images, "--output", tmp_path], "Is a directory"),
        ([], "Missing argument"),
    ):
        call("report", *arguments, code=2)
        assert words in capsys.readouterr().err


def typed(command):
    """Return the options of a command line of ``pyro-dvae train``."""
    found = []
    result = CliRunner().invoke(
        click.command()(training_options(found.append)), command, standalone_mode=False
    )
    assert result.exception is None, result.exception
    return found[0]


@pytest.mark.parametrize("run", ["images", "rows"])
@pytest.mark.parametrize("defaults", [False, True])
def test_the_command_repeats_the_run(run, defaults, request, tmp_path):
    """Also if a default was given explicitly that the data would have changed."""
    folder = request.getfixturevalue(run)
    copy = tmp_path / "copy"
    copy.mkdir()
    config = json.loads((folder / "config.json").read_text())
    config["options"] |= {"epochs": 50, "validate_every": 1, "likelihood": "bernoulli"} if defaults else {}
    (copy / "config.json").write_text(json.dumps(config))
    asked = typed(shlex.split(read(copy).commands[0])[2:])
    data = load_dataset(asked.options.dataset, asked.options.data_folder, **of_file(asked.options))
    options = guess.by_size(asked.options, asked.given, data, None)
    options, _ = guess.by_values(options, asked.given, data, None)
    assert options.as_dict() == config["options"]


@pytest.mark.parametrize(
    "options",
    [
        Options(),
        Options(noise=0.2, bound="diwae", particles=5, corruptions=3, clip_norm=5.0, compiled=False),
        Options(learn_noise=True, compiled=True, bfloat16=True, dataset="a b.csv", columns="x, y"),
    ],
)
def test_what_to_type_gives_the_options_back(options):
    assert typed(options.as_arguments()).options == options
    assert typed(options.as_arguments(("likelihood", "noise_kind"))).options == options


def test_what_to_type_for_an_evaluation():
    assert EvaluationOptions().as_arguments() == []
    options = EvaluationOptions(samples=40, refine=True, count=3)
    assert options.as_arguments() == ["--samples", "40", "--refine", "--count", "3"]


def test_markup_escapes_what_is_no_markup():
    odd = "<script>\x1b[31m & \"'\ud800"
    made = element("p", odd, title=odd, class_=None)
    assert "<script>" not in made
    assert "\x1b" not in made
    made.encode("utf-8")
    assert element("p", Html("<b>x</b>")) == "<p><b>x</b></p>"
    shown = table(odd, [odd], [[odd, odd]], marked=[True])
    assert "<script>" not in shown
    assert '<tr class="marked">' in shown
    assert '<th scope="row">' in shown


def test_figures_say_how_far_to_believe_them():
    quality = {"samples": {"pairs": 0.8}, "real": {"pairs": 0.981}, "independent": {"pairs": None}}
    estimate = {"mean": -5.2291, "sampling_error": 0.0017, "standard_error_of_mean": 0.23}
    estimate |= {"share_unreliable": 0.05, "per_datum": {"log_likelihood": [-5.0] * 20}}
    evaluation = {"log_likelihood": estimate, "data": {"sizes": [1, 1, 60]}, "sample_quality": quality}
    run = ReportedRun(Path(), [], evaluation=evaluation)
    found = {label: (value, belief) for label, value, belief in figures(run)}
    value, belief = found["log p(x)"]
    assert value == "-5.2291 ± 0.0017"
    assert belief.startswith("of the first 20 test rows; ")
    assert "too low" in belief
    assert found["rows with a bad Pareto k"] == ("5.0 %", "too many: use evaluate --refine")
    assert found["samples: pairs of columns"][1].endswith("training rows reach 0.98, independent columns -")


def test_ticks_are_round_and_inside():
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert ticks(-101.3, -95.2) == [-100, -98, -96]
    assert ticks(0.61, 0.68) == pytest.approx([0.62, 0.64, 0.66, 0.68])
    assert ticks(-1, 1e6)[-1] == 1e6


def test_charts_of_odd_values():
    assert "No epoch has a bound yet" in curves("t", [Curve("a", [1], [None])])
    one = curves("t", [Curve("a", [1], [-3.0])], [(1, -3.0, 1)])
    assert one.count("<circle") == 2
    flat = curves("t", [Curve("a", [1, 2, 3], [-3.0, float("nan"), -3.0])])
    assert "nan" not in flat
    assert "No finite value" in histogram("t", [None], "x")
    counted = histogram("t", [0.1] * 5 + [0.9, 0.95, None, float("-inf")], "k", 0.7)
    assert counted.count("bar bad") >= 2
    heights = re.findall(r'height="([\d.]+)" class="bar"', counted)
    assert sum(float(each) > 0 for each in heights) == 1
    assert "<rect" in histogram("t", [2.0, 2.0], "x")


MEASURED = """<script>parent.postMessage([document.documentElement.scrollWidth, innerWidth,
[...document.images].every(i => i.naturalWidth > 0)].join(" "), "*")</script></body>"""
FRAME = """<body style="margin:0"><script>onmessage = e => {{ document.body.dataset.found = e.data }}</script>
<iframe src="{page}" width="{width}" height="2000" style="border:0"></iframe></body>"""


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1366, 390])
def test_a_browser_shows_the_page_within_its_width(images, rows, tmp_path, width, dark):
    """A frame has its own width; a browser's window cannot be as narrow as a phone."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs Chromium")
    text = write_report([images, rows], tmp_path / "page.html", diagnose=False, quiet=True).read_text()
    policy = re.search(r"<meta http-equiv[^>]*>", text)[0]  # allows no script
    (tmp_path / "measured.html").write_text(text.replace(policy, "").replace("</body>", MEASURED))
    for name in ("measured", "page"):
        (tmp_path / f"frame_{name}.html").write_text(FRAME.format(page=f"{name}.html", width=width))
    call_it = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000"]
    call_it += [f"--window-size={max(width, 500)},2000"]
    call_it += ["--blink-settings=preferredColorScheme=0"] if dark else []
    options = {"capture_output": True, "text": True, "timeout": 300, "check": True}
    address = (tmp_path / "frame_measured.html").as_uri()
    dom = subprocess.run([*call_it, "--dump-dom", address], **options).stdout
    wide, inner, complete = re.search(r'data-found="(\d+) (\d+) (\w+)"', dom).groups()
    assert int(inner) == width
    assert int(wide) <= width  # wider tables scroll
    assert complete == "true"
    picture = tmp_path / "page.png"
    subprocess.run([*call_it, f"--screenshot={picture}", (tmp_path / "frame_page.html").as_uri()], **options)
    found = imread(picture)[:, :width]
    assert (float(found.mean()) < 0.5) == dark
    assert found.std() > 0.02  # the page is not blank
