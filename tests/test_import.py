"""Importing the package is quick to need little."""

import subprocess
import sys


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_import_needs_no_torchvision_matplotlib_or_arviz():
    blocked = "import sys\nfor name in ('torchvision', 'matplotlib', 'arviz', 'sklearn', 'scipy'):\n"
    code = (
        blocked + "    sys.modules[name] = None\nimport pyro_dvae.cli, pyro_dvae.plots, pyro_dvae.runs.run\n"
    )
    done = run(code)
    assert done.returncode == 0, done.stderr


def test_import_loads_none_of_them():
    heavy = "('torchvision', 'matplotlib', 'arviz')"
    code = f"import sys, pyro_dvae\nprint([m for m in {heavy} if m in sys.modules])"
    assert run(code).stdout.strip() == "[]"


def test_the_library_leaves_pyros_settings_and_random_state_alone():
    code = (
        "import pyro, torch\nbefore = pyro.settings.get(), torch.get_rng_state()\nimport pyro_dvae\n"
        "after = pyro.settings.get(), torch.get_rng_state()\n"
        "print(before[0] == after[0], torch.equal(before[1], after[1]))"
    )
    assert run(code).stdout.strip() == "True True"
