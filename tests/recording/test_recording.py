import math
import os
import subprocess
import sys
import threading
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from torch.nn.functional import softplus
from torch.utils._python_dispatch import _disable_current_modes

from pyro_dvae.engine import (
    NoCompiler,
    Unrecordable,
    compile_graph,
    compiler,
    fast_products,
    following,
    fuse_bernoulli_sums,
    kernels,
    record,
    replace_log1p,
    use_bfloat16_products,
)
from pyro_dvae.random_state import forked

WEIGHT = torch.randn(24, 3, generator=torch.Generator().manual_seed(1))


def noisy(x: Tensor) -> Tensor:
    """Draws of several kinds, Pyro's among them, and a decoder."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x[:, :3], 0.5).to_event(1))
    z = z * torch.bernoulli(torch.full_like(z, 0.7)) + torch.rand(z.shape)
    return dist.Bernoulli(logits=z @ WEIGHT.T).log_prob((x > 0).float()).sum(-1)


def log_bernoulli(logits: Tensor, target: Tensor) -> Tensor:
    return (-cross_entropy(logits, target, reduction="none")).sum(-1)


def operations(graph) -> list[str]:
    return [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]


@pytest.fixture
def x():
    return torch.randn(5, 24, generator=torch.Generator().manual_seed(2))


def test_a_recording_draws_what_the_function_draws(x):
    graph = record(noisy, x)
    for seed in (1, 2):
        for rows in (x, x.flip(0)):
            with forked(seed):
                expected = noisy(rows)
            with forked(seed):
                assert torch.equal(graph(rows), expected)


def test_a_recording_draws_afresh_in_every_run(x):
    graph = record(noisy, x)
    torch.manual_seed(3)
    first, second = graph(x), graph(x)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(graph(x), first)
    assert torch.equal(graph(x), second)


def test_recording_and_compiling_leave_the_random_streams_alone(x):
    before = torch.get_rng_state()
    compile_graph(record(noisy, x), x)
    assert torch.equal(torch.get_rng_state(), before)


def test_draws_that_nothing_reads_move_the_generator_on(x):
    def wasteful(x: Tensor) -> Tensor:
        torch.randn(7)
        torch.empty(3).normal_()
        return x + torch.rand(len(x), 1)

    graph = record(wasteful, x)
    with forked(1):
        expected = wasteful(x)
    with forked(1):
        assert torch.equal(graph(x), expected)


def test_other_unread_operations_are_dropped(x):
    def wasteful(x: Tensor) -> Tensor:
        x.exp().sum()
        return x + 1

    assert operations(record(wasteful, x)) == ["aten.add.Tensor"]


def test_what_is_no_argument_is_frozen_and_keeps_no_gradient(x):
    weight, factor = torch.nn.Parameter(torch.ones(24)), [2.0]
    graph = record(lambda x: factor[0] * x @ weight, x)
    factor[0] = 5.0
    found = graph(x)
    torch.testing.assert_close(found.detach(), 2 * x.sum(1))


def by_value(x: Tensor) -> Tensor:
    return x + 1 if x.sum() > 0 else x


def by_number(x: Tensor) -> Tensor:
    return x * float(x.sum())


@pytest.mark.parametrize("function", [by_value, by_number])
def test_control_flow_on_values_is_refused(function, x):
    with pytest.raises(Unrecordable):
        record(function, x)


READING = {
    "a format": lambda x: x * len(f"{x.sum()}"),
    "repr": lambda x: x * len(repr(x)),
    "a name of a site": lambda x: [x + 1 for i in x.argmax(1) if f"x_{i}"],
    "numpy": lambda x: x * x.numpy().sum(),
    "numpy of a part": lambda x: x + torch.from_numpy(x[0].numpy()),
    "numpy's own function": lambda x: x * np.asarray(x).sum(),
    "tolist": lambda x: x * x.sum(1).tolist()[0],
    "item": lambda x: x * x.sum().item(),
    "numbers in a list": lambda x: x[:, :2] * torch.tensor([x[0, 0], x[0, 1]]),
    "bool": lambda x: x if (x > 0).any() else -x,
    "int": lambda x: x[: int(x.argmax()) % 3],
    "equal": lambda x: x if torch.equal(x, -x) else -x,
    "allclose": lambda x: x if torch.allclose(x, -x) else -x,
    "a tensor that is no argument": lambda x: x * float(WEIGHT[0, 0]),
    "one_hot": lambda x: torch.nn.functional.one_hot(x.argmax(1)).float(),
    "rows by a mask": lambda x: x * len(x[x > 0]),
    "nonzero": lambda x: x * len(x.nonzero()),
    "unique": lambda x: x * len(x.round().unique()),
    "masked_select": lambda x: x * len(x.masked_select(x > 0)),
}


@pytest.mark.parametrize("function", READING.values(), ids=READING)
def test_reading_values_back_is_refused_at_once_with_the_line(function, x):
    line = function.__code__.co_firstlineno
    with pytest.raises(Unrecordable, match=rf"\(in <\w+>, test_recording.py:{line}\)$") as caught:
        record(function, x)
    message = str(caught.value)
    assert len(message) < 200
    assert "value" in message or "depends on values" in message


def test_sizes_that_depend_on_no_values_are_recorded(x):
    def picking(x: Tensor) -> Tensor:
        kept = x[:, torch.tensor([0, 2, 4])]
        kept[kept < 0] = 0.5
        return kept.masked_fill(kept > 1, 1.0)

    graph = record(picking, x)
    assert torch.equal(graph(-x), picking(-x))


def test_while_one_thread_records_the_others_read_values(x):
    found, kinds = [], []

    def read():
        found.append((WEIGHT[0, 0].item(), f"{WEIGHT[0]}"))

    def function(x: Tensor) -> Tensor:
        with following.followed(items_stay=True):
            thread = threading.Thread(target=read)
            thread.start()
            thread.join()
            kinds.append(type(x[0, 0].item()))
        return x + 1

    record(function, x)
    assert kinds == [Tensor]
    assert found == [(float(WEIGHT[0, 0]), f"{WEIGHT[0]}")]
    assert isinstance(x[0, 0].item(), float)


def test_an_unrecorded_call_while_recording_may_read_anything(x):
    found = []

    def function(x: Tensor) -> Tensor:
        with _disable_current_modes():
            found.append(WEIGHT[0].tolist())
        return x + 1

    record(function, x)
    assert found == [WEIGHT[0].tolist()]


def test_a_loss_of_nan_warns_again_after_a_recording(x):
    with following.followed(items_stay=True):
        assert pyro.util.warn_if_nan(x, "loss") is x
    with pytest.warns(UserWarning, match="NaN: loss"):
        pyro.util.warn_if_nan(torch.tensor(float("nan")), "loss")


def test_a_failing_function_is_refused_with_its_reason(x):
    def failing(x: Tensor) -> Tensor:
        raise ValueError("no such site\nand more")

    with pytest.raises(Unrecordable, match=r"^no such site \(in failing, test_recording.py:\d+\)$"):
        record(failing, x)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.float64, 1e-14)], ids=["float32", "float64"]
)
@pytest.mark.parametrize("size", [8, 24, 784, 113 * 11], ids=str)
@pytest.mark.parametrize("target", ["binary", "grey"])
def test_fused_sums_are_the_plain_ones(size, dtype, tolerance, target):
    logits = 4 * torch.randn(6, 3, size, dtype=dtype)
    logits[0, 0, :6] = torch.tensor([1e4, -1e4, 0.0, -0.0, 100.0, -100.0])
    logits[1] = 0  # the largest factors there are: nothing may overflow
    logits[2], logits[3] = 1e4, -1e4
    x = torch.rand(3, size, dtype=dtype)
    x = x.round() if target == "binary" else x
    graph = record(log_bernoulli, logits, x.expand_as(logits))
    assert fuse_bernoulli_sums(graph) == 1
    assert "binary_cross_entropy" not in str(operations(graph))
    expected = log_bernoulli(logits, x.expand_as(logits))
    found = graph(logits, x.expand_as(logits))
    assert found.dtype == dtype
    # Rounding grows with the terms of a sum, not with the sum.
    scale = (1 + logits.abs()).sum(-1)
    assert bool(((found - expected).abs() <= tolerance * scale).all())


def test_fused_sums_behind_pyros_distributions_are_found_and_counted(x):
    def twice(x: Tensor) -> Tensor:
        target = (x > 0).float()
        first = dist.Bernoulli(logits=x).to_event(1).log_prob(target)
        return first + dist.Bernoulli(logits=2 * x).log_prob(target).sum(-1)

    graph = record(twice, x)
    assert fuse_bernoulli_sums(graph) == 2
    assert fuse_bernoulli_sums(graph) == 0
    torch.testing.assert_close(graph(x), twice(x))


def test_fusing_keeps_the_draws(x):
    graph = record(noisy, x)
    assert fuse_bernoulli_sums(graph) == 1
    with forked(1):
        expected = noisy(x)
    with forked(1):
        torch.testing.assert_close(graph(x), expected)


def entropies(logits: Tensor, target: Tensor, **options) -> Tensor:
    return cross_entropy(logits, target, **{"reduction": "none"} | options)


OTHERS = {
    "weighted": lambda a, b: (-entropies(a, b, weight=torch.linspace(0.5, 2, 24))).sum(-1),
    "weighted classes": lambda a, b: (-entropies(a, b, pos_weight=torch.linspace(0.5, 2, 24))).sum(-1),
    "mean": lambda a, b: (-entropies(a, b, reduction="mean")).expand(2, 24).sum(-1),
    "sum of all": lambda a, b: (-entropies(a, b, reduction="sum")).expand(2, 24).sum(-1),
    "other dimension": lambda a, b: (-entropies(a, b)).sum(0),
    "both dimensions": lambda a, b: (-entropies(a, b)).sum((0, 1)),
    "kept dimension": lambda a, b: (-entropies(a, b)).sum(-1, keepdim=True),
    "summed in double": lambda a, b: (-entropies(a, b)).sum(-1, dtype=torch.float64),
    "targets in double": lambda a, b: (-entropies(a, b.double())).sum(-1),
    "reshaped": lambda a, b: (-entropies(a, b)).reshape(10, 12).sum(-1),
    "positive": lambda a, b: entropies(a, b).sum(-1),
    "scaled": lambda a, b: (-2 * entropies(a, b)).sum(-1),
    "few pixels": lambda a, b: (-entropies(a[:, :7], b[:, :7])).sum(-1),
    "no fit divisor": lambda a, b: (-entropies(a.repeat(1, 5)[:, :113], b.repeat(1, 5)[:, :113])).sum(-1),
    "half precision": lambda a, b: (-entropies(a.bfloat16(), b.bfloat16())).sum(-1),
}


@pytest.mark.parametrize("function", OTHERS.values(), ids=OTHERS)
def test_other_sums_are_not_changed(function, x):
    target = (x > 0).float()
    graph = record(function, x, target)
    before = operations(graph)
    assert fuse_bernoulli_sums(graph) == 0
    assert operations(graph) == before
    assert torch.equal(graph(x, target), function(x, target))


@pytest.fixture
def two_layers():
    """Return a function with an affine layer, a product of matrices and one of stacks, and its factors."""
    bias = torch.randn(8, generator=torch.Generator().manual_seed(3))
    first, second, third = (
        torch.randn(*shape, generator=torch.Generator().manual_seed(4))
        for shape in ((24, 8), (8, 8), (5, 8, 2))
    )

    def layers(x: Tensor) -> Tensor:
        hidden = torch.addmm(bias.to(x), x, first.to(x)).tanh()
        return (hidden @ second.to(x))[:, None].bmm(third.to(x))[:, 0].exp().log()

    return layers


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-7), (torch.float64, 6e-16)])
def test_logarithms_without_log1p_equal_those_of_torch(dtype, tolerance):
    inf, tiny = math.inf, torch.finfo(dtype).tiny
    special = [-2.0, -1.0, -0.5, 0.0, tiny, -tiny, 1e-9, -1e-9, 1e-3, 1e30, inf, -inf, math.nan]
    x = torch.cat([torch.tensor(special, dtype=dtype), torch.linspace(-80, 60, 2001, dtype=dtype)])
    graph = record(lambda x: [x.log1p(), softplus(x), softplus(x, 2.0, 5.0)], x)
    replace_log1p(graph)
    assert not graph.graph.find_nodes(op="call_function", target=torch.ops.aten.log1p.default)
    expected = [x.log1p(), softplus(x), softplus(x, 2.0, 5.0)]
    for found, wanted in zip(graph(x), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tiny, equal_nan=True)


def test_products_alone_are_rounded(two_layers, x, bfloat16_pays):
    graph = record(two_layers, x)
    assert use_bfloat16_products(graph) == 3
    kinds = ("_addmm", "_mm", "_bmm")
    others = [name for name in operations(record(two_layers, x)) if "mm." not in name]
    assert [name for name in operations(graph) if not name.startswith("<function")] == others
    assert sum(f"<function {kind} " in name for name in operations(graph) for kind in kinds) == 3
    found, expected = graph(x), two_layers(x)
    assert found.dtype == torch.float32
    assert 1e-4 < float((found - expected).abs().max() / expected.abs().max()) < 0.05
    assert use_bfloat16_products(graph) == 0


def test_a_rounded_product_equals_that_of_rounded_factors(x, bfloat16_pays):
    graph = record(lambda x: x @ WEIGHT, x)
    assert use_bfloat16_products(graph) == 1
    expected = x.bfloat16().float() @ WEIGHT.bfloat16().float()
    torch.testing.assert_close(graph(x), expected, rtol=2**-8, atol=1e-3)


@pytest.mark.parametrize(("half", "rounded"), [(0.5, 1), (10.0, 0)], ids=["faster", "emulated"])
def test_bfloat16_is_not_used_with_one_warning_if_it_is_not_faster(half, rounded, x, monkeypatch):
    times = iter([1.0, half])
    monkeypatch.setattr(kernels, "_seconds", lambda product: next(times))
    kernels.pays.cache_clear()
    graphs = [record(lambda x: x @ WEIGHT, x) for _ in range(2)]
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = [use_bfloat16_products(graph) for graph in graphs]  # timed once for both
    finally:
        kernels.pays.cache_clear()
    assert found == [rounded, rounded]
    expected = [] if rounded else ["bfloat16: a matrix product takes 10.0 times as long as in float32"]
    assert [str(each.message)[:65] for each in told] == expected
    if not rounded:
        assert torch.equal(graphs[0](x), x @ WEIGHT)


def test_the_timing_of_products_is_of_runs():
    ran = []
    assert 0 <= kernels._seconds(lambda: ran.append(1)) < 0.1
    assert len(ran) == kernels._TURNS


def test_double_products_stay_as_they_are(two_layers, x):
    graph = record(two_layers, x.double())
    assert use_bfloat16_products(graph) == 0
    assert torch.equal(graph(x.double()), two_layers(x.double()))


@pytest.fixture
def not_intel(monkeypatch):
    """A processor for which oneDNN is chosen."""
    monkeypatch.setattr(kernels, "is_intel", lambda: False)


has_setting = pytest.mark.skipif(
    not hasattr(getattr(torch.backends.mkldnn, "matmul", None), "fp32_precision")
    or not torch.backends.mkldnn.is_available(),
    reason="this torch has no such setting",
)


@has_setting
@pytest.mark.parametrize(
    ("intel", "mkl", "onednn"), [(True, True, False), (True, False, True), (False, True, True)]
)
def test_products_are_those_of_the_processors_maker(intel, mkl, onednn, monkeypatch):
    monkeypatch.setattr(kernels, "is_intel", lambda: intel)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    monkeypatch.setattr(kernels, "_exact", lambda: True)
    setting = torch.backends.mkldnn.matmul
    with fast_products():
        assert (setting.fp32_precision == "bf16") == onednn


@has_setting
@pytest.mark.usefixtures("not_intel")
@pytest.mark.parametrize(("rows", "large"), [(10, False), (100, True)])
def test_small_products_are_torchs_own(rows, large, monkeypatch):
    chosen = []
    monkeypatch.setattr(kernels, "_exact", lambda: not chosen.append(1))
    x, w, b = torch.randn(rows, 100), torch.randn(100, 100), torch.randn(100)
    for product in (lambda x: x @ w, lambda x: torch.addmm(b, x, w), lambda x: x[None].bmm(w[None])):
        graph = record(product, x)
        assert [
            kernels._operations(node) for node in graph.graph.nodes if node.target in kernels._PRODUCTS
        ] == [2 * rows * 100 * 100]
        assert kernels.has_large_products(graph) is large
    compiler._compiled(record(lambda x: x @ w, x), [x])([x])
    assert bool(chosen) is large
    assert not kernels.has_large_products(record(lambda x: x.exp(), x))


@has_setting
@pytest.mark.usefixtures("not_intel")
def test_fast_products_put_the_setting_back():
    setting = torch.backends.mkldnn.matmul
    before = setting.fp32_precision
    with fast_products():
        pass
    assert setting.fp32_precision == before
    with pytest.raises(ZeroDivisionError), fast_products():
        raise ZeroDivisionError
    assert setting.fp32_precision == before


@has_setting
@pytest.mark.usefixtures("not_intel")
@pytest.mark.parametrize("exact", [True, False])
def test_fast_products_are_used_only_if_they_are_exact(exact, monkeypatch):
    setting = torch.backends.mkldnn.matmul
    before = setting.fp32_precision
    tried = []

    def probe():
        tried.append(setting.fp32_precision)
        return exact

    monkeypatch.setattr(kernels, "_exact", probe)
    with fast_products():
        inside = setting.fp32_precision
    assert tried == ["bf16"]
    assert inside == ("bf16" if exact else before)
    assert setting.fp32_precision == before


@has_setting
@pytest.mark.usefixtures("not_intel")
def test_a_failing_probe_puts_the_setting_back(monkeypatch):
    before = torch.backends.mkldnn.matmul.fp32_precision
    monkeypatch.setattr(kernels, "_exact", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError), fast_products():
        pass
    assert torch.backends.mkldnn.matmul.fp32_precision == before


@pytest.mark.usefixtures("not_intel")
def test_fast_products_are_as_exact_as_others():
    a, b = torch.randn(300, 200), torch.randn(200, 100)
    with fast_products():
        found = a @ b
    torch.testing.assert_close(found, (a.double() @ b.double()).float(), rtol=0, atol=1e-4)


def test_the_probe_tells_rounded_products(monkeypatch):
    assert kernels._exact.__wrapped__()  # torch's own choice of a library
    plain = torch.Tensor.__matmul__

    def rounded(a, b):
        return plain(a.bfloat16(), b.bfloat16()).float() if a.dtype == torch.float32 else plain(a, b)

    monkeypatch.setattr(torch.Tensor, "__matmul__", rounded)
    assert not kernels._exact.__wrapped__()


class Bare:
    """torch's settings of oneDNN, as versions before 2.9 have them."""

    @staticmethod
    def is_available() -> bool:
        return True


