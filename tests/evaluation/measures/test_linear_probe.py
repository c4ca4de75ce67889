import json
import math
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from measured_problems import Hierarchy, Mixed, binary, linear_gaussian, normal

from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.measures import linear_probe


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x, 1.0).to_event(1))


def clusters(count, seed=1, spread=0.1):
    labels = torch.arange(count) % 3
    return 2 * torch.eye(3, dtype=torch.float64)[labels] + spread * normal(count, 3, seed=seed), labels + 4


def test_separable_classes_are_read_without_error():
    found = linear_probe(model, guide, *clusters(90), *clusters(31, seed=2))
    assert (found.train_accuracy, found.test_accuracy, found.test_standard_error) == (1.0, 1.0, 0.0)
    assert (found.num_classes, found.num_features, found.num_train, found.num_test) == (3, 3, 90, 31)
    assert found.majority_accuracy == pytest.approx(11 / 31)
    assert found.converged


def test_shuffled_labels_are_near_chance():
    (x, labels), (test_x, test_labels) = clusters(900), clusters(600, seed=2)
    shuffled = labels[torch.randperm(900, generator=torch.Generator().manual_seed(3))]
    order = torch.randperm(600, generator=torch.Generator().manual_seed(4))
    found = linear_probe(model, guide, x, shuffled, test_x, test_labels[order])
    assert found.test_standard_error == pytest.approx(
        math.sqrt(found.test_accuracy * (1 - found.test_accuracy) / 600)
    )
    assert abs(found.test_accuracy - 1 / 3) < 4 * found.test_standard_error


def test_the_baseline_is_the_commonest_train_class():
    x, test_x = normal(10, 3), normal(8, 3, seed=2)
    labels, test_labels = torch.tensor([5] * 7 + [2] * 3), torch.tensor([2] * 5 + [5] * 2 + [9])
    assert linear_probe(model, guide, x, labels, test_x, test_labels).majority_accuracy == 2 / 8


def test_all_latents_are_read():
    problem, x = Mixed(), binary(60)
    found = linear_probe(problem.model, problem.guide, x, x[:, 0].long(), x, x[:, 0].long(), num_samples=2)
    assert found.num_features == 2 + 1 + 4
    assert found.test_accuracy == 1.0


def test_no_more_than_max_train_rows_are_fitted():
    x, labels = clusters(3000)
    found = linear_probe(model, guide, x, labels, *clusters(30, seed=2), max_train=60, seed=1)
    assert (found.num_train, found.test_accuracy) == (60, 1.0)
    assert linear_probe(model, guide, x, labels, x, labels, max_train=None).num_train == 3000


def test_same_seed_same_probe():
    problem = Hierarchy()
    x, labels = clusters(300, spread=3.0)
    before = torch.get_rng_state()

    def probe(seed):
        return linear_probe(
            problem.model, problem.guide, x, labels, x, labels, max_train=50, num_samples=2, seed=seed
        )

    assert probe(1) == probe(1)
    assert probe(1) != probe(2)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_fit_cut_short_says_so():
    found = linear_probe(model, guide, *clusters(90, spread=2.0), *clusters(30), c=1e4, max_iter=1)
    assert not found.converged
    assert str(found).endswith("; the fit did not converge")
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_dead_unit_does_not_disturb():
    problem, x = linear_gaussian(30)
    with torch.no_grad():
        problem.A[0] = 0.0
    labels = (x @ problem.A[1].detach() > 0).long()
    assert linear_probe(problem.model, problem.guide, x, labels, x, labels).train_accuracy > 0.9


X, Y = torch.zeros(4, 3), torch.tensor([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train_labels": Y[:3]}, r"train_labels: expected one label for each of 4 rows, got \(3,\)"),
        ({"test_labels": Y[None]}, r"test_labels: expected one label for each of 4 rows, got \(1, 4\)"),
        ({"train_labels": Y.float()}, "train_labels: expected whole numbers, got torch.float32"),
        ({"test_labels": [0, 1, 0, 1]}, "test_labels: expected a tensor, got list"),
        ({"train_labels": torch.full((4,), 7)}, "train_labels: expected at least 2 classes, got 7 alone"),
        ({"train_x": X[:0]}, "train_x: expected at least one element"),
        ({"test_x": torch.full((4, 3), math.nan)}, "test_x: expected finite values"),
        ({"test_x": X[:, :2]}, r"test_x: expected data of shape \(3,\) as in train_x, got \(2,\)"),
        ({"c": 0.0}, "c: "),
        ({"max_iter": 0}, "max_iter: "),
        ({"max_train": 1}, "max_train: "),
        ({"num_samples": 0}, "num_samples: "),
    ],
)
def test_bad_input_of_linear_probe(changed, message):
    arguments = {"train_x": X, "train_labels": Y, "test_x": X, "test_labels": Y, **changed}
    with pytest.raises(InputError, match=f"^{message}"):
        linear_probe(model, guide, **arguments)


def test_a_missing_scikit_learn_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(InputError, match=r"needs the package scikit-learn .*pip install scikit-learn"):
        linear_probe(model, guide, *clusters(9), *clusters(9))
