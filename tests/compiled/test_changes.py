"""Everything that can change between two steps, in one table: a compiled step never differs silently.

Each entry is a program and a change that is made before some step. The losses of ``CompiledSVI``, of a loop
on ``compile_loss``, and of ``fit(compile=True)`` must be those of Pyro's ``SVI`` and of
``fit(compile=False)``, as far as they go; ``expected`` says how:

- "compiled": from recordings, without a warning;
- "ordinary": uncompiled, with one warning ("uncompiled steps": where the optimizer is compiled too);
- "stopped": by :class:`CompiledStepError` at the first comparison with the program (step 10).
"""

import contextvars
import functools
import itertools
import os
import random
import threading
import time
import types
import warnings
import weakref
from collections import deque
from contextlib import nullcontext
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from each_epoch import BeforeEpoch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from torch import nn

import pyro_dvae as dv
from pyro_dvae.engine.reading import fingerprint

pytestmark = pytest.mark.usefixtures("interpreted")

X = torch.linspace(-1, 2, 12, dtype=torch.float64).reshape(6, 2)
STEPS = 8
CHANGED_AT = 5  # when recordings are in use
TABLE = {}


@dataclass
class Case:
    """A program and the changes around its steps.

    :param model: of a batch and further arguments.
    :param change: called with the number of a step (from 0) before it.
    :param around: of a step: a context.
    :param arguments: of a step, in place of the data.
    :param also: looked at after the steps: must be the same too.
    """

    model: object
    change: object = lambda step: None
    around: object = lambda step: nullcontext()
    arguments: object = None
    also: object = lambda: None
    guide: object = field(default=lambda *args, **kwargs: None)


def entry(expected, steps=STEPS):
    def note(make):
        TABLE[make.__name__.replace("_", " ")] = (make, expected, steps)
        return make

    return note


def model_of(factor):
    """Return a model whose loss depends on a factor, computed from the data or from elsewhere."""

    def model(x, *rest):
        w = pyro.param("w", lambda: torch.tensor(0.5, dtype=torch.float64))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w * factor(x) + torch.zeros_like(x), 1.0).to_event(1), obs=x)

    return model


def at(step, put):
    """Make a change before one step."""
    return lambda number: put() if number == step else None


def changed(put):
    return at(CHANGED_AT, put)


# Where a number may be


@entry("compiled")
def nothing():
    return Case(model_of(lambda x: 2.0))


class Holder:
    weight = 2.0

    def __init__(self):
        self.own = 2.0

    def read(self, x):
        return self.helper()

    def helper(self):
        return self.own

    @property
    def twice(self):
        return 2 * self.own


@entry("compiled")
def an_attribute():
    holder = Holder()
    return Case(model_of(lambda x: holder.own), changed(lambda: setattr(holder, "own", 3.0)))


@entry("compiled")
def a_class_attribute():
    Holder.weight = 2.0
    holder = Holder()
    return Case(model_of(lambda x: holder.weight), changed(lambda: setattr(Holder, "weight", 3.0)))


@entry("compiled")
def an_attribute_in_front_of_a_class_attribute():
    Holder.weight = 2.0
    holder = Holder()
    return Case(model_of(lambda x: holder.weight), changed(lambda: setattr(holder, "weight", 3.0)))


@entry("compiled")
def an_attribute_that_is_deleted():
    Holder.weight = 3.0
    holder = Holder()
    holder.weight = 2.0
    return Case(model_of(lambda x: holder.weight), changed(lambda: delattr(holder, "weight")))


@entry("compiled")
def a_key_that_is_deleted():
    config = {"weight": 2.0}
    return Case(model_of(lambda x: config.get("weight", 3.0)), changed(config.clear))


@entry("compiled")
def an_attribute_of_a_class_itself():
    Holder.weight = 2.0
    return Case(model_of(lambda x: Holder.weight), changed(lambda: setattr(Holder, "weight", 3.0)))


@entry("compiled")
def an_attribute_read_by_a_helper_method():
    holder = Holder()
    return Case(model_of(holder.read), changed(lambda: setattr(holder, "own", 3.0)))


@entry("compiled")
def an_attribute_behind_a_property():
    holder = Holder()
    return Case(model_of(lambda x: holder.twice), changed(lambda: setattr(holder, "own", 3.0)))


