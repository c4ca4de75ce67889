"""Every block of code in the README and the documentation is run, and every command is parsed."""

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.optim import Adam
from torch import nn

import pyro_dvae as dv
from pyro_dvae.cli import main
from pyro_dvae.jobs import config_file

ROOT = Path(__file__).parents[1]
DOCS = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("docs/notebooks/*.md")])
PAGES = ["README.md", "CONTRIBUTING.md", *(str(path.relative_to(ROOT)) for path in DOCS)]
TEXTS = {page: (ROOT / page).read_text() for page in PAGES}
BLOCKS = {page: re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.M) for page, text in TEXTS.items()}
ELSEWHERE = {"docs/extending.md"}  # test_extending.py makes its files and edits


def given():
    """The user's names in pages that assume that the user has a model."""
    decoder, encoder = nn.Linear(2, 6), nn.Linear(6, 2)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x), 1.0).to_event(1))

    x = torch.randn(4, 6)
    pair = {"model": model, "guide": guide, "x": x, "train": x, "bound": dv.TraceDenoising_ELBO()}
    return {"dv": dv, "torch": torch, "Adam": Adam, **pair}


def speed():
    """A model that is a module, three ready-made ones, and few epochs."""
    encoder, decoder = dv.networks.GaussianEncoder, dv.networks.BernoulliDecoder
    dvaes = [dv.DVAE(encoder(6, 2, (4,)), decoder(6, 2, (4,)), dv.GaussianNoise(0.1)) for _ in range(4)]
    x = torch.rand(12, 6).round()
    own = {"model": dvaes[0].model, "guide": dvaes[0].guide}
    return given() | own | {"dvaes": dvaes[1:], "train": x, "batches": [x]}


def readme(scope, printed):
    assert 0 < scope["loss"] < 64 * 100
    assert "Pareto k" in printed
    assert not scope["filled"].mean.isnan().any()
    assert torch.equal(scope["filled"].mean[:, :32], scope["rows"][:, :32])
    assert scope["cleaned"].shape == (3, 64)


def start(scope, printed):
    assert scope["tighter"].mean > scope["bound"].mean


def using(scope, printed):
    assert scope["images"].shape == scope["test"].shape
    assert scope["new"].shape == (16, 64)
    errors = [(scope["test"] - scope[name]).square().mean() for name in ("cleaned", "noisy")]
    assert errors[0] < errors[1] * 2
    assert "codes of" in printed
    assert scope["codes"].shape == (178, 3)
    assert scope["rows"].shape == scope["wine"].shape
    assert not bool(torch.from_numpy(scope["filled"]).isnan().any())
    assert (scope["labels"] == -1).sum() == 9
    assert "elpd_loo" in printed


def conditioning(scope, printed):
    rows, found = scope["rows"][:50], scope["found"]
    assert not found.mean.isnan().any()
    assert bool((scope["low"] <= scope["high"]).all())
    assert float(found.reliable.double().mean()) > 0.9
    assert scope["several"].shape == (5, 50, 4)
    assert torch.equal(scope["filled"][~rows.isnan()], rows[~rows.isnan()])
    assert scope["price"].mean.shape == (50, 1)
    assert bool((scope["samples"][:, 0, 0] == 1.0).all())
    assert scope["odd"].shape == (50,)
    assert torch.equal(scope["where"].isnan(), rows[:5].isnan())
    assert Path("gaps.png").exists()
    assert "amortisation gap, diagonal" in printed
    assert "missing cells" in printed


def tables(scope, printed):
    rows, gaps = scope["rows"], scope["rows"].isnan()
    assert torch.equal(scope["filled"][~gaps], rows[~gaps])
    assert scope["several"].shape == (5, 200, 5)
    assert bool((scope["low"] <= scope["high"]).all())
    assert scope["price"].mean.shape == (200, 1)
    assert scope["odd"].shape == (200,)
    assert torch.equal(scope["where"].isnan(), gaps[:5])
    assert scope["new"].shape == (10, 5)
    assert "together" in printed


def own_data(scope, printed):
    assert "data: expected numeric columns, got others: 'species'" in printed
    assert "log p(x), mean" in printed
    assert len(scope["fitted"].history.epochs) == 2
    assert scope["x"].shape == (20, 64)


def likelihood(scope, printed):
    assert "Pareto k" in printed
    assert scope["found"].refined is not None


