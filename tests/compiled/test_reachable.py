"""Objects that a program can reach but does not read do not prevent compiled steps; those it reads may."""

import functools
import importlib.abc
import io
import itertools
import logging
import sys
import weakref

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pyro_dvae as dv
from pyro_dvae.engine.iterators import Iterators

pytestmark = pytest.mark.usefixtures("interpreted")

X = torch.linspace(-1, 2, 12, dtype=torch.float64).reshape(6, 2)


class Counting:
    """An iterator written in Python, which also holds a number."""

    def __init__(self):
        self.weight, self.count = 2.0, 0

    def __iter__(self):
        return self

    def __next__(self):
        self.count += 1
        return self.count


class Bar:
    """A progress bar like those of other packages: it holds the iterable."""

    def __init__(self, iterable):
        self.iterable, self.n, self.file = iterable, 0, io.StringIO()

    def __iter__(self):
        for each in self.iterable:
            self.n += 1
            self.file.write(f"{self.n}\r")
            yield each


def loader():
    return DataLoader(TensorDataset(X.float()), batch_size=1)


def endless():
    while True:
        yield 1.0


ITERATORS = {
    "a generator": endless,
    "a generator expression": lambda: (n for n in itertools.count()),
    "a list's": lambda: iter([1.0] * 100),
    "a dictionary's": lambda: iter(dict.fromkeys(range(100), 1.0)),
    "a zip": lambda: zip(endless(), itertools.repeat(2.0), strict=True),
    "a map": lambda: map(float, Counting()),
    "an enumeration": lambda: enumerate(endless()),
    "a count": itertools.count,
    "a chain": lambda: itertools.chain([1.0] * 100, endless()),
    "in Python": Counting,
    "a loader's": lambda: iter(DataLoader(range(100))),
    "a bar's": lambda: iter(Bar(endless())),
}


if sys.version_info >= (3, 14):  # where these do not tell their state: they may have been advanced
    for name in ("a count", "a chain"):
        del ITERATORS[name]


def number(value):
    while isinstance(value, (tuple, list)):
        value = value[-1]
    return float(value)


class Part(nn.Module):
    """A model with an object beside its network, in an attribute that its code names."""

    def __init__(self, held, take=lambda held: 2.0):
        super().__init__()
        self.held, self.take = [held], take
        self.net = nn.Linear(2, 2).double()

    def model(self, x):
        pyro.module("net", self.net)
        factor = self.take(self.held)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(factor * self.net(torch.ones_like(x)), 1.0).to_event(1), obs=x)


def losses(kind, part, between=lambda: None, steps=8, **options):
    pyro.clear_param_store()
    loop = kind(part.model, lambda x: None, Adam({"lr": 0.1}), Trace_ELBO(), **options)
    found = []
    for _ in range(steps):
        found.append(loop.step(X))
        between()
    return found, loop


def part_of(held, take=lambda held: 2.0):
    torch.manual_seed(0)
    return Part(held, take)


@pytest.mark.parametrize("make", ITERATORS.values(), ids=ITERATORS)
def test_an_iterator_that_others_advance(make):
    """As in a user's loop over data that the module holds: it is recorded once and no value is taken."""
    wanted, _ = losses(SVI, part_of(make()))
    iterator = make()
    found, loop = losses(dv.CompiledSVI, part_of(iterator), lambda: next(iterator), say=lambda message: None)
    assert found == pytest.approx(wanted, rel=1e-9)
    if not isinstance(iterator, Counting):  # whose count could be read
        assert loop.recorded == 1


@pytest.mark.parametrize("make", ITERATORS.values(), ids=ITERATORS)
def test_an_iterator_that_the_program_advances(make):
    def take(held):
        return number(next(held[0]))

    wanted, _ = losses(SVI, part_of(make(), take))
    iterator = make()
    with pytest.warns(UserWarning, match=r"uncompiled steps.*(advances an iterator|changes Counting's)"):
        found, loop = losses(dv.CompiledSVI, part_of(iterator, take), say=lambda message: None)
    assert found == pytest.approx(wanted, rel=1e-9)
    assert loop.recorded == 0


