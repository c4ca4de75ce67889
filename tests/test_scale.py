"""The commands of docs/scale.md."""

import re
import shlex
from pathlib import Path

import pytest

from pyro_dvae import cli
from pyro_dvae.cli import main
from pyro_dvae.jobs.experiments import experiments

PAGE = (Path(__file__).parents[1] / "docs/scale.md").read_text()
COMMANDS = re.findall(r"^    pyro-dvae (.*)$", PAGE, flags=re.MULTILINE)
SMALL = ["--dataset", "digits", "--epochs", "1", "--jobs", "1", "--quiet"]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_of_the_page_is_one(line):
    name, *arguments = shlex.split(line)
    context = cli.main.commands[name].make_context(name, arguments)
    assert context.params


@pytest.mark.slow
def test_the_commands_of_a_laptop_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    section = PAGE[PAGE.index("## A laptop") : PAGE.index("## A workstation")]
    for line in re.findall(r"^    pyro-dvae (.*)$", section, flags=re.MULTILINE):
        name, *arguments = shlex.split(line)
        small = {"reproduce": ["--seeds", "1"], "sweep": ["--trials", "2", "--width", "8"]}.get(name, [])
        with pytest.raises(SystemExit) as ended:
            main([name, *arguments, *SMALL, *small])
        assert ended.value.code == 0, capsys.readouterr().err
    assert "1 on the test data" in capsys.readouterr().out.replace("trial 0", "trial 1")


@pytest.mark.slow
def test_the_python_code_of_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        exec(compile(block, "scale.md", "exec"), {"__name__": "__main__"})
    shown = capsys.readouterr().out
    assert "100 rows, 500 samples each" in shown
    assert "2 runs finished" in shown


def test_the_hours_of_table_1_are_those_of_the_list():
    table1 = experiments()["table1"]
    assert (len(table1.cases), table1.seeds, table1.core_hours) == (24, 3, 16.0)
    hours = table1.core_hours * 10 / table1.seeds
    assert f"so {10 * len(table1.cases)} runs take about {hours:.0f}" in PAGE
    for cores, shown in re.findall(r"^\| \w+ \| (\d+) \| ([\d.]+) \|$", PAGE, flags=re.MULTILINE):
        assert float(shown) == pytest.approx(hours / int(cores), rel=0.1)