def training(scope, printed):
    assert len(Path("log.csv").read_text().splitlines()) == 7
    assert len(list(Path("tb").iterdir())) == 1
    assert scope["tracked"].steps == 6 * -(-len(scope["train"]) // 100)
    assert "6 {'train': " in printed
    rates = scope["fitted"].history.learning_rate
    assert [rates[0], rates[3]] == pytest.approx([2e-3, 1e-3])
    (text,) = re.findall(r"```toml\n(.*?)```", TEXTS["docs/training.md"], re.DOTALL)
    Path("file.toml").write_text(text)
    found = config_file.read("file.toml")
    assert found.keys() == {"dataset", "noise", "latent_size", "patience", "log"}
    assert found["latent_size"] == 20


def from_pyros_vae(scope, printed):
    errors, bounds = scope["errors"], scope["bounds"]
    assert errors["denoising VAE"] < 0.98 * errors["plain VAE"] < errors["noisy input"]
    assert abs(bounds["denoising VAE"].mean - bounds["plain VAE"].mean) < 0.5


def believe_a_likelihood(scope, printed):
    exact = float(scope["exact"].mean())
    for name in ("good", "wider", "refined"):
        assert abs(scope[name].mean - exact) < 4 * scope[name].sampling_error + 0.005, name
    assert scope["good"].share_unreliable == 0
    assert scope["narrow"].mean < exact - 4 * scope["narrow"].sampling_error
    assert scope["narrow"].share_unreliable > 0.8


def missing_values(scope, printed):
    errors = scope["errors"]
    assert errors["denoising VAE"] < 0.8 * errors["Gaussian EM"]
    assert 0.85 < scope["covered"] < 0.99


GIVEN = {"docs/likelihood.md": given, "docs/performance.md": speed}
CHECKS = {
    "README.md": readme,
    "docs/index.md": start,
    "docs/using_a_model.md": using,
    "docs/conditioning.md": conditioning,
    "docs/tables.md": tables,
    "docs/own_data.md": own_data,
    "docs/likelihood.md": likelihood,
    "docs/training.md": training,
    "docs/notebooks/from_pyros_vae.md": from_pyros_vae,
    "docs/notebooks/believe_a_likelihood.md": believe_a_likelihood,
    "docs/notebooks/missing_values.md": missing_values,
}
LONG = ("docs/notebooks/from_pyros_vae.md", "docs/notebooks/missing_values.md")  # ten seconds each


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow if page in LONG else ())
        for page in PAGES
        if BLOCKS[page] and page not in ELSEWHERE
    ],
)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch, capsys):
    """Recorded steps run operation by operation; other tests cover the compiler."""
    monkeypatch.chdir(tmp_path)
    scope = GIVEN.get(page, dict)()
    for block in BLOCKS[page]:
        quick = block.replace("num_steps=300", "num_steps=30").replace("num_rows=50", "num_rows=10")
        exec(compile(quick, page, "exec"), scope)
    CHECKS.get(page, lambda scope, printed: None)(scope, capsys.readouterr().out)


@pytest.mark.parametrize("page", PAGES)
def test_no_python_stands_outside_of_a_block(page):
    """An indented block of Python would be shown but never run."""
    indented = re.findall(r"^    .*$", re.sub(r"^```.*?^```$", "", TEXTS[page], flags=re.DOTALL | re.M), re.M)
    assert [line for line in indented if re.search(r"^ +(import|from) .*import|\bdv\.\w+\(", line)] == []


def commands():
    """Each command in a page: a line of an indented block, continued lines joined, or a span of code."""
    for page, text in TEXTS.items():
        joined = text.replace("\\\n", " ")
        lines = re.findall(r"^    (.*)$", joined, re.M) + re.findall(r"`([^`\n]+)`", joined)
        for line in lines:
            for part in line.split(" && "):
                part = part.partition("  #")[0].strip()
                if re.match(r"(pyro-dvae|python (examples|benchmarks)/|torchrun .*examples/)", part):
                    yield page, part


@pytest.mark.parametrize(("page", "line"), sorted(set(commands())))
def test_every_command_is_one_that_its_program_takes(page, line):
    program, *words = shlex.split(line.replace("RUN", "run"))
    words = [word for word in words if word != "--help"]
    if program == "pyro-dvae":
        if len(words) < 2:  # a command named in a sentence
            assert set(words) <= set(main.commands)
            return
        command, words = main.commands[words[0]], words[1:]
    else:
        words = [word for word in words if word != "--" and not word.startswith("--nproc")]
        path = ROOT / words.pop(0)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        sys.path.insert(0, str(path.parent))
        try:
            script = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(script)
        finally:
            sys.path.remove(str(path.parent))
        command = script.main
    command.make_context(line, words)
