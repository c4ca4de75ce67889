"""Users' optimizers: where they keep their state, and those that hold other optimizers."""

from functools import partial

import pytest
import torch
from small_runs import assert_resumes, run, trainer
from torch.optim import SGD, Adam, Optimizer, RMSprop

import pyro_dvae as dv

pytestmark = pytest.mark.usefixtures("interpreted")


class Decaying(SGD):
    """SGD whose rate is divided by its number of steps."""

    def count(self):
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure=None):
        count = self.count()
        for group in self.param_groups:
            for leaf in group["params"]:
                leaf.sub_(leaf.grad, alpha=group["lr"] / count)


class CountsInState(Decaying):
    """The count has a key of its own, which torch allows."""

    def count(self):
        own = self.state["own"]
        own["count"] = own.get("count", 0) + 1
        return own["count"]


class CountsInGroups(Decaying):
    """The count is an entry of the groups that the first step adds."""

    def count(self):
        for group in self.param_groups:
            group["count"] = group.get("count", 0) + 1
        return self.param_groups[0]["count"]


class TwoKinds(Optimizer):
    """One optimizer for matrices and one for vectors."""

    def __init__(self, groups, lr=0.01):
        super().__init__(groups, {"lr": lr})
        leaves = [leaf for group in self.param_groups for leaf in group["params"]]
        matrices, vectors = ([leaf for leaf in leaves if leaf.ndim == n] for n in (2, 1))
        self.parts = [SGD(matrices, lr=lr, momentum=0.9), Adam(vectors, lr=lr)]
        self.share()

    def share(self):
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def step(self, closure=None):
        for part in self.parts:
            part.step()


class Saved(TwoKinds):
    def state_dict(self):
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state):
        for part, own in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(own)
        self.share()


class KeepsOldGroups(Saved):
    def load_state_dict(self, state):
        kept = self.param_groups
        super().load_state_dict(state)
        self.param_groups = kept


class HidesGroups(Saved):
    def share(self):
        pass


@pytest.mark.parametrize("kind", [CountsInState, CountsInGroups, Saved])
@pytest.mark.parametrize("compiled", [False, True])
def test_users_optimizers_resume(tmp_path, kind, compiled):
    more = {"compile": compiled}
    assert_resumes(tmp_path, lambda: {"optimizer": kind, "schedule": "step", "learning_rate": 1e-3} | more, 7)


def test_a_schedule_reaches_the_optimizers_that_another_holds():
    made = run(trainer(optimizer=Saved, schedule=lambda epoch, epochs: 0.5**epoch, learning_rate=1e-3))
    rates = [group["lr"] for part in made._run.update.optimizer.parts for group in part.param_groups]
    assert rates == pytest.approx([1e-3 / 8] * 2)


def test_state_that_would_be_lost_is_refused_before_the_first_step(tmp_path):
    with pytest.raises(dv.InputError, match=r"TwoKinds holds other optimizers, whose state .* state_dict"):
        trainer(optimizer=TwoKinds, checkpoint=tmp_path / "c")
    run(trainer(optimizer=TwoKinds, epochs=1))
    with pytest.raises(dv.InputError, match=r"HidesGroups holds other optimizers; its param_groups must be"):
        trainer(optimizer=HidesGroups)


@pytest.mark.parametrize(
    ("kind", "rate", "message"),
    [
        (Saved, 0.1, "Saved has a state_dict of its own, so its settings cannot change"),
        (KeepsOldGroups, 0.02, "after load_state_dict, optimizer: .* its param_groups must be"),
    ],
)
def test_a_state_dict_of_its_own_that_cannot_be_used(tmp_path, kind, rate, message):
    options = {"optimizer": kind, "checkpoint": tmp_path / "c", "epochs": 1}
    run(trainer(**options))
    options |= {"resume": True, "may_change": ("learning_rate", "optimizer")}
    with pytest.raises(dv.CheckpointError, match=message):
        trainer(learning_rate=rate, **options)


@pytest.mark.parametrize("begun", [0, 5])
@pytest.mark.parametrize("kind", [Adam, SGD])
def test_hooks_of_an_optimizer_are_called_in_compiled_runs(kind, begun):
    """Also hooks that are registered during the run."""

    def clamp(optimizer, arguments, options):
        with torch.no_grad():
            for leaf in optimizer.param_groups[0]["params"]:
                leaf.clamp_(-0.01, 0.01)

    class Hooks(dv.Callback):
        def step(self, run):
            if run.step == begun:
                made._run.optimizer.register_step_post_hook(clamp)

    def optimizer(leaves):
        found = kind(leaves, lr=0.01)
        if begun == 0:
            found.register_step_post_hook(clamp)
        return found

    made = trainer(optimizer=optimizer, compile=True, callbacks=[Hooks()], epochs=2)
    assert all(leaf.abs().max() <= 0.01 for leaf in run(made).parameters.values())


@pytest.mark.parametrize(
    ("before", "after"),
    [(Adam, partial(Adam, amsgrad=True)), (RMSprop, partial(RMSprop, momentum=0.9, centered=True))],
)
@pytest.mark.parametrize("compiled", [False, True])
def test_options_that_need_further_moments_begin_with_new_ones(tmp_path, before, after, compiled):
    options = {"checkpoint": tmp_path / "c", "may_change": ("epochs", "optimizer"), "compile": compiled}
    begun = run(trainer(optimizer=before, epochs=2, **options))
    resumed = trainer(optimizer=after, epochs=3, resume=True, **options)
    assert not resumed._run.update.optimizer.state
    for name, leaf in begun.parameters.items():
        assert torch.equal(leaf, resumed.parameters[name])
    run(resumed)