@entry("compiled")
def an_attribute_found_by_its_name():
    holder = Holder()
    name = "ow"
    return Case(model_of(lambda x: getattr(holder, f"{name}n")), changed(lambda: setattr(holder, "own", 3.0)))


@entry("compiled")
def a_method_that_is_replaced():
    holder = Holder()
    return Case(model_of(holder.read), changed(lambda: setattr(holder, "helper", lambda: 3.0)))


class Slotted:
    __slots__ = ("weight",)


@entry("compiled")
def a_slot():
    holder = Slotted()
    holder.weight = 2.0
    return Case(model_of(lambda x: holder.weight), changed(lambda: setattr(holder, "weight", 3.0)))


class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self._private = 2.0
        self.plain = Holder()
        self.register_buffer("buffer", torch.tensor(2.0, dtype=torch.float64))

    def forward(self, x):
        return x * self._private * self.plain.own * self.buffer


class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        self.part = Part()

    def forward(self, x):
        return self.part(x)


def of_a_module(put):
    whole = Whole()
    return Case(model_of(lambda x: whole(torch.ones_like(x))), changed(lambda: put(whole.part)))


@entry("compiled")
def a_private_attribute_of_a_submodule():
    return of_a_module(lambda part: setattr(part, "_private", 3.0))


@entry("compiled")
def a_plain_object_in_a_submodule():
    return of_a_module(lambda part: setattr(part.plain, "own", 3.0))


@entry("compiled")
def a_buffer_that_is_replaced():
    return of_a_module(lambda part: setattr(part, "buffer", torch.tensor(3.0, dtype=torch.float64)))


@entry("compiled")
def a_buffer_that_is_changed_in_place():
    return of_a_module(lambda part: part.buffer.fill_(3.0))


@entry("compiled")
def a_buffer_whose_memory_is_replaced():
    return of_a_module(lambda part: setattr(part.buffer, "data", torch.tensor(3.0, dtype=torch.float64)))


@entry("compiled")
def a_forward_hook():
    return of_a_module(lambda part: part.register_forward_hook(lambda module, given, result: 2 * result))


def hook(into=None):
    handle = pyro.param("w").register_hook(lambda gradient: gradient / 3)
    if into is not None:
        into.append(handle)


@entry("compiled")
def a_hook_on_the_gradient_of_a_parameter():
    return Case(model_of(lambda x: 2.0), changed(hook))


@entry("compiled")
def a_hook_on_a_gradient_that_is_removed():
    hooks = []
    steps = {1: lambda: hook(hooks), CHANGED_AT: lambda: hooks[0].remove()}
    return Case(model_of(lambda x: 2.0), lambda number: steps.get(number, int)())


@entry("compiled")
def a_submodule_that_is_replaced():
    whole = Whole()
    model = model_of(lambda x: whole(torch.ones_like(x)))

    def put():
        whole.part = Part()
        whole.part._private = 3.0

    return Case(model, changed(put))


WEIGHT = 2.0
WEIGHTS = [2.0] * 100
TENSOR = torch.tensor(2.0, dtype=torch.float64)


def put_global(value):
    global WEIGHT
    WEIGHT = value


@entry("compiled")
def a_global_in_a_lambda():
    put_global(2.0)
    return Case(model_of(lambda x: WEIGHT), changed(lambda: put_global(3.0)))


@entry("compiled")
def a_global_in_a_comprehension():
    put_global(2.0)
    return Case(model_of(lambda x: sum([WEIGHT for _ in range(2)])), changed(lambda: put_global(3.0)))


def reads_global():
    def inner():
        return WEIGHT

    return inner()


@entry("compiled")
def a_global_in_a_helper():
    put_global(2.0)
    return Case(model_of(lambda x: reads_global()), changed(lambda: put_global(3.0)))


@entry("compiled")
def a_helper_that_is_replaced():
    scope = types.SimpleNamespace(helper=lambda: 2.0)
    return Case(model_of(lambda x: scope.helper()), changed(lambda: setattr(scope, "helper", lambda: 3.0)))


settings = types.ModuleType("user_settings")


@entry("compiled")
def an_attribute_of_a_module_of_settings():
    settings.weight = 2.0
    return Case(model_of(lambda x: settings.weight), changed(lambda: setattr(settings, "weight", 3.0)))


