"""Training on the batches of a loader: its own order and sizes, and resuming in the middle of an epoch."""

import copy
import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, TensorDataset

import pyro_dvae as dv
from pyro_dvae.rows import LoaderBatches

N, D = 20, 3


def data():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(N, D, generator=generator), torch.randn(N, generator=generator)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.decode, self.encode = nn.Linear(2, D), nn.Linear(D, 2)

    def model(self, x, y=0.0):
        pyro.module("pair", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))
            mean = self.decode(z) + torch.as_tensor(y).unsqueeze(-1)
            pyro.sample("x", dist.Normal(mean, 1).to_event(1), obs=x)

    def guide(self, x, y=0.0):
        with pyro.plate("data", len(x)):
            noisy = dv.corrupt("noisy", dv.GaussianNoise(0.5), x)
            pyro.sample("z", dist.Normal(self.encode(noisy), 0.5).to_event(1))


class Batches:
    """An iterable of batches without a length."""

    def __init__(self, *parts, size=6):
        self.parts, self.size = parts, size

    def __iter__(self):
        return zip(*(part.split(self.size) for part in self.parts), strict=True)


class Places(Batches):
    """The same with a position that it can return, like torchdata's StatefulDataLoader."""

    def __init__(self, *parts, size=6):
        super().__init__(*parts, size=size)
        self.generator = torch.Generator().manual_seed(4)
        self.order, self.start, self.done = None, 0, 0

    def __iter__(self):
        start, self.start = self.start, 0
        if not start:
            self.order = torch.randperm(len(self.parts[0]), generator=self.generator)
        for number, rows in enumerate(self.order.split(self.size)):
            if number >= start:
                self.done = number + 1
                yield tuple(part[rows] for part in self.parts)
        self.done = 0

    def state_dict(self):
        return {
            "order": self.order,
            "done": self.done,
            "generator": self.generator.get_state(),
            "more": [(1, b"two"), {3: None}],
        }

    def load_state_dict(self, state):
        assert state["more"] == [(1, b"two"), {3: None}]
        self.order, self.start = state["order"], state["done"]
        self.generator.set_state(state["generator"])


def trainer(pair, loader, **options):
    options = {"epochs": 3, "learning_rate": 0.01, "progress": False, "compile": False} | options
    return dv.Trainer(pair.model, pair.guide, loader, loss=dv.TraceDenoising_ELBO(), **options)


def run(trainer, batches=None):
    seen = []
    for epoch in trainer:
        for batch in itertools.islice(epoch, None if batches is None else batches - len(seen)):
            trainer.step(batch)
            seen.append(batch)
        if len(seen) == batches:
            break
    return seen


def weights(pair):
    return [each.detach().clone() for each in pair.parameters()]


def one_epoch(loop):
    """Train until the second epoch begins, after the checkpoint of the first, and release the files."""
    for epoch in loop:
        if epoch.number == 2:
            break
        for batch in epoch:
            loop.step(batch)
    loop._files.release()


