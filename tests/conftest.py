import gc
import os
import signal
from functools import partial

import commands
import pyro
import pytest
import torch

from pyro_dvae import plots

# A shell's background job ignores Ctrl-C, and so would the tests of it and every process that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The tests' tensors are tiny: a second thread costs more than it brings.
torch.set_num_threads(1)

# No test survives a power cut, and waiting for the disk takes milliseconds a file.
os.fsync = lambda descriptor: None


def pytest_collection_finish():
    """Hide ten thousand collected tests from the garbage collector: each recording goes through the rest."""
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