@entry("compiled")
def an_entry_far_down_a_list():
    weights = [2.0] * 100
    return Case(model_of(lambda x: weights[90]), changed(lambda: weights.__setitem__(90, 3.0)))


@entry("compiled")
def an_entry_of_a_nested_dictionary():
    config = {"a": {"b": [2.0]}}
    return Case(
        model_of(lambda x: config["a"]["b"][0]), changed(lambda: config["a"]["b"].__setitem__(0, 3.0))
    )


@entry("compiled")
def a_key_that_is_added():
    config = {"other": 1}
    return Case(model_of(lambda x: config.get("weight", 2.0)), changed(lambda: config.update(weight=3.0)))


@entry("compiled")
def an_empty_list_that_is_filled():
    extra = []
    return Case(model_of(lambda x: 2.0 + sum(extra)), changed(lambda: extra.append(1.0)))


@entry("compiled")
def a_set():
    flags = {"a"}
    return Case(model_of(lambda x: 3.0 if "b" in flags else 2.0), changed(lambda: flags.add("b")))


@entry("compiled")
def a_deque():
    weights = deque([1.0, 2.0])
    return Case(model_of(lambda x: weights[0]), changed(lambda: weights.rotate()))


@pytest.fixture
def _environment(monkeypatch):
    monkeypatch.setenv("A_WEIGHT", "2")


@entry("compiled")
def a_variable_of_the_environment():
    os.environ["A_WEIGHT"] = "2"
    return Case(
        model_of(lambda x: float(os.environ["A_WEIGHT"])),
        changed(lambda: os.environ.__setitem__("A_WEIGHT", "3")),
    )


def numbers_of(kind):
    def make():
        holder = Holder()
        holder.own = kind(2)
        return Case(model_of(lambda x: float(holder.own)), changed(lambda: setattr(holder, "own", kind(3))))

    return make


for kind in (np.float32, np.int64, Fraction, int, str):
    TABLE[f"a number of type {kind.__name__}"] = (numbers_of(kind), "compiled", STEPS)


@entry("compiled")
def an_array_that_is_changed_in_place():
    array = np.array([1.0, 2.0])
    return Case(model_of(lambda x: float(array[1])), changed(lambda: array.__setitem__(1, 3.0)))


@entry("ordinary")
def an_array_too_large_to_compare():
    array = np.full(500_000, 2.0)
    return Case(model_of(lambda x: float(array[1])), changed(lambda: array.__setitem__(1, 3.0)))


@entry("compiled")
def a_flag():
    holder = Holder()
    holder.flag = False
    return Case(
        model_of(lambda x: 3.0 if holder.flag else 2.0), changed(lambda: setattr(holder, "flag", True))
    )


@entry("compiled")
def a_variable_of_a_closure():
    weight = 2.0

    def put():
        nonlocal weight
        weight = 3.0

    return Case(model_of(lambda x: weight), changed(put))


@entry("compiled")
def a_default_argument():
    def factor(x, weights=[2.0], *, more={"a": 0.0}):  # noqa: B006
        return weights[0] + more["a"]

    return Case(model_of(factor), changed(lambda: factor.__kwdefaults__["more"].update(a=1.0)))


@entry("compiled")
def an_argument_of_a_partial():
    def factor(holder, x):
        return holder.own

    holder = Holder()
    return Case(model_of(functools.partial(factor, holder)), changed(lambda: setattr(holder, "own", 3.0)))


@entry("compiled")
def an_object_out_of_a_cache():
    @functools.cache
    def config():
        return Holder()

    def factor(x):
        found = config()
        return found.own

    return Case(model_of(factor), changed(lambda: setattr(config(), "own", 3.0)))


@entry("compiled")
def an_object_behind_a_weak_reference():
    holder = Holder()
    reference = weakref.ref(holder)

    def factor(x):
        found = reference()
        return found.own

    def put():
        holder.own = 3.0

    return Case(model_of(factor), changed(put))


@entry("compiled")
def a_variable_of_the_thread():
    local = threading.local()
    local.weight = 2.0
    return Case(model_of(lambda x: local.weight), changed(lambda: setattr(local, "weight", 3.0)))


