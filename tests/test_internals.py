"""Private names of torch, Pyro and Python: used in one module only, and as it expects them."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.optim import optimizer as optimizers

from pyro_dvae import internals

PACKAGE = Path(internals.__file__).parent
PAGE = (PACKAGE.parent / "docs/architecture.md").read_text()
# What a subclass of torch's or Pyro's classes may define or call, and a named tuple's own method.
FOR_SUBCLASSES = {"_validate_args", "_get_checked_instance", "_inverse_stable", "_replace"}
HOOKS = ("_pyro_", "_process_message")
ELSEWHERE = {"compiled": "tests/compiled/test_compiler.py"}


def hidden(part):
    return part.startswith("_") and not part.startswith("__")


def foreign(tree):
    """Yield the private names that a file takes of what is defined elsewhere."""
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") in ("self", "cls"):
            own.add(node.attr)
        elif isinstance(node, ast.AnnAssign):
            own.add(getattr(node.target, "id", ""))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not (node.module or "").startswith(
            ("pyro_dvae", "__future__")
        ):
            yield from (part for name in node.names for part in f"{node.module}.{name.name}".split("."))
        elif isinstance(node, ast.Import):
            yield from (part for name in node.names for part in name.name.split("."))
        elif isinstance(node, ast.Attribute) and not node.attr.startswith(HOOKS):
            yield from {node.attr} - own - FOR_SUBCLASSES


def test_private_names_of_others_are_used_in_one_module():
    for path in PACKAGE.rglob("*.py"):
        found = {name for name in foreign(ast.parse(path.read_text())) if hidden(name)}
        if path.name != "internals.py":
            assert not found, f"{path}: {found}; put it into internals.py, with a test here"


def test_the_page_and_this_file_name_all_that_is_in_the_module():
    here = Path(__file__).read_text()
    own = [name for name, each in vars(internals).items() if inspect.isfunction(each)]
    own = [name for name in own if getattr(internals, name).__module__ == internals.__name__]
    for name in [*own, "IMPORTER", "UNSAFE_VIEW"]:
        assert f"`{name}`" in PAGE, name
        assert f"internals.{name}" in here or Path(ELSEWHERE[name]).name in PAGE, name


# Python


def test_imports_run_in_frames_of_a_known_file(tmp_path, monkeypatch):
    (tmp_path / "imported_once.py").write_text(
        "import sys\nFRAMES = []\nat = sys._getframe()\n"
        "while at: FRAMES.append((at.f_code.co_name, at.f_code.co_filename)); at = at.f_back\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import imported_once

    assert ("_find_and_load", internals.IMPORTER) in imported_once.FRAMES


def test_a_frame_is_that_of_the_caller():
    def caller():
        return internals.frame().f_code.co_name, internals.frame(1).f_code.co_name

    assert caller() == ("caller", "test_a_frame_is_that_of_the_caller")


def test_a_process_ends_at_once():
    script = (
        "import atexit; from pyro_dvae import internals; atexit.register(print, 1); internals.end_process(3)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (3, b"")


# Modes and operations


def test_what_runs_without_modes_is_not_recorded():
    def function(x):
        with internals.without_modes():
            torch.ones(3).cos()
        return x.sin()

    graph = make_fx(function)(torch.ones(3))
    called = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    assert called == ["aten.sin.default"]


def test_a_recording_notes_all_shapes_in_one_mode():
    with internals.noting_shapes():
        graph = make_fx(lambda x: x.cos().exp(), tracing_mode="real")(torch.ones(3, 2))
    notes = [node.meta["tensor_meta"] for node in graph.graph.nodes if node.op == "call_function"]
    values = [node.meta["val"] for node in graph.graph.nodes if node.op == "call_function"]
    assert [tuple(note.shape) for note in notes] == [(3, 2), (3, 2)]
    assert len({id(value.fake_mode) for value in values}) == 1


def test_devices_of_modes():
    assert internals.devices_of_modes() == []
    with torch.device("cpu"), torch.device("meta"):
        assert internals.devices_of_modes() == ["cpu", "meta"]
        with torch.overrides.BaseTorchFunctionMode():
            assert internals.devices_of_modes() is None
    with internals.TorchDispatchMode():
        assert internals.devices_of_modes() is None


def test_trees():
    leaves, form = internals.tree_flatten({"a": [1, (2, 3)]})
    assert leaves == internals.tree_leaves({"a": [1, (2, 3)]}) == [1, 2, 3]
    assert internals.tree_unflatten([4, 5, 6], form) == {"a": [4, (5, 6)]}
    assert internals.tree_map(lambda each: -each, {"a": [1]}) == {"a": [-1]}


def test_forms_of_trees_are_keys():
    forms = [internals.tree_flatten(each)[1] for each in ({"a": 1}, {"a": 2}, {"b": 1}, [1])]
    assert len(set(forms)) == 3
    assert forms[0] == forms[1] != forms[2]


def test_a_schema_says_what_is_written():
    assert internals.schema(torch.ops.aten.add_.Tensor).is_mutable
    assert not internals.schema(torch.ops.aten.add.Tensor).is_mutable
    assert [each.name for each in internals.schema(torch.ops.aten.add.Tensor).arguments][:2] == [
        "self",
        "other",
    ]
    assert internals.schema(len) is None


def test_views_share_a_storage():
    for device in ("cpu", "meta"):
        x = torch.ones(4, device=device)
        assert internals.storage(x) == internals.storage(x[1:].view(3, 1)) != internals.storage(x.clone())


def test_an_unsafe_view_is_a_view():
    x = torch.arange(6.0)
    assert torch.equal(internals.UNSAFE_VIEW(x, [2, 3]), x.view(2, 3))


def test_averages_move_by_their_share():
    averages, values = (
        [torch.tensor([1.0, 2.0]), torch.tensor(5.0)],
        [torch.tensor([3.0, 2.0]), torch.tensor(1.0)],
    )
    internals.move_averages(averages, values, 0.25)
    assert averages[0].tolist() == [1.5, 2.0]
    assert averages[1].item() == 4.0


def test_counts_advance_by_one():
    counts = [torch.tensor(3.0), torch.tensor([0.0, 7.0])]
    internals.add_one(counts)
    assert counts[0].item() == 4.0
    assert counts[1].tolist() == [1.0, 8.0]


def test_a_gamma_draw_has_the_gradient_of_torchs_own():
    a = torch.tensor([0.7, 3.0], dtype=torch.float64, requires_grad=True)
    torch.manual_seed(3)
    draw = internals.standard_gamma(a)
    torch.manual_seed(3)
    expected = torch.distributions.Gamma(a, torch.ones_like(a)).rsample()
    assert torch.allclose(draw, expected)
    assert torch.allclose(*(torch.autograd.grad(each.sum(), a)[0] for each in (draw, expected)))


# Modules and distributions


def test_any_tensor_takes_the_place_of_a_parameter():
    outer = nn.Sequential(nn.Linear(2, 3))
    drawn = torch.ones(3, 2) * 2
    internals.place_parameter(outer, "0.weight", drawn)
    assert outer[0].weight is drawn
    assert torch.allclose(outer(torch.ones(1, 2)), outer[0].bias + 4)
    internals.place_parameter(outer, "0.bias", None)
    assert torch.equal(outer(torch.ones(1, 2)), torch.full((1, 3), 4.0))


def test_a_tensor_counts_its_changes():
    tensor = torch.zeros(3)
    before = internals.version(tensor)
    tensor[:1].add_(1)
    assert internals.version(tensor) == before + 1


def test_hooks_on_a_gradient_are_distinguished():
    tensor = torch.zeros(3, requires_grad=True)
    assert internals.hooks(tensor) == ()
    first = tensor.register_hook(lambda grad: grad)
    one = internals.hooks(tensor)
    tensor.register_post_accumulate_grad_hook(lambda leaf: None)
    assert set(one) < set(internals.hooks(tensor))
    first.remove()
    assert len(internals.hooks(tensor)) == 1
    assert internals.hooks(tensor) != one


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("when", ["pre", "post"])
def test_hooks_of_an_optimizer(own, when):
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    assert not internals.step_hooks(optimizer)
    register = f"register_step_{when}_hook" if own else f"register_optimizer_step_{when}_hook"
    handle = getattr(optimizer if own else optimizers, register)(lambda *arguments: None)
    assert internals.step_hooks(optimizer)
    handle.remove()
    assert not internals.step_hooks(optimizer)


def test_what_distributions_hold():
    mask = torch.tensor([True, False])
    assert internals.mask_of(dist.Normal(torch.zeros(2), 1.0).mask(mask)) is mask
    assert internals.mask_of(dist.Normal(0.0, 1.0).mask(False)) is False
    probs, logits = dist.Bernoulli(torch.tensor(0.3)), dist.Bernoulli(logits=torch.tensor(0.3))
    assert (probs.logits, logits.probs) is not None  # each is now held in both forms
    assert internals.given_logits(logits)
    assert not internals.given_logits(probs)
    assert internals.validates(dist.Normal(0.0, 1.0, validate_args=False)) is False
    assert internals.validates(dist.Normal(0.0, 1.0, validate_args=True)) is True


def test_what_rows_share_is_not_spread_over_them():
    loc, tril = torch.zeros(5, 2), torch.tensor([[2.0, 0.0], [1.0, 3.0]])
    assert torch.equal(internals.shared_tril(dist.MultivariateNormal(loc, scale_tril=tril)), tril)
    factors, variance = torch.ones(2, 1), torch.tensor([1.0, 4.0])
    found = internals.shared_factors(dist.LowRankMultivariateNormal(loc, factors, variance))
    assert torch.equal(found[0], factors)
    assert torch.equal(found[1], variance)


# Compilers


def test_what_torch_has_compiled_runs_as_it_was_written():
    import torch._dynamo

    def backend(graph, example):
        raise AssertionError("compiled")

    function = torch.compile(lambda x: x + 1, backend=backend)
    with internals.uncompiled():
        assert function(torch.ones(1)).item() == 2.0
    with pytest.raises(torch._dynamo.exc.BackendCompilerFailed):
        function(torch.ones(1))
    torch._dynamo.reset()


def test_options_of_the_compiler_hold_for_a_time():
    from torch._inductor import config

    with internals.compiler_options(fallback_random=True, freezing=True):
        assert (config.fallback_random, config.freezing) == (True, True)
    assert not config.fallback_random


# Pyro


def test_the_store_holds_unconstrained_leaves():
    value = pyro.param("scale", torch.tensor(3.0), constraint=dist.constraints.positive)
    assert internals.leaves_in_store()["scale"] is value.unconstrained()


def test_handlers_in_force():
    assert internals.handlers() == []
    with pyro.poutine.block() as block:
        assert internals.handlers() == [block]


def test_a_setting_is_read_as_pyro_reads_it():
    for name, value in pyro.settings.get().items():
        assert internals.setting(name)() == value


def test_a_nan_loss_warns_unless_the_check_is_off():
    nan = torch.tensor(float("nan"))
    with internals.without_nan_check():
        pyro.util.warn_if_nan(nan, "loss")
    with pytest.warns(UserWarning, match="NaN"):
        pyro.util.warn_if_nan(nan, "loss")


@pytest.mark.parametrize("options", [{"clip_norm": 2.0}, {"clip_value": 0.5}, {}])
def test_an_optimizer_of_pyro_clips(options):
    leaf = pyro.param("a", torch.zeros(4)).unconstrained()
    optimizer = pyro.optim.Adam({"lr": 0.1}, options or None)
    assert {
        name: value for name, value in internals.clip_arguments(optimizer, leaf).items() if value
    } == options
    leaf.grad = torch.full((4,), 3.0)
    internals.clip(optimizer, leaf)(leaf)
    expected = {"clip_norm": 1.0, "clip_value": 0.5}.get(next(iter(options), ""), 3.0)
    assert torch.allclose(leaf.grad, torch.full((4,), expected))


def test_an_optimizer_of_pyro_starts_with_a_waiting_state():
    first, second = (pyro.optim.Adam({"lr": 0.1}) for _ in range(2))
    leaf = pyro.param("a", torch.zeros(2)).unconstrained()
    leaf.grad = torch.ones(2)
    first([leaf])
    internals.add_waiting_state(second, first.get_state())
    second([leaf])
    assert second.get_state()["a"]["state"][0]["step"] == 2


def test_a_trial_of_another_process_is_gone_on_with():
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    asked = study.ask()
    stored = study.get_trials(deepcopy=False)[0]
    again = optuna.Trial(study, internals.trial_id(stored))
    assert again.number == asked.number
    study.tell(again, 1.0)
    assert study.best_value == 1.0
