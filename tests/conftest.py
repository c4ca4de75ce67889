import pyro
import pytest
import torch

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