@entry("compiled")
def a_dropout_rate():
    dropout = nn.Dropout(0.0)
    return Case(model_of(lambda x: dropout(torch.ones_like(x))), changed(lambda: setattr(dropout, "p", 0.99)))


@entry("compiled")
def a_mode():
    dropout = nn.Dropout(0.9)
    return Case(model_of(lambda x: dropout(torch.ones_like(x))), changed(lambda: dropout.eval()))


@entry("uncompiled steps")
def a_parameter_that_is_frozen():
    """Pyro's Adam continues to move it by its momentum."""
    w = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

    def factor(x):
        return pyro.param("frozen", w)

    return Case(model_of(factor), changed(lambda: w.requires_grad_(False)), also=lambda: w.detach().clone())


@entry("compiled")
def a_parameter_whose_memory_is_replaced():
    def put():
        leaf = pyro.get_param_store()["w"]
        leaf.data = torch.tensor(-1.0, dtype=torch.float64)

    return Case(model_of(lambda x: 2.0), changed(put))


@entry("compiled")
def the_default_type():
    def change(step):
        torch.set_default_dtype(torch.float64 if step >= CHANGED_AT else torch.float32)

    return Case(model_of(lambda x: torch.tensor(0.1)), change)


# Values that the program changes itself, or reads from elsewhere


@entry("ordinary")
def a_counter():
    holder = Holder()
    holder.own = 0

    def factor(x):
        holder.own += 1
        return -holder.own

    return Case(model_of(factor), also=lambda: holder.own)


@entry("ordinary")
def a_warm_up():
    holder = Holder()
    holder.own = 0

    def factor(x):
        holder.own += 1
        return min(1.0, holder.own / 4)

    return Case(model_of(factor), also=lambda: holder.own)


@entry("ordinary")
def a_counter_of_a_class():
    Holder.weight = 0

    def factor(x):
        Holder.weight += 1
        return Holder.weight

    return Case(model_of(factor))


@entry("ordinary")
def a_counter_that_matters_late():
    calls = [0]

    def factor(x):
        calls[0] += 1
        return 2.0 if calls[0] < 7 else 3.0

    return Case(model_of(factor), also=lambda: calls[0])


@entry("ordinary")
def a_list_that_the_program_fills():
    kept = []

    def factor(x):
        kept.append(1.0)
        return 2.0

    return Case(model_of(factor), also=lambda: len(kept))


@entry("ordinary")
def a_tensor_that_the_program_replaces():
    holder = Holder()
    holder.own = torch.tensor(1.0, dtype=torch.float64)

    def factor(x):
        holder.own = holder.own * 0.5 + x.mean()
        return holder.own

    return Case(model_of(factor))


@entry("compiled")
def a_tensor_that_the_program_changes_in_place():
    state = torch.tensor(1.0, dtype=torch.float64)

    def factor(x):
        state.mul_(0.5).add_(x.mean())
        return state.clone()

    return Case(model_of(factor), also=lambda: state.clone())


@entry("compiled")
def a_tensor_that_is_kept_for_later():
    holder = Holder()

    def factor(x):
        holder.last = x.mean() * 2
        return holder.last

    return Case(model_of(factor))


@entry("compiled")
def running_statistics():
    norm = nn.BatchNorm1d(2).double()
    norm.weight.requires_grad_(False)
    norm.bias.requires_grad_(False)
    norm.eval_at = None
    return Case(
        model_of(lambda x: norm(x)),
        changed(lambda: norm.eval()),
        also=lambda: norm.running_mean.clone(),
    )


@entry("ordinary")
def pythons_random():
    return Case(model_of(lambda x: random.random()))


@entry("ordinary")
def numpys_random():
    return Case(model_of(lambda x: np.random.rand()))  # noqa: NPY002


@entry("ordinary")
def a_random_of_ones_own():
    rng = random.Random(1)
    return Case(model_of(lambda x: rng.random()))


@entry("ordinary")
def a_generator_of_numpys():
    rng = np.random.default_rng(1)
    return Case(model_of(lambda x: float(rng.random())))


@entry("ordinary")
def a_generator_of_torchs():
    rng = torch.Generator().manual_seed(1)
    return Case(model_of(lambda x: torch.rand((), generator=rng, dtype=torch.float64)))


