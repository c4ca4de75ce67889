import math

import pytest
import torch

from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.measures import bits_per_dim


def test_nats_become_bits():
    assert bits_per_dim(10 * math.log(2), 10) == pytest.approx(1.0, abs=1e-15)
    assert bits_per_dim(0.0, 3) == 0.0


def test_a_uniform_density_on_256_levels_is_8_bits():
    assert bits_per_dim(0.0, 784, levels=256) == 8.0
    assert bits_per_dim(0.0, 784, scale=256) == 8.0


def test_a_rescaled_density_has_the_bits_of_the_original():
    original = torch.distributions.Normal(torch.tensor(100.0, dtype=torch.float64), 30.0)
    rescaled = torch.distributions.Normal(torch.tensor(100 / 256, dtype=torch.float64), 30 / 256)
    x = torch.tensor([90.0, 130.0, 77.0], dtype=torch.float64)
    levels = bits_per_dim(-rescaled.log_prob(x / 256).sum(), 3, levels=256)
    torch.testing.assert_close(levels, bits_per_dim(-original.log_prob(x).sum(), 3))


def test_a_tensor_keeps_its_shape():
    nats = torch.tensor([[1.0, 2.0], [-3.0, math.inf]], dtype=torch.float64)
    torch.testing.assert_close(bits_per_dim(nats, 4), nats / (4 * math.log(2)))


@pytest.mark.parametrize(
    ("args", "options", "name"),
    [
        ((math.nan, 3), {}, "nats_per_datum"),
        ((torch.tensor([math.nan]), 3), {}, "nats_per_datum"),
        ((torch.tensor([1]), 3), {}, "nats_per_datum"),
        ((1.0, 0), {}, "num_dimensions"),
        ((1.0, 3), {"scale": 0.0}, "scale"),
        ((1.0, 3), {"levels": 1}, "levels"),
        ((1.0, 3), {"levels": 256.0}, "levels"),
        ((1.0, 3), {"levels": 256, "scale": 255.0}, "levels"),
    ],
)
def test_bad_input_of_bits_per_dim(args, options, name):
    with pytest.raises(InputError, match=f"^{name}: "):
        bits_per_dim(*args, **options)
