"""Unusual arguments of every exported callable: a result, or one line that names the argument."""

import contextlib
import inspect
import io
import json
import os
import tempfile
import warnings
from unittest import mock

import numpy as np
import pyro
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odd_calls import CALLS, ODD, UNCALLED

import pyro_dvae as dv
from pyro_dvae.engine import compiler

FEW = settings(
    max_examples=40,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
DOCUMENTED = (dv.InputError, dv.DivergenceError)


def arguments_of(name):
    signature = inspect.signature(dv.Trainer if name == "fit" else getattr(dv, name))
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    named = [each.name for each in signature.parameters.values() if each.kind not in variable]
    return list(dict.fromkeys([*named, *CALLS[name][0]()]))


def call(name, odd):
    """Make a valid call with other values for some arguments; use what is made, if they are plain."""
    arguments, use = CALLS[name][0]() | odd, CALLS[name][1]
    rows = [arguments.pop("data")] if name == "check" else []
    programs = [arguments.pop(each) for each in ("model", "guide")] if rows else []
    made = getattr(dv, name)(*programs, *rows, **arguments)
    if use is not None and not any(map(callable, odd.values())):  # what those do is their own affair
        use(made)
    return made


def interpreted(graph, example):
    return compiler.interpret(graph)


@contextlib.contextmanager
def apart():
    """Be in an empty folder, without the compiler, and say nothing."""
    before = os.getcwd()
    with contextlib.ExitStack() as stack:
        os.chdir(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.callback(os.chdir, before)
        stack.enter_context(mock.patch.object(compiler, "_compiled", interpreted))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        yield


def fault_of(name, odd):
    """Return what is wrong with how a call with odd values ends; None if nothing is."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    shown = {argument: str(value) for argument, value in odd.items()}
    try:
        call(name, odd)
    except DOCUMENTED as error:
        text = str(error)
        if len(text) > 1000 or not text.isprintable() or "Trace Shapes" in text:
            return f"not one short line: {text!r}"
        named = any(argument in text or (shown[argument] and shown[argument] in text) for argument in odd)
        if not named and not any(map(callable, odd.values())):
            return f"does not name {' or '.join(odd)}: {text}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    return None


def test_every_exported_callable_is_called():
    exported = {name for name in dv.__all__ if callable(getattr(dv, name))}
    assert exported == CALLS.keys() | UNCALLED


@pytest.mark.parametrize("name", CALLS)
def test_the_calls_are_valid(name):
    with apart():
        call(name, {})


class Odd:
    """An odd value, made anew where it is used."""

    def __init__(self, label, make):
        self.label, self.make = label, make

    def __repr__(self):
        return self.label


# Without the characters that lead to another folder.
texts = st.text(st.characters(exclude_characters="/\\~"), max_size=8)
# Not such as are valid and take long.
numbers = st.integers(-3, 3) | st.integers(2**63) | st.floats() | st.complex_numbers()
plain = numbers | texts | st.binary(max_size=8)
values = st.one_of(
    st.sampled_from([Odd(label, make) for label, make in ODD.items()]),
    plain.map(lambda value: Odd(repr(value), lambda: value)),
    st.lists(plain, max_size=3).map(lambda value: Odd(repr(value), value.copy)),
)


@st.composite
def odd_calls(draw, names=tuple(CALLS)):
    name = draw(st.sampled_from([each for each in names if arguments_of(each)]))
    chosen = draw(st.lists(st.sampled_from(arguments_of(name)), min_size=1, max_size=2, unique=True))
    return name, {argument: draw(values) for argument in chosen}


def check_odd_call(name, chosen):
    with apart():
        fault = fault_of(name, {argument: odd.make() for argument, odd in chosen.items()})
    assert fault is None, f"{name}({chosen}): {fault}"


@pytest.mark.parametrize("name", [name for name in CALLS if arguments_of(name)])
def test_odd_arguments_give_a_result_or_one_line(name):
    @FEW
    @given(odd_calls([name]))
    def check(case):
        check_odd_call(*case)

    check()


def whole_numbers_of(name):
    """Return the arguments of a valid call, and the defaults, that are whole numbers."""
    signature = inspect.signature(dv.Trainer if name == "fit" else getattr(dv, name))
    found = {each.name: each.default for each in signature.parameters.values()} | CALLS[name][0]()
    if found.get("seed", 0) is None:
        found["seed"] = 7
    return {argument: value for argument, value in found.items() if type(value) is int}


@pytest.mark.parametrize("name", [name for name in CALLS if whole_numbers_of(name)])
def test_numpy_integers_are_whole_numbers(name):
    with apart():
        made = call(name, {argument: np.int64(value) for argument, value in whole_numbers_of(name).items()})
    if not inspect.isclass(getattr(dv, name)) and type(made).__module__.startswith("pyro_dvae"):
        json.dumps(made.to_dict() if hasattr(made, "to_dict") else None)


def options_of(name):
    """Return the keyword-only arguments of a function that passes further ones to model and guide."""
    signature = inspect.signature(dv.Trainer if name == "fit" else getattr(dv, name))
    kinds = [each.kind for each in signature.parameters.values()]
    open_end = inspect.Parameter.VAR_KEYWORD in kinds and "model" in signature.parameters
    keyword = inspect.Parameter.KEYWORD_ONLY
    return [
        each for each, kind in zip(signature.parameters, kinds, strict=True) if open_end and kind == keyword
    ]


@pytest.mark.parametrize("name", [name for name in CALLS if name != "CompiledSVI" and options_of(name)])
def test_a_misspelt_option_is_told_the_right_one(name):
    for option in options_of(name):
        if option not in CALLS[name][0]():
            with apart(), pytest.raises(dv.InputError, match=f"did you mean '{option}'"):
                call(name, {option + "x": 1})


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CALLS if arguments_of(name)])
def test_every_odd_value_of_every_argument(name):
    faults = []
    with apart():
        for argument in arguments_of(name):
            for label, make in ODD.items():
                if (fault := fault_of(name, {argument: make()})) is not None:
                    faults.append(f"{argument}, {label}: {fault}")
    assert not faults, "\n" + "\n".join(faults)
