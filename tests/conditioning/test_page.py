"""The snippets of docs/conditioning.md, run as they stand."""

import re
from pathlib import Path

import pyro
import torch

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/conditioning.md").read_text()


def test_the_snippets_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pyro.clear_param_store()
    scope = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        exec(compile(block, "conditioning.md", "exec"), scope)
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
    assert (tmp_path / "gaps.png").exists()
    printed = capsys.readouterr().out
    assert "amortisation gap, diagonal" in printed
    assert "missing cells" in printed