@pytest.mark.usefixtures("not_intel")
@pytest.mark.parametrize("setting", [None, object()], ids=["no settings", "other settings"])
def test_without_the_setting_nothing_happens(setting, monkeypatch):
    bare = Bare()
    if setting is not None:
        bare.matmul = setting
    monkeypatch.setattr(torch.backends, "mkldnn", bare)
    monkeypatch.setattr(kernels, "_exact", lambda: pytest.fail("nothing to try"))
    with fast_products():
        ran = True
    assert ran


def test_a_compiled_graph_gives_the_numbers_of_the_graph(x):
    graph = record(noisy, x)
    fuse_bernoulli_sums(graph)
    fast = compile_graph(graph, x)
    for seed, rows in ((1, x), (2, x.flip(0))):
        with forked(seed):
            expected = [graph(rows) for _ in range(2)]
        with forked(seed), torch.no_grad():
            found = [fast(rows) for _ in range(2)]
        torch.testing.assert_close(found, expected)
        assert not torch.equal(*found)


def test_a_compiled_graph_of_networks_is_frozen(x):
    network = torch.nn.Sequential(torch.nn.Linear(24, 16), torch.nn.Softplus(), torch.nn.Linear(16, 4))
    fast = compile_graph(record(network, x), x)
    with torch.no_grad():
        expected = network(x)
        network[0].weight.zero_()
        torch.testing.assert_close(fast(x), expected)


WITHOUT_COMPILER = """
import torch
from pyro_dvae.engine import NoCompiler, compile_graph, record

torch.set_num_threads(1)
x = torch.randn(4, 30)
graph = record(lambda x: (x.exp() + 1).log().sum(-1), x)
try:
    compile_graph(graph, x)
except NoCompiler as error:
    print(f"refused: {error}")
print(torch.allclose(graph(x), torch.nn.functional.softplus(x).sum(-1)))
"""


def test_a_missing_compiler_is_reported(tmp_path):
    """The real error if the compiler is missing, in a process with no programs and no cache."""
    environment = {name: value for name, value in os.environ.items() if name not in ("CXX", "CC")}
    environment |= {"PATH": str(tmp_path), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_COMPILER], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    refused, plain = done.stdout.splitlines()
    assert refused.startswith("refused: ")
    assert "compiler" in refused.lower()
    assert plain == "True"


def test_programs_that_cannot_be_compiled_are_reported(x):
    graph = record(lambda x: x + 1, x)
    with pytest.raises(NoCompiler):
        compile_graph(graph, x.reshape(24, 5), x)
