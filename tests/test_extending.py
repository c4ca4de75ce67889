"""Follow docs/extending.md: save its files in a copy of the package, make its edits, run the tests."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
BLOCKS = re.findall(r"^`([\w/.]+)`\n\n```(python|diff)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
# What each page's member is called in the names of the contract tests, and how many run over it at least.
MEMBERS = {
    "ResidualEncoder": 35,
    "LaplaceDecoder": 35,
    "LaplaceGuide": 35,
    "LaplacePrior": 25,
    "UniformNoise": 55,
    "Renyi": 11,
    "elu": 2,
    "bars": 1,
    "bottleneck": 2,
}
CONTRACTS = [
    "tests/networks/test_networks_contract.py",
    "tests/networks/test_activations.py",
    "tests/guides/test_guides_contract.py",
    "tests/priors/test_priors_contract.py",
    "tests/corruptions/test_corruptions_contract.py",
    "tests/bounds/test_contract.py",
    "tests/datasets/test_dataset_registry.py",
    "tests/experiments/test_declarations.py",
]
# Tests over all members together, and so of the page's edits.
WHOLE = [
    "test_every_class_is_an_encoder_or_a_decoder",
    "test_every_export_has_an_entry",
    "test_every_corruption_with_a_level_is_a_family",
    "test_every_exported_bound_has_an_entry",
    "test_the_names",
]
# Tests of the members' own mathematics, and of training all together.
SPECIAL = '''
import re
import runpy

import pyro
import pytest
import torch

import pyro_dvae as dv
from pyro_dvae.guides import GaussianGuide
from pyro_dvae.networks import BernoulliDecoder


@pytest.fixture
def found():
    """A function from a bound to its loss and gradient under one seed; a learned rate has a score."""
    pyro.set_rng_seed(0)
    model = dv.LatentVariableModel(BernoulliDecoder(6, 2, (8,))).double()
    guide = GaussianGuide.of_sizes(6, 2, (8,), corruption=dv.BitFlip(0.2, learnable=True)).double()
    x = torch.rand(4, 6).round().double()

    def run(bound):
        pyro.set_rng_seed(1)
        model.zero_grad()
        guide.zero_grad()
        loss = bound.loss_and_grads(model, guide, x)
        return loss, [p.grad.clone() for p in [*model.parameters(), *guide.parameters()]]

    return run


DRAWS = {"num_corruptions": 3, "num_particles": 4}


def test_the_renyi_bound_falls_from_the_importance_weighted_to_the_denoising_one(found):
    alphas = (0.0, 0.3, 0.6, 0.99)
    losses = [found(dv.TraceDenoisingRenyi_ELBO(**DRAWS, alpha=alpha))[0] for alpha in alphas]
    assert losses == sorted(losses)
    assert losses[-1] < found(dv.TraceDenoising_ELBO(**DRAWS))[0] < losses[-1] + 0.1


def test_the_renyi_bound_at_0_is_the_importance_weighted_one(found):
    loss, grads = found(dv.TraceDenoisingIWAE_ELBO(**DRAWS))
    renyi, others = found(dv.TraceDenoisingRenyi_ELBO(**DRAWS, alpha=0.0))
    assert renyi == pytest.approx(loss, rel=1e-12)
    for one, two in zip(grads, others, strict=True):
        torch.testing.assert_close(one, two)


def test_the_uniform_noise_has_the_scale_it_is_given():
    x = torch.full((20_000,), 0.4, dtype=torch.float64)
    noise = dv.corruptions.UniformNoise(torch.tensor(0.3, dtype=torch.float64))(x).sample() - x
    assert float(noise.abs().max()) < 0.3 * 3**0.5
    assert float(noise.square().mean()) == pytest.approx(0.09, rel=0.03)


def test_they_train_together(capsys):
    runpy.run_path("together.py")
    (values,) = re.findall(r"test bound (-?[\\d.]+) -> (-?[\\d.]+) nats", capsys.readouterr().out)
    assert float(values[1]) > float(values[0]) + 5
'''
# It is linear in the logarithms of the weights, or named IWAE: neither is true of the Rényi bound.
LEFT_OUT = ["test_an_annealed_divergence_stays_inside"]


def edited(text, changes):
    """Return the text with ``-`` lines replaced and ``+`` lines put in behind the line before them."""
    place = None
    lines = text.splitlines()
    for change in changes.splitlines():
        sign, line = change[0], change[1:]
        if sign == "+":
            lines.insert(place, line)
            place += 1
            continue
        found = [index for index, each in enumerate(lines) if each == line]
        assert len(found) == 1, f"{line!r} is there {len(found)} times"
        place = found[0] + 1
        if sign == "-":
            del lines[found[0]]
            place = found[0]
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The package and its tests, with the page followed."""
    folder = tmp_path_factory.mktemp("extended")
    for part in ("pyro_dvae", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for name, kind, text in BLOCKS:
        path = folder / name
        if kind == "python":
            assert not path.exists(), name
            path.write_text(text)
        else:
            path.write_text(edited(path.read_text(), text))
    (folder / "tests" / "test_special.py").write_text(SPECIAL)
    return folder


def run(folder, *command):
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", *command]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=600
    )


def test_every_block_of_the_page_is_a_file_or_an_edit():
    assert len(BLOCKS) == PAGE.count("```") // 2
    assert sum(kind == "python" for _, kind, _ in BLOCKS) == 9


def test_the_new_members_keep_to_the_contracts_of_their_kinds(copy):
    wanted = " or ".join([*MEMBERS, *WHOLE, "test_special"])
    unwanted = " or ".join(LEFT_OUT)
    chosen = f"({wanted}) and not ({unwanted})"
    done = run(
        copy,
        "pytest",
        "-v",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        "-k",
        chosen,
        *CONTRACTS,
        "tests/test_special.py",
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    passed = re.findall(r"^\S+::(\S.*?) PASSED", done.stdout, re.MULTILINE)
    for member, least in MEMBERS.items():
        assert sum(member in name for name in passed) >= least, member
    assert set(WHOLE) <= set(passed)
    assert done.stdout.count("test_special.py::") == 4


def test_the_files_of_the_page_pass_the_linter(copy):
    files = [name for name, kind, _ in BLOCKS if kind == "python"]
    for command in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        done = run(copy, "ruff", *command, *files)
        assert done.returncode == 0, done.stdout + done.stderr