@entry("ordinary")
def a_choice_by_chance():
    rng = random.Random(1)
    return Case(model_of(lambda x: 2.0 if rng.random() < 0.5 else 3.0))


@entry("ordinary")
def an_iterator():
    counter = itertools.count()
    return Case(model_of(lambda x: next(counter)))


@entry("ordinary")
def a_python_generator():
    counter = (float(n) for n in itertools.count())
    return Case(model_of(lambda x: next(counter)))


@entry("ordinary")
def the_time():
    start = time.perf_counter()
    return Case(
        model_of(lambda x: round(1e5 * (time.perf_counter() - start)) * 0.0 + time.perf_counter() * 1e-300)
    )


@entry("stopped", steps=14)
def a_variable_of_the_context():
    variable = contextvars.ContextVar("weight", default=2.0)
    return Case(model_of(lambda x: variable.get()), changed(lambda: variable.set(3.0)))


@entry("stopped", steps=14)
def a_file(path=[]):  # noqa: B006
    import tempfile

    if not path:
        path.append(os.path.join(tempfile.mkdtemp(), "weight"))

    def put(value):
        with open(path[0], "w") as file:
            file.write(value)

    def factor(x):
        with open(path[0]) as file:
            return float(file.read())

    put("2")
    return Case(model_of(factor), changed(lambda: put("3")))


# Values that are read back


def reading(name, factor):
    TABLE[name] = (lambda: Case(model_of(factor)), "ordinary", STEPS)


reading("numpy", lambda x: float(x.numpy().sum()))
reading("an array of the data", lambda x: float(np.asarray(x).mean()))
reading("tolist", lambda x: x.tolist()[0][0])
reading("items in a list", lambda x: torch.tensor([v.item() for v in x[0]]).sum())
reading("an item in math", lambda x: np.exp(x[0, 0].item()))
reading("a number of the data", lambda x: float(x[0, 0]))
reading("text", lambda x: len(f"{x.sum():.3f}"))
reading("a size by values", lambda x: len(x[x > 0]))
reading("one_hot", lambda x: torch.nn.functional.one_hot((x[:, 0] > 0).long()).double())
reading("control flow", lambda x: 2.0 if x.sum() > 0 else 3.0)
reading("memory", lambda x: float(np.frombuffer(bytes(x.untyped_storage()), dtype=np.float64).sum()))


# Contexts around a step


def inside(name, context, expected="ordinary"):
    def make():
        return Case(
            model_of(lambda x: x.sum() * 0 + 2.0),
            around=lambda step: context() if step >= CHANGED_AT else nullcontext(),
        )

    TABLE[name] = (make, expected, STEPS)


inside("poutine.scale", lambda: poutine.scale(scale=1e-3))
inside("poutine.mask", lambda: poutine.mask(mask=False))
inside("poutine.condition", lambda: poutine.condition(data={"unused": torch.zeros(())}))
inside("autocast", lambda: torch.autocast("cpu", dtype=torch.bfloat16))
inside("a trace", lambda: poutine.trace())
inside("a default device", lambda: torch.device("cpu"), "compiled")


@entry("ordinary")
def clean_input():
    def guide(x):
        with pyro.plate("data", len(x)):
            x_tilde = dv.corrupt("x_tilde", dv.GaussianNoise(torch.tensor(5.0).double()), x)
            pyro.sample("z", dist.Normal(x_tilde.sum(-1), 1.0))

    def model(x):
        w = pyro.param("w", lambda: torch.tensor(0.5, dtype=torch.float64))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(w * z[..., None], 1.0).to_event(1), obs=x)

    return Case(
        model, around=lambda step: dv.clean_input() if step >= CHANGED_AT else nullcontext(), guide=guide
    )


# Arguments


@dataclass
class Batch:
    x: torch.Tensor


def of_batch(batch, *rest):
    return model_of(lambda x: 2.0)(batch.x)


@entry("ordinary", steps=70)
def an_object_whose_tensor_is_replaced():
    batch = Batch(X)
    kept = []

    def arguments(step):
        kept.append(batch.x)
        batch.x = X + step
        return (batch,)

    return Case(of_batch, arguments=arguments)


@entry("compiled")
def an_object_whose_tensor_is_replaced_once():
    batch = Batch(X)

    def arguments(step):
        if step == CHANGED_AT:
            batch.x = X + 3
        return (batch,)

    return Case(of_batch, arguments=arguments)