def handlers():
    logger = logging.Logger("of one's own")
    logger.addHandler(logging.StreamHandler(io.StringIO()))
    return logger


class Named:
    def method(self):
        return 1.0


OTHERS = {
    "a logger": handlers,
    "a bar": lambda: Bar(loader()),
    "a file": lambda: open(__file__),  # noqa: SIM115
    "a loader": loader,
    "a proxy": lambda: weakref.proxy(Named.method),
    "a partial": lambda: functools.partial(next, endless()),
}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_what_a_module_holds_besides(make):
    held = make()
    wanted, _ = losses(SVI, part_of(held))
    found, loop = losses(dv.CompiledSVI, part_of(held), say=lambda message: None)
    assert found == pytest.approx(wanted, rel=1e-9)
    assert loop.recorded == 1
    if hasattr(held, "close"):
        held.close()


def test_a_number_behind_a_proxy():
    results = []
    for kind, options in ((SVI, {}), (dv.CompiledSVI, {"say": lambda message: None})):
        holder = Counting()
        part = part_of(weakref.proxy(holder), lambda held: held[0].weight)
        steps = iter(range(8))

        def change(holder=holder, steps=steps):
            holder.weight = 2.0 if next(steps) < 4 else 3.0

        results.append(losses(kind, part, change, **options)[0])
    assert results[1] == pytest.approx(results[0], rel=1e-9)


class _Finder(importlib.abc.MetaPathFinder):
    """An import hook of another package, which holds a generator; pytest has one."""

    def __init__(self):
        self.held = [endless()]

    def find_spec(self, name, path=None, target=None):
        next(self.held[0])


@pytest.mark.filterwarnings("error")
def test_what_imports_run_is_no_part_of_the_program(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", [_Finder(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)

    def take(held):
        import colorsys

        return float(colorsys.ONE_SIXTH)

    _, loop = losses(dv.CompiledSVI, part_of(None, take), say=lambda message: None)
    assert loop.recorded == 1


def test_a_notebook():
    """Functions in a namespace that also has loops, bars, files and iterators."""
    scope = {"__name__": "__main__", "pyro": pyro, "dist": dist, "torch": torch, "dv": dv, "X": X}
    scope |= {f"held{n}": make() for n, make in enumerate(ITERATORS.values())}
    exec(
        """
def model(x):
    w = pyro.param("w", torch.ones(2).double())
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(w + torch.zeros_like(x), 1.0).to_event(1), obs=x)

def guide(x):
    pass

quiet = lambda message: None
svi = dv.CompiledSVI(model, guide, pyro.optim.Adam({"lr": 0.1}), pyro.infer.Trace_ELBO(), say=quiet)
rows = enumerate(X for _ in range(6))
losses = [svi.step(x) for _, x in rows]
""",
        scope,
    )
    assert scope["svi"].recorded == 1
    assert scope["losses"][0] > scope["losses"][-1]


def test_iterators_live_no_longer():
    class Held:
        pass

    held = Held()
    reference = weakref.ref(held)
    generator = (held for _ in range(3))
    next(generator)
    known = Iterators()
    known.end()
    assert known.not_advanced(generator)
    del held, generator
    assert reference() is None


@pytest.mark.parametrize("make", ITERATORS.values(), ids=ITERATORS)
def test_states(make):
    """The states of Python's built-in iterators, without advancing them."""
    iterator = make()
    known = Iterators()
    known.end()
    assert known.not_advanced(iterator)
    if not hasattr(type(iterator).__next__, "__code__") and hasattr(iterator, "__reduce__"):
        known = Iterators()
        try:
            iterator.__reduce__()
        except TypeError:
            return
        if isinstance(iterator, (zip, map)):  # their state is that of their inputs
            return
        next(iterator)
        known.end()
        assert not known.not_advanced(iterator)


def test_a_weak_proxy_that_outlived_its_object():
    class Owner:
        pass

    owner = Owner()
    dead = weakref.proxy(owner)
    del owner
    found = Iterators()
    found.end()
    assert not found.not_advanced(dead)
