"""Every entry point cuts several data arguments together and passes keyword arguments unchanged."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pyro_dvae as dv
from pyro_dvae.evaluation import measures

N, D = 22, 3


def data(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(N, D, generator=generator), torch.randint(0, 2, (N,), generator=generator)


class Conditional(nn.Module):
    """p(z) p(x | z, y), with a matrix passed as a whole; ``joined`` takes rows [x, y] in one tensor."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.decode, self.encode = nn.Linear(3, D), nn.Linear(D + 1, 2)
        self.corruption = dv.GaussianNoise(0.5)

    def model(self, x, y, *, matrix=None):
        pyro.module("pair", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))
            # Draws come in dimensions to the left.
            label = y.to(z).unsqueeze(-1).expand(*z.shape[:-1], 1)
            mean = self.decode(torch.cat([z, label], -1))
            mean = mean if matrix is None else mean @ matrix
            pyro.sample("x", dist.Normal(mean, 1).to_event(1), obs=x)

    def guide(self, x, y, *, matrix=None):
        with pyro.plate("data", len(x)):
            noisy = dv.corrupt("noisy", self.corruption, x)
            label = y.to(noisy).unsqueeze(-1).expand(*noisy.shape[:-1], 1)
            pyro.sample("z", dist.Normal(self.encode(torch.cat([noisy, label], -1)), 0.5).to_event(1))


MATRIX = torch.eye(D) + 0.1


def joined(pair):
    """Return the pair as functions of one tensor, with the matrix built in."""

    def model(rows):
        return pair.model(rows[..., :D], rows[..., D], matrix=MATRIX)

    def guide(rows):
        return pair.guide(rows[..., :D], rows[..., D], matrix=MATRIX)

    return model, guide


def rows():
    x, y = data()
    return torch.cat([x, y[:, None].to(x)], 1)


