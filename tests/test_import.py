"""Importing the package is quick and loads little."""

import ast
import os
import subprocess
import sys
from pathlib import Path


def run(code, eager=True):
    """Run code in a new process; ``eager`` loads every public name at once."""
    environment = {key: value for key, value in os.environ.items() if key != "EAGER_IMPORT"}
    if eager:
        environment["EAGER_IMPORT"] = "1"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
    )


def test_the_command_starts_without_torch():
    done = run("import sys, pyro_dvae.cli\nprint([m for m in ('torch', 'pyro') if m in sys.modules])", False)
    assert done.stdout.strip() == "[]", done.stderr


ALL = """
import sys, pyro, torch
before = pyro.settings.get(), torch.get_rng_state()
import pyro_dvae as dv, pyro_dvae.datasets, pyro_dvae.evaluation.measures
after = pyro.settings.get(), torch.get_rng_state()
assert len(dv.__all__) > 30
assert all(hasattr(dv, name) for name in dv.__all__)
assert before[0] == after[0]
assert torch.equal(before[1], after[1])
print([name for name in ("torchvision", "matplotlib", "arviz", "sklearn") if name in sys.modules])
"""


def test_every_public_name_loads_without_the_heavy_packages_and_changes_no_setting():
    done = run(ALL)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_stub_has_the_names_that_are_loaded():
    import pyro_dvae

    submodules, names = set(), {}
    for line in ast.parse(Path(pyro_dvae.__file__).with_suffix(".pyi").read_text()).body:
        if isinstance(line, ast.ImportFrom):
            found = {alias.name for alias in line.names}
            if line.module is None:
                submodules |= found
            else:
                names.setdefault(line.module, set()).update(found)
    assert submodules == pyro_dvae._SUBMODULES, "say it in __init__.py and in __init__.pyi"
    expected = {module: set(each) for module, each in pyro_dvae._NAMES.items()}
    assert names == expected, "say it in __init__.py and in __init__.pyi"


def test_import_needs_no_torchvision_matplotlib_or_arviz():
    blocked = "import sys\nfor name in ('torchvision', 'matplotlib', 'arviz', 'sklearn', 'scipy'):\n"
    code = (
        blocked
        + "    sys.modules[name] = None\nimport pyro_dvae.cli, pyro_dvae.plots, pyro_dvae.jobs.train\n"
    )
    done = run(code)
    assert done.returncode == 0, done.stderr
