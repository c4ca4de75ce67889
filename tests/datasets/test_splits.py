import pytest
import torch

from pyro_dvae.datasets.base import permuted_split


def test_parts_are_disjoint_and_cover_everything():
    parts = permuted_split(100, (80, 15, 5), seed=3)
    assert [len(part) for part in parts] == [80, 15, 5]
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(100))


def test_the_seed_decides():
    first, again, other = (permuted_split(50, (40, 5, 5), seed)[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_split_is_frozen_across_versions():
    assert torch.cat(permuted_split(6, (4, 1, 1), seed=0)).tolist() == [5, 2, 1, 3, 0, 4]


def test_it_mixes_the_order():
    (train, _) = permuted_split(1000, (500, 500), seed=0)
    # 500 drawn of 1000 without replacement: hypergeometric; 5 standard errors.
    assert abs(int((train < 500).sum()) - 250) < 5 * (1000 / 16 * 1000 / 999) ** 0.5


def test_sizes_have_to_add_up():
    with pytest.raises(ValueError, match=r"sum of 10, got \[4, 4\]"):
        permuted_split(10, (4, 4), seed=0)