def same(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


def trained(apart, **options):
    pyro.clear_param_store()
    pair = Conditional()
    pyro.set_rng_seed(3)
    options = {"epochs": 3, "batch_size": 5, "progress": False, "learning_rate": 0.01} | options
    loss = dv.TraceDenoising_ELBO(num_particles=2, max_plate_nesting=1)
    if apart:
        held_out = tuple(part[:7] for part in data())
        fitted = dv.fit(
            pair.model, pair.guide, *data(), loss=loss, validation=held_out, matrix=MATRIX, **options
        )
        assert fitted.model == pair.model
    else:
        fitted = dv.fit(*joined(pair), rows(), loss=loss, validation=rows()[:7], **options)
    return [
        *(each.detach().clone() for each in pair.parameters()),
        *map(torch.tensor, fitted.history.train_bound),
    ]


def test_training_equals_that_of_one_tensor():
    same(trained(True), trained(False))


@pytest.mark.slow
@pytest.mark.usefixtures("interpreted")
def test_recorded_training_equals_that_of_one_tensor():
    same(trained(True, compile=True, epochs=2), trained(False, compile=True, epochs=2))


@pytest.mark.usefixtures("interpreted")
@pytest.mark.slow
def test_several_models_equal_those_of_one_tensor():
    found = []
    options = {"epochs": 1, "batch_size": 11, "progress": False, "loss": dv.TraceDenoising_ELBO()}
    for apart in (True, False):
        pyro.clear_param_store()
        pairs = [Conditional(), Conditional()]
        if apart:
            x, y = data()
            held_out = (x[:4], y[:4])
            each = [(pair.model, pair.guide) for pair in pairs]
            other = [y, 1 - y]
            dv.fit_many(each, x, other, validation=held_out, matrix=MATRIX, **options)
        else:
            second = rows()
            second[:, D] = 1 - second[:, D]
            dv.fit_many([joined(pair) for pair in pairs], [rows(), second], validation=rows()[:4], **options)
        found.append([leaf.detach().clone() for pair in pairs for leaf in pair.parameters()])
    same(*found)


def test_a_run_stopped_within_an_epoch_resumes_bit_for_bit(tmp_path):
    def trainer(pair, **options):
        loss = dv.TraceDenoising_ELBO()
        options = {"epochs": 3, "batch_size": 5, "progress": False, "matrix": MATRIX} | options
        return dv.Trainer(pair.model, pair.guide, *data(), loss=loss, **options)

    def run(trainer, batches=math.inf):
        for epoch in trainer:
            for batch in epoch:
                assert [len(part) for part in batch] == [len(batch[0])] * 2
                trainer.step(batch)
                batches -= 1
                if not batches:
                    return

    pyro.clear_param_store()
    whole = Conditional()
    pyro.set_rng_seed(1)
    run(trainer(whole))
    path = tmp_path / "run.ckpt"
    pyro.clear_param_store()
    first = Conditional()
    pyro.set_rng_seed(1)
    begun = trainer(first, checkpoint=path)
    run(begun, 7)
    begun.save()
    begun._files.release()
    pyro.clear_param_store()
    second = Conditional()
    run(trainer(second, checkpoint=path, resume=True))
    same(second.parameters(), whole.parameters())
    x, y = data()
    pyro.clear_param_store()
    pair, loss = Conditional(), dv.TraceDenoising_ELBO()
    changed = y.clone()
    changed[4] += 1
    options = {"epochs": 3, "batch_size": 5, "progress": False, "checkpoint": path, "resume": True}
    with pytest.raises(dv.CheckpointError, match=r"from other data: train\[1\].sum"):
        dv.Trainer(pair.model, pair.guide, x, changed, loss=loss, matrix=MATRIX, **options)


DOORS = {
    "evaluate_bound": lambda m, g, *x, **k: (
        dv.evaluate_bound(
            m, g, *x, loss=dv.TraceDenoisingIWAE_ELBO(num_particles=3), clean=False, seed=3, batch_size=6, **k
        ).per_datum
    ),
    "bounds_report": lambda m, g, *x, **k: (
        dv.bounds_report(
            m, g, *x, num_mixture=2, num_particles=2, num_corruptions=2, num_samples=20, seed=3, **k
        )["pooled_2"].estimate.per_datum
    ),
    "log_likelihood": lambda m, g, *x, **k: (
        dv.log_likelihood(m, g, *x, num_samples=30, seed=3, memory=20_000, **k).log_likelihood
    ),
    "annealed_log_likelihood": lambda m, g, *x, **k: (
        dv.annealed_log_likelihood(
            m, g, *x, num_steps=5, num_chains=2, leapfrog_steps=1, seed=3, memory=20_000, **k
        ).log_weight
    ),
    "latent_means": lambda m, g, *x, **k: measures.latent_means(
        m, g, *x, clean=False, num_samples=3, seed=3, batch_size=6, **k
    )["z"],
    "active_units": lambda m, g, *x, **k: measures.active_units(m, g, *x, seed=3, **k).activity["z"],
    "bound_parts": lambda m, g, *x, **k: measures.bound_parts(m, g, *x, seed=3, **k).reconstruction.per_datum,
    "reconstruction_error": lambda m, g, *x, **k: (
        measures.reconstruction_error(
            m, g, *x, seed=3, batch_size=6, num_samples=2, **k
        ).from_samples.squared.per_datum
    ),
    "binary_code": lambda m, g, *x, **k: measures.binary_code(m, g, *x, batch_size=6, **k).share,
    "linear_probe": lambda m, g, *x, **k: torch.tensor(
        measures.linear_probe(m, g, x, torch.arange(N) % 2, x, torch.arange(N) % 2, seed=3, **k).test_accuracy
    ),
}


@pytest.mark.parametrize("door", DOORS)
def test_measures_equal_those_of_one_tensor(door):
    pair = Conditional()
    found = DOORS[door](pair.model, pair.guide, *data(), matrix=MATRIX)
    same([found], [DOORS[door](*joined(pair), rows())])


def test_bidirectional_keeps_further_data():
    pair = Conditional()
    x, y = data()
    found = dv.bidirectional(
        pair.model, pair.guide, x, y, num_data=30, num_steps=60, num_chains=4, seed=1, matrix=MATRIX
    )
    # Given z, the mean of x is that of its own y: the simulated rows differ by the label's effect.
    labels = y[torch.arange(30) % N]
    simulated = found.x
    assert simulated.shape == (30, D)
    shift = (pair.decode.weight[:, 2] @ MATRIX).detach()
    gap = simulated[labels == 1].mean(0) - simulated[labels == 0].mean(0)
    assert float((gap - shift).abs().max()) < 5 * 1.5 * math.sqrt(2 / 12)
    assert abs(found.gap.mean) < 1


def test_what_cannot_be_cut_together_is_refused():
    pair, (x, y) = Conditional(), data()
    loss = dv.TraceDenoising_ELBO()
    words = "^data, further argument 1: expected 22 rows, as in data, got 21; pass by"
    for call in (
        lambda: dv.fit(pair.model, pair.guide, x, y[1:], loss=loss, epochs=1),
        lambda: dv.evaluate_bound(pair.model, pair.guide, x, y[1:], loss=loss),
        lambda: dv.fit_many([(pair.model, pair.guide)], x, y[1:], loss=loss),
    ):
        with pytest.raises(dv.InputError, match=words):
            call()
    with pytest.raises(
        dv.InputError, match=r"^validation: expected 2 parts, as the training data have, got 1"
    ):
        dv.fit(pair.model, pair.guide, x, y, loss=loss, epochs=1, validation=x)


def test_an_option_that_does_not_exist_is_named():
    pair, (x, y) = Conditional(), data()
    loss = dv.TraceDenoising_ELBO()
    words = "^epoch: neither an option, nor an argument of both model and guide; did you mean 'epochs'"
    with pytest.raises(dv.InputError, match=words):
        dv.fit(pair.model, pair.guide, x, y, loss=loss, epoch=1)
    with pytest.raises(dv.InputError, match=r"^learning_rates: .* did you mean 'learning_rate'"):
        dv.fit_many([(pair.model, pair.guide)], x, y, loss=loss, learning_rates=1)
    with pytest.raises(dv.InputError, match=r"^model, guide, data: TypeError: .*unexpected keyword argument"):
        dv.evaluate_bound(pair.model, pair.guide, x, y, loss=loss, sed=1)


class Local(nn.Module):
    """A linear-Gaussian pair with a local latent; ``size`` declares a larger plate, for mini-batches."""

    def __init__(self, size=None, batch=None):
        super().__init__()
        torch.manual_seed(0)
        self.encode = nn.Linear(D, D)
        self.corruption = dv.GaussianNoise(0.7)
        self.size, self.batch = size, batch

    def plate(self, x):
        if self.size is None:
            return pyro.plate("data", len(x))
        return pyro.plate("data", self.size, subsample_size=self.batch)

    def model(self, x):
        with self.plate(x) as rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(D), 1).to_event(1))
            pyro.sample("x", dist.Normal(z, 1).to_event(1), obs=x[rows])

    def guide(self, x):
        with self.plate(x) as rows:
            noisy = dv.corrupt("noisy", self.corruption, x[rows])
            pyro.sample("z", dist.Normal(self.encode(noisy), 0.5).to_event(1))


