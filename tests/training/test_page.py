"""The snippets of docs/training.md, run as they stand."""

import re
from pathlib import Path

import pyro
import pytest
import torch

from pyro_dvae.jobs import config_file

PAGE = (Path(__file__).parents[2] / "docs/training.md").read_text()


def test_the_snippets_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pyro.clear_param_store()
    scope = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) == 7
    for block in blocks:
        pyro.clear_param_store()
        exec(compile(block, "training.md", "exec"), scope)
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 7
    assert len(list((tmp_path / "tb").iterdir())) == 1
    assert scope["tracked"].steps == 6 * -(-len(scope["train"]) // 100)
    assert "6 {'train': " in capsys.readouterr().out
    rates = scope["fitted"].history.learning_rate
    assert rates[0] == pytest.approx(2e-3)
    assert rates[3] == pytest.approx(1e-3)
    assert all(torch.isfinite(torch.tensor(scope["warm"].history.validation_bound)))


def test_the_file_is_read(tmp_path):
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "file.toml").write_text(text)
    found = config_file.read(str(tmp_path / "file.toml"))
    assert found == {
        "dataset": "mnist",
        "noise": 0.1,
        "latent_size": 20,
        "patience": 20,
        "log": "tensorboard",
    }
