"""The three storeys of docs/architecture.md: what imports what, read from the source."""

import ast
import graphlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "pyro_dvae"
PAGE = (PACKAGE.parent / "docs/architecture.md").read_text()
# From the ground up: a folder imports only from folders before it or on its own line.
STOREYS = [
    ["errors"],
    ["internals"],
    [
        "calling",
        "checkpoint",
        "checks",
        "files",
        "interrupts",
        "machine",
        "ownership",
        "random_state",
        "buffers",
        "text",
    ],
    ["registration"],
    ["rows"],
    ["levels"],
    ["distributions"],
    ["datasets"],
    ["plots"],
    ["corruptions"],
    ["networks"],
    ["sites"],
    ["guides"],
    ["priors"],
    ["programs"],
    ["engine"],
    ["bounds"],
    ["distributed"],
    ["training"],
    ["evaluation"],
    ["conditioning"],
    ["models"],
    ["using"],
    ["jobs"],
    ["sklearn"],
    ["cli"],
    ["__main__"],
]
FLOOR = {room: floor for floor, rooms in enumerate(STOREYS) for room in rooms}


def name_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(name):
    """Return (module, imported name or None) of every import, also in functions and for types alone."""
    found = []
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pyro_dvae"):
            for each in node.names:
                full = f"{node.module}.{each.name}"
                found.append((full, None) if full in MODULES else (node.module, each.name))
    return found


def room_of(module):
    return module.split(".")[1] if "." in module else None


@pytest.mark.parametrize("name", [each for each in MODULES if room_of(each)])
def test_a_folder_imports_only_from_below(name):
    own = room_of(name)
    for module, _ in imports(name):
        other = room_of(module)
        assert other is None or other == own or FLOOR[other] <= FLOOR[own], f"{name} imports {module}"


@pytest.mark.parametrize("name", MODULES)
def test_no_private_name_crosses_a_folder(name):
    folder = MODULES[name].parent
    for module, imported in imports(name):
        hidden = [part for part in (module.split(".")[-1], imported) if part and part.startswith("_")]
        assert not hidden or MODULES[module].parent == folder, f"{name} takes {hidden} of {module}"


def test_no_files_import_each_other_in_a_circle():
    files = [name for name in MODULES if MODULES[name].name != "__init__.py"]
    before = {name: {module for module, _ in imports(name)} & set(files) for name in files}
    assert len(list(graphlib.TopologicalSorter(before).static_order())) == len(files)


def test_no_module_is_long():
    long = {name: count for name in MODULES if (count := len(MODULES[name].read_text().splitlines())) > 300}
    assert long.keys() <= {"pyro_dvae.training.trainer", "pyro_dvae.training.many"}, long
    assert all(count <= 330 for count in long.values()), long


def test_the_page_has_a_line_for_each_room():
    for room in FLOOR:
        assert f"`{room}" in PAGE, room
