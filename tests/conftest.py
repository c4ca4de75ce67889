import gc
import os
import signal
from functools import partial

import commands
import pyro
import pytest
import torch

from pyro_dvae import plots

# A background job of a shell ignores Ctrl-C; the tests and their processes would ignore it too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The tests' tensors are tiny, so a second thread costs more than it saves.
torch.set_num_threads(1)

# No test needs to survive a power cut, and fsync takes milliseconds per file.
os.fsync = lambda descriptor: None


def pytest_collection_finish():
    """Hide ten thousand collected tests from the garbage collector, whose objects each recording visits."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _fresh_pyro():
    """Give each test a seed, an empty param store and Pyro's validation."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    pyro.enable_validation(True)
    with pyro.settings.context(module_local_params=False):
        yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def call(capsys):
    """``pyro-dvae`` in this process, which returns what it printed."""
    return partial(commands.call, capsys=capsys)


@pytest.fixture
def figures(monkeypatch):
    """The figures that were written, for inspection."""
    pytest.importorskip("matplotlib")
    seen = []
    write = plots.write_figure

    def note(path, drawn):
        first = drawn[0] if isinstance(drawn, list) else drawn
        seen.append(first.figure.figure)
        return write(path, drawn)

    monkeypatch.setattr(plots, "write_figure", note)
    return seen


@pytest.fixture
def bfloat16_pays(monkeypatch):
    """A processor that is faster in bfloat16; that of the tests may be slower."""
    from pyro_dvae.engine import kernels

    monkeypatch.setattr(kernels, "pays", lambda: True)


@pytest.fixture
def interpreted(monkeypatch):
    """Recorded steps run operation by operation, without the compiler, which has its own tests."""
    from pyro_dvae.engine import compiler

    monkeypatch.setattr(compiler, "_compiled", lambda graph, example: compiler.interpret(graph))
