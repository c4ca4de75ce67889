"""One word for one thing in all public signatures: a synonym fails."""

import importlib
import inspect
import pkgutil

import pytest

import pyro_dvae as dv

# What a public argument must not be called, and what it is called here.
SYNONYMS = {
    "net": "network",
    "elbo": "loss",
    "criterion": "loss",
    "objective": "loss",
    "optimiser": "optimizer",
    "lr": "learning_rate",
    "n": "num_data",
    "data_count": "num_data",
    "n_samples": "num_samples",
    "samples": "num_samples",
    "particles": "num_particles",
    "corruptions": "num_corruptions",
    "draws": "num_draws",
    "num": "num_draws, num_samples or num_imputations",
    "chains": "num_chains",
    "latent_dim": "latent_size",
    "z_dim": "latent_size",
    "hidden_dims": "hidden_sizes",
    "batch": "data",
    "dataset": "data",
    "chunk": "batch_size, or memory in bytes",
    "max_memory": "memory",
    "random_state": "seed",
    "rng": "seed",
    "verbose": "progress",
    "callback": "callbacks",
    "compiled": "compile",
    "jit": "compile",
    "path": "folder, file or checkpoint",
    "clean_input": "clean",
    "sigma": "scale",
    "std": "scale",
    "prob": "rate or probability",
}


def is_error(each):
    return inspect.isclass(each) and issubclass(each, BaseException)


# Records hold draws and the like under the plain word; the command line has sizes without "num".
FRONT_DOORS = {name: getattr(dv, name) for name in sorted(dv.__all__)}
CALLS = {
    name: each
    for name, each in FRONT_DOORS.items()
    if callable(each) and not hasattr(each, "__dataclass_fields__") and not is_error(each)
}
SETTINGS = {"Refinement": dv.Refinement}


def parameters_of(name):
    return list(inspect.signature((CALLS | SETTINGS)[name]).parameters.values())


@pytest.mark.parametrize("name", [*CALLS, *SETTINGS])
def test_no_argument_is_a_synonym(name):
    found = {each.name: SYNONYMS[each.name] for each in parameters_of(name) if each.name in SYNONYMS}
    assert not found, f"{name}: {found}"


@pytest.mark.parametrize("name", CALLS)
def test_model_guide_and_data_come_in_this_order(name):
    names = [each.name for each in parameters_of(name) if each.kind is each.POSITIONAL_OR_KEYWORD]
    order = [each for each in ("model", "guide", "data") if each in names]
    assert [each for each in names if each in order] == order
    assert not order or order[0] != "model" or names[0] == "model"


@pytest.mark.parametrize(
    "argument",
    [
        "bfloat16",
        "clean",
        "data_site",
        "epochs",
        "memory",
        "minimum",
        "compile",
        "corruption",
        "progress",
        "validate_every",
        "level",
    ],
)
def test_an_argument_has_one_default(argument):
    found = {}
    for name in CALLS:
        for each in parameters_of(name):
            if (
                each.name == argument
                and each.default is not each.empty
                and "Tensor" not in str(each.annotation)
            ):
                found.setdefault(repr(each.default), []).append(name)
    assert len(found) == 1, found


@pytest.mark.parametrize(
    "module",
    [
        each.name
        for each in pkgutil.walk_packages(dv.__path__, "pyro_dvae.")
        if not each.name.endswith(("_export", "cli"))
    ],
)
def test_public_classes_have_different_names(module):
    """Two classes of one name in two rooms are two things that a reader takes for one."""
    for name, each in vars(importlib.import_module(module)).items():
        if inspect.isclass(each) and each.__module__ == module and not name.startswith("_"):
            assert CLASSES.setdefault(name, module) == module, f"{name}: {CLASSES[name]} and {module}"


CLASSES: dict[str, str] = {}
