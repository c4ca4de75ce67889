import signal

import pyro
import pytest
import torch

# A shell's background job ignores Ctrl-C, and so would the tests of it and every process that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The tests' tensors are tiny: a second thread costs more than it brings.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _fresh_pyro():
    """Give each test a seed, an empty param store and Pyro's validation."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    pyro.enable_validation(True)
    with pyro.settings.context(module_local_params=False):
        yield
    torch.set_default_dtype(torch.float32)