@entry("ordinary", steps=70)
def an_object_at_every_step():
    return Case(of_batch, arguments=lambda step: (Batch(X + step),))


@entry("compiled")
def a_dictionary_of_tensors():
    def model(batch):
        model_of(lambda x: batch["weight"])(batch["x"])

    return Case(model, arguments=lambda step: ({"x": X + step, "weight": 2.0 + step},))


@entry("compiled")
def an_integer_argument():
    def model(x, k):
        model_of(lambda x: k)(x)

    return Case(model, arguments=lambda step: (X, 1 + step // CHANGED_AT))


@entry("compiled")
def true_in_place_of_one():
    def model(x, k):
        model_of(lambda x: 2.0 if k is True else 3.0)(x)

    return Case(model, arguments=lambda step: (X, True if step < CHANGED_AT else 1))


@entry("ordinary", steps=70)
def an_array_as_argument():
    def model(x, k):
        model_of(lambda x: float(k[0]))(x)

    return Case(model, arguments=lambda step: (X, np.array([float(step)])))


@entry("compiled")
def data_that_the_program_also_knows():
    known = X.clone()

    def model(x):
        model_of(lambda x: known)(x)

    return Case(model, arguments=lambda step: (known,) if step < CHANGED_AT else (X + 1,))


@entry("ordinary")
def an_argument_that_is_changed_in_place():
    def factor(x):
        x.mul_(0.9)
        return 2.0

    x = X.clone()
    return Case(model_of(factor), arguments=lambda step: (x,), also=lambda: x.clone())


@entry("compiled")
def rows_without_order_in_memory():
    return Case(model_of(lambda x: 2.0), arguments=lambda step: (X.t().contiguous().t() + step,))


@entry("ordinary")
def a_gradient_into_an_argument():
    torch.manual_seed(0)
    up = nn.Linear(2, 2).double()

    def change(step):
        pass

    return Case(
        model_of(lambda x: x * 0.1),
        arguments=lambda step: (up(X),),
        also=lambda: up.weight.grad.clone(),
    )


@entry("ordinary")
def a_gradient_into_a_module_that_is_not_registered():
    torch.manual_seed(0)
    up = nn.Linear(2, 2).double()
    return Case(model_of(lambda x: up(x)), also=lambda: up.weight.grad.clone())


# The runs


def run(case, step):
    """Return the losses until the end, or until a compiled step stops."""
    losses = []
    for number in range(case.steps):
        case.change(number)
        arguments = (X,) if case.arguments is None else case.arguments(number)
        with case.around(number):
            try:
                losses.append(float(step(*arguments)))
            except dv.CompiledStepError as error:
                return losses, case.also(), str(error)
    return losses, case.also(), None


def loop_on(loss):
    """Return a step of Pyro's Adam on a compiled loss, as SVI takes it."""
    optimizer = Adam({"lr": 0.1})

    def step(*arguments):
        value = loss(*arguments)
        if value.requires_grad:
            value.backward()
        leaves = [pyro.get_param_store()._params[name] for name in pyro.get_param_store()]
        leaves = [leaf for leaf in leaves if leaf.grad is not None]
        optimizer(leaves)
        pyro.infer.util.zero_grads(leaves)
        return value

    return step


def steps_of(kind, case):
    quiet = {"say": lambda message: None}
    if kind == "SVI":
        return None, SVI(case.model, case.guide, Adam({"lr": 0.1}), Trace_ELBO()).step
    if kind == "CompiledSVI":
        loop = dv.CompiledSVI(case.model, case.guide, Adam({"lr": 0.1}), Trace_ELBO(), **quiet)
        return loop, loop.step
    loss = dv.compile_loss(case.model, case.guide, Trace_ELBO(), **quiet)
    return loss, loop_on(loss)


def result_of(kind, make, steps):
    pyro.clear_param_store()
    torch.set_default_dtype(torch.float32)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    case = make()
    case.steps = steps
    recorder, step = steps_of(kind, case)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        losses, also, error = run(case, step)
    messages = [str(each.message) for each in told if "uncompiled steps" in str(each.message)]
    return losses, also, error, messages, recorder


# Both are made by the same recordings: of the second, every fourth entry, and all with -m slow.
# Cases that are recorded anew at each of many steps.
LONG = ("an array as argument", "an object whose tensor is replaced", "an object at every step")
RUNS = [
    pytest.param(
        kind,
        *found,
        id=f"{kind}: {name}",
        marks=[pytest.mark.slow] if name in LONG or (kind == "compile_loss" and number % 4) else [],
    )
    for kind in ("CompiledSVI", "compile_loss")
    for number, (name, found) in enumerate(TABLE.items())
]


@pytest.mark.parametrize(("kind", "make", "expected", "steps"), RUNS)
def test_a_change_is_never_missed_in_silence(kind, make, expected, steps):
    wanted, state, _, _, _ = result_of("SVI", make, steps)
    losses, also, error, messages, recorder = result_of(kind, make, steps)
    if expected == "uncompiled steps":
        expected = "ordinary" if kind == "CompiledSVI" else "compiled"
    assert len(messages) == (expected == "ordinary"), messages
    if expected == "stopped":
        assert error.startswith("step 10 of a compiled loss: the recorded step gives a loss of ")
        assert "use pyro.infer.SVI" in error
        return
    assert error is None
    assert losses == pytest.approx(wanted, rel=1e-9)
    if isinstance(state, torch.Tensor):
        torch.testing.assert_close(also, state)
    else:
        assert also == state
    if expected == "compiled":
        assert recorder.recorded > 0


def fitted(make, compiled, steps):
    """Return the bound of every epoch of one step, and the warnings."""
    pyro.clear_param_store()
    torch.set_default_dtype(torch.float32)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    case = make()
    options = {"epochs": steps, "batch_size": len(X), "learning_rate": 0.1, "progress": False}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        history = dv.fit(
            case.model,
            case.guide,
            X,
            loss=Trace_ELBO(),
            callbacks=[BeforeEpoch(case.change)],
            compile=compiled,
            **options,
        ).history
    messages = [str(each.message) for each in told if "uncompiled steps" in str(each.message)]
    return history.train_bound, case.also(), messages


OF_THE_DATA = {
    name: (make, expected, steps)
    for name, (make, expected, steps) in TABLE.items()
    if make().arguments is None and make().around(CHANGED_AT).__class__ is nullcontext
}
# fit has an Adam of its own, and noise of its own in compiled steps; what an iterator has given cannot be put
# back, and there is no earlier step that shows the iterator.
NOT_IN_FIT = (
    "a parameter that is frozen",
    "a dropout rate",
    "a mode",
    "pythons random",
    "numpys random",
    "an iterator",
    "a python generator",
    "the time",
    "a parameter whose memory is replaced",
)


IN_FIT = [name for name in OF_THE_DATA if name not in NOT_IN_FIT]
SOME_IN_FIT = [
    pytest.param(name, marks=pytest.mark.slow if number % 3 else ()) for number, name in enumerate(IN_FIT)
]


@pytest.mark.parametrize("name", SOME_IN_FIT)
def test_fit_misses_no_change_in_silence(name):
    make, expected, steps = OF_THE_DATA[name]
    wanted, state, _ = fitted(make, False, steps)
    if expected == "stopped":
        with pytest.raises(dv.CompiledStepError, match="step 10 of a compiled loss"):
            fitted(make, True, steps)
        return
    found, also, messages = fitted(make, True, steps)
    assert len(messages) == (expected == "ordinary"), messages
    assert found == pytest.approx(wanted, rel=1e-9)
    if isinstance(state, torch.Tensor):
        torch.testing.assert_close(also, state)
    else:
        assert also == state


@pytest.mark.parametrize(
    "name", ["an iterator", "a python generator", "pythons random", "numpys random", "the time"]
)
def test_fit_warns_of_what_cannot_be_put_back(name):
    make, _, steps = OF_THE_DATA[name]
    assert len(fitted(make, True, steps)[2]) == 1


def test_masked_arrays_are_distinguished():
    """Also NumPy's constant, of which no attribute can be set."""
    array = np.ma.masked_array([1.0, 2.0], mask=[False, True])
    take, before = fingerprint(array), fingerprint(array)()
    assert take() == before
    array.mask[0] = True
    assert take() != before
    constant = fingerprint(np.ma.masked)
    assert constant() == constant()