def same(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


@pytest.fixture(autouse=True)
def _fresh():
    pyro.clear_param_store()
    pyro.set_rng_seed(1)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("compile_", [False, True])
def test_steps_equal_those_on_its_batches(compile_):
    """Training with a loader equals a plain loop of steps on the same batches with the same noise."""
    x, y = data()
    pair = Pair()
    loop = trainer(pair, Batches(x, y), compile=compile_)
    seen = run(loop)
    assert [len(batch[0]) for batch in seen] == [6, 6, 6, 2] * 3
    same([part for batch in seen[:4] for part in batch], [part for batch in Batches(x, y) for part in batch])
    assert loop.history.epochs == [1, 2, 3]
    if compile_:
        return
    pyro.clear_param_store()
    pyro.set_rng_seed(1)
    other = Pair()
    optimizer = torch.optim.Adam(other.parameters(), lr=0.01)
    for batch in seen:
        optimizer.zero_grad()
        dv.TraceDenoising_ELBO().differentiable_loss(other.model, other.guide, *batch).backward()
        optimizer.step()
    for a, b in zip(weights(pair), weights(other), strict=True):
        torch.testing.assert_close(a, b)


class Streamed(IterableDataset):
    def __init__(self, x):
        self.x = x

    def __iter__(self):
        return iter(self.x)


def test_an_iterable_data_set_and_its_loader():
    x, _ = data()
    loader = DataLoader(Streamed(x), batch_size=6)
    pair = Pair()
    fitted = dv.fit(
        pair.model, pair.guide, loader, loss=dv.TraceDenoising_ELBO(), epochs=2, progress=False, validation=x
    )
    assert len(fitted.history.epochs) == 2
    a, b = (
        dv.evaluate_bound(pair.model, pair.guide, each, loss=dv.TraceDenoising_ELBO(), seed=1).per_datum
        for each in (loader, x)
    )
    assert torch.equal(a, b)


@pytest.mark.parametrize("after", [2, 4, 6])
def test_a_loader_that_stores_its_position_resumes_bit_for_bit(tmp_path, after):
    x, y = data()
    whole = Pair()
    seen = run(trainer(whole, Places(x, y)))
    pyro.clear_param_store()
    pyro.set_rng_seed(1)
    path = tmp_path / "run.ckpt"
    begun = trainer(Pair(), Places(x, y), checkpoint=path)
    run(begun, after)
    begun.save()
    begun._files.release()
    pyro.clear_param_store()
    pyro.set_rng_seed(99)
    second = Pair()
    rest = run(trainer(second, Places(x, y), checkpoint=path, resume=True))
    same([part for batch in rest for part in batch], [part for batch in seen[after:] for part in batch])
    same(weights(second), weights(whole))


class InOneOrder(IterableDataset):
    """Rows in a different order in each epoch; the loader stores its position."""

    def __init__(self, x):
        self.x, self.generator = x, torch.Generator().manual_seed(3)
        self.order, self.done = None, 0

    def __iter__(self):
        if self.order is None:
            self.order = torch.randperm(len(self.x), generator=self.generator)
        while self.done < len(self.x):
            self.done += 1
            yield self.x[self.order[self.done - 1]]
        self.order, self.done = None, 0

    def state_dict(self):
        return {"order": self.order, "done": self.done, "generator": self.generator.get_state()}

    def load_state_dict(self, state):
        self.order, self.done = state["order"], state["done"]
        self.generator.set_state(state["generator"])


TORCHDATA = {
    "in order": lambda made, x, y: made(TensorDataset(x, y), 6),
    "shuffled": lambda made, x, y: made(TensorDataset(x, y), 6, shuffle=True),
    "a generator": lambda made, x, y: made(
        TensorDataset(x, y), 6, shuffle=True, generator=torch.Generator().manual_seed(5)
    ),
    "workers": lambda made, x, y: made(TensorDataset(x, y), 6, shuffle=True, num_workers=2),
    "iterable": lambda made, x, y: made(InOneOrder(x), 6),
}


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if kind == "workers" else ()) for kind in TORCHDATA]
)
def test_torchdatas_loader_resumes_bit_for_bit(tmp_path, kind):
    """Stopped within the first epoch, at its end, within the second, and between two epochs."""
    torchdata = pytest.importorskip("torchdata.stateful_dataloader")
    path = tmp_path / "run.ckpt"

    def begun(**options):
        pyro.clear_param_store()
        pair = Pair()
        pyro.set_rng_seed(1)
        made = TORCHDATA[kind](torchdata.StatefulDataLoader, *data())
        return pair, trainer(pair, made, **options)

    whole, loop = begun()
    seen = [torch.cat([part.flatten() for part in batch]) for batch in run(loop)]
    for after in (2, 4, 6, 9):
        _, loop = begun(checkpoint=path)
        run(loop, after)
        loop.save()
        loop._files.release()
        second, loop = begun(checkpoint=path, resume=True)
        pyro.set_rng_seed(99)
        rest = [torch.cat([part.flatten() for part in batch]) for batch in run(loop)]
        same(rest, seen[after:])
        same(weights(second), weights(whole))
    # Between epochs, as in the checkpoint after each.
    _, loop = begun(checkpoint=path)
    one_epoch(loop)
    second, loop = begun(checkpoint=path, resume=True)
    assert len(run(loop)) == 8
    same(weights(second), weights(whole))
    assert not torch.equal(seen[0], seen[4]) or kind == "in order"


@pytest.mark.parametrize("own", [False, True])
def test_a_dry_run_leaves_the_order_of_a_loader(own):
    x, _ = data()

    def loader():
        generator = torch.Generator().manual_seed(5) if own else None
        return DataLoader(TensorDataset(x), batch_size=6, shuffle=True, generator=generator)

    pyro.set_rng_seed(1)
    expected = [rows for (rows,) in loader()]
    pair = Pair()
    pyro.set_rng_seed(1)
    loop = trainer(pair, loader(), epochs=1)
    assert loop.steps_per_epoch == 4
    same(run(loop), expected)


def test_one_that_does_not_begins_its_epoch_again_and_says_so(tmp_path):
    x, y = data()
    path = tmp_path / "run.ckpt"
    begun = trainer(Pair(), Batches(x, y), checkpoint=path)
    run(begun, 6)
    begun.save()
    begun._files.release()
    pyro.clear_param_store()
    with pytest.warns(UserWarning, match=r"no state_dict, so epoch 2 starts again with its first batch"):
        again = trainer(Pair(), Batches(x, y), checkpoint=path, resume=True)
    assert len(run(again)) == 8
    assert again.history.epochs == [1, 2, 3]