@pytest.mark.parametrize(
    "bound",
    [
        dv.TraceDenoising_ELBO(num_particles=2, max_plate_nesting=1),
        dv.TraceDenoisingIWAE_ELBO(num_particles=5, max_plate_nesting=1),
        dv.TraceDenoisingIWAE_ELBO(
            num_particles=3, num_corruptions=2, combine="mixture", max_plate_nesting=1
        ),
    ],
)
def test_mini_batches_by_hand_by_plate_and_by_loader_have_one_expectation(bound):
    x = torch.randn(1000, D, generator=torch.Generator().manual_seed(5)) * 1.4
    pyro.set_rng_seed(7)
    by_hand, by_plate = Local(), Local(size=1000, batch=100)
    loader = DataLoader(TensorDataset(x), batch_size=100, shuffle=True)

    def epoch(of):
        return torch.stack(list(of)).sum() / 1000

    def loss(pair, rows):
        return torch.as_tensor(bound.loss(pair.model, pair.guide, rows))

    found = {"by hand": [], "by loader": [], "by plate": []}
    with torch.no_grad():
        for _ in range(12):
            found["by hand"].append(epoch(loss(by_hand, rows) for rows in x.split(100)))
            found["by loader"].append(epoch(loss(by_hand, rows) for (rows,) in loader))
            found["by plate"].append(epoch(loss(by_plate, x) for _ in range(10)) / 10)
    means = {name: torch.stack(values) for name, values in found.items()}
    for name in ("by loader", "by plate"):
        a, b = means["by hand"], means[name]
        error = math.sqrt(float(a.var() + b.var()) / 12)
        assert abs(float(a.mean() - b.mean())) < 4.5 * error, name
        assert error < 0.05
