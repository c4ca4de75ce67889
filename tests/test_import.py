"""Importing the package is quick to need little."""

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


def test_every_public_name_loads():
    code = "import pyro_dvae as dv\nprint(all(hasattr(dv, name) for name in dv.__all__), len(dv.__all__))"
    found, count = run(code).stdout.split()
    assert found == "True"
    assert int(count) > 30


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


def test_import_loads_none_of_them():
    heavy = "('torchvision', 'matplotlib', 'arviz', 'sklearn')"
    code = f"import sys, pyro_dvae\nprint([m for m in {heavy} if m in sys.modules])"
    assert run(code).stdout.strip() == "[]"


def test_the_library_leaves_pyros_settings_and_random_state_alone():
    code = (
        "import pyro, torch\nbefore = pyro.settings.get(), torch.get_rng_state()\nimport pyro_dvae\n"
        "after = pyro.settings.get(), torch.get_rng_state()\n"
        "print(before[0] == after[0], torch.equal(before[1], after[1]))"
    )
    assert run(code).stdout.strip() == "True True"