def sampled(x):
    generator = torch.Generator().manual_seed(6)
    return DataLoader(x, 6, sampler=RandomSampler(x, generator=generator))


def batch_sampled(x):
    sampler = RandomSampler(x, generator=torch.Generator().manual_seed(6))
    return DataLoader(x, batch_sampler=BatchSampler(sampler, 6, drop_last=False))


PLAIN = {
    "global": lambda x: DataLoader(x, 6, shuffle=True),
    "generator": lambda x: DataLoader(x, 6, shuffle=True, generator=torch.Generator().manual_seed(5)),
    "sampler": sampled,
    "batch sampler": batch_sampled,
}


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("after", ["4 steps", "1 epoch"])
def test_a_plain_loader_resumes_exactly_after_an_epoch(tmp_path, kind, after):
    """Also from a checkpoint after the last batch of an epoch, before its validation."""
    path = tmp_path / "run.ckpt"

    def begun(**options):
        pyro.clear_param_store()
        pair = Pair()
        pyro.set_rng_seed(1)
        return pair, trainer(pair, PLAIN[kind](data()[0]), **options)

    whole, loop = begun()
    seen = run(loop)
    assert not torch.equal(seen[0], seen[4])
    _, loop = begun(checkpoint=path)
    if after == "4 steps":
        run(loop, 4)
        loop.save()
        loop._files.release()
    else:
        one_epoch(loop)
    second, loop = begun(checkpoint=path, resume=True)
    same(run(loop), seen[4:])
    assert loop.history.epochs == [1, 2, 3]
    same(weights(second), weights(whole))


def test_the_place_of_a_loader_is_plain_data(tmp_path):
    loader = Places(*data())
    loader.state_dict = lambda: {"object": object()}
    loader.load_state_dict = lambda state: None
    loop = trainer(Pair(), loader, checkpoint=tmp_path / "run.ckpt")
    with pytest.raises(dv.InputError, match=r"^data: the state_dict of the loader holds a object"):
        run(loop)


def test_a_place_without_an_entry_is_refused():
    rows = LoaderBatches("data", DataLoader(TensorDataset(data()[0])), torch.float32)
    for missing, rest in (("generators", {"loader": None}), ("loader", {"generators": []})):
        with pytest.raises(dv.CheckpointError, match=f"^the place of its loader has no {missing}$"):
            rows.go_to(rest)


def test_what_a_loader_cannot_be_used_for():
    x, y = data()
    pair, loss = Pair(), dv.TraceDenoising_ELBO()
    with pytest.raises(dv.InputError, match=r"^drop_last: a loader makes its own batches"):
        trainer(pair, Batches(x, y), drop_last=True)
    with pytest.raises(dv.InputError, match=r"^data: got a loader and further data arguments"):
        dv.fit(pair.model, pair.guide, Batches(x), y, loss=loss, epochs=1)
    with pytest.raises(dv.InputError, match=r"^data: expected at least one batch, got none"):
        trainer(pair, EMPTY)
    with pytest.raises(dv.InputError, match=r"^data: expected batches of tensors .*, got a dict of 'x'"):
        trainer(pair, NAMED)


class Of:
    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(copy.copy(self.batches))


EMPTY, NAMED = Of([]), Of([{"x": torch.ones(2, D)}])


def test_a_loader_of_uneven_batches_is_gathered_for_a_likelihood():
    x, y = data()
    pair = Pair()
    a, b = (
        dv.log_likelihood(pair.model, pair.guide, *each, num_samples=20, seed=1).log_likelihood
        for each in ((Batches(x, y),), (x, y))
    )
    assert torch.equal(a, b)


def test_a_batch_sampler_chooses_its_rows():
    x, _ = data()
    pair, loss = Pair(), dv.TraceDenoising_ELBO()
    chosen = [[3, 1], [5]]
    loader = DataLoader(TensorDataset(x), batch_sampler=chosen)
    few = TensorDataset(x[[3, 1, 5]])
    a, b = (
        dv.evaluate_bound(lambda x: pair.model(x, 0), lambda x: pair.guide(x, 0), each, loss=loss, seed=1)
        for each in (loader, few)
    )
    assert torch.equal(a.per_datum, b.per_datum)


def test_a_sparse_batch_is_refused_by_name():
    pair, x = Pair(), data()[0]
    loader = DataLoader(TensorDataset(x), batch_size=5, collate_fn=lambda rows: x[: len(rows)].to_sparse())
    with pytest.raises(dv.InputError, match=r"^data: expected a dense tensor, got torch.sparse_coo; call"):
        dv.fit(pair.model, pair.guide, loader, loss=dv.TraceDenoising_ELBO(), epochs=1, progress=False)
