"""Private or unstable names of torch, Pyro and Python: each is used only here, with a reason.

``tests/test_internals.py`` fails if a name is gone or its meaning has changed, and if another file of the
package uses one.
"""

from __future__ import annotations

import importlib
import operator
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any, NoReturn

import pyro
import pyro.util
import torch
from pyro.optim import PyroOptim
from pyro.poutine import runtime
from torch import Tensor, nn
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Optimizer
from torch.optim import optimizer as optimizers
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _disable_current_modes,
    _get_current_dispatch_mode_stack,
)
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_map, tree_unflatten

__all__ = ["TorchDispatchMode", "TreeSpec", "tree_flatten", "tree_leaves", "tree_map", "tree_unflatten"]

# Python

IMPORTER: str = importlib._bootstrap._find_and_load.__code__.co_filename  # type: ignore[attr-defined]
"""The file of the frames that import a module, which a watcher of frames leaves out."""


def frame(depth: int = 0) -> FrameType:
    """Return the frame of the caller, or of one of its callers."""
    return sys._getframe(depth + 1)


def end_process(code: int) -> NoReturn:
    """End this process at once, without finalization by the interpreter and libraries."""
    os._exit(code)


# Modes of torch, which intercept every operation or function


def without_modes() -> Any:
    """Return a context outside all modes, whose body is not part of a recording."""
    return _disable_current_modes()


def devices_of_modes() -> list[str] | None:
    """Return the active devices of ``with torch.device(...)``; None if another mode is active."""
    modes = [torch._C._get_function_stack_at(n) for n in range(torch._C._len_torch_function_stack())]
    if _get_current_dispatch_mode_stack() or not all(isinstance(mode, DeviceContext) for mode in modes):
        return None
    return [str(mode.device) for mode in modes]


def noting_shapes() -> Any:
    """Return a context in which a recording stores the shapes of all values in one mode.

    By default torch makes a mode for each value, with a stack trace, which takes half of the time.
    """
    return tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True)))


# Operations of torch


def schema(operation: Any) -> Any:
    """Return the schema of an operation (its arguments and what it writes to); None for anything else."""
    return getattr(operation, "_schema", None)


def storage(tensor: Tensor) -> int:
    """Return an identifier that all views of one memory share, also if it has no address."""
    return int(tensor.untyped_storage()._cdata)


UNSAFE_VIEW = torch.ops.aten._unsafe_view.default
"""The operation that replaces a view in a recording."""


def move_averages(averages: Sequence[Tensor], values: Sequence[Tensor], share: float) -> None:
    """Move each average towards its value by ``share``, in one launch, as torch's optimizers do."""
    torch._foreach_lerp_(list(averages), list(values), share)


def add_one(counts: Sequence[Tensor]) -> None:
    """Add one to each count, in one launch, as torch's optimizers do."""
    torch._foreach_add_(list(counts), 1)


def standard_gamma(concentration: Tensor) -> Tensor:
    """Draw Gamma(a, 1), with a gradient; ``Gamma.rsample`` would round small draws up."""
    return torch._standard_gamma(concentration)


# Modules and distributions of torch


def place_parameter(module: nn.Module, name: str, value: Tensor | None) -> None:
    """Replace a parameter of a module with any tensor or None, where modules require ``nn.Parameter``."""
    owner, _, leaf = name.rpartition(".")
    module.get_submodule(owner)._parameters[leaf] = value  # type: ignore[assignment]


def version(tensor: Tensor) -> int:
    """Return the number of in-place changes of a tensor or of another view of its memory."""
    return int(tensor._version)


def hooks(tensor: Tensor) -> tuple[int, ...]:
    """Return the unique numbers of the hooks on a tensor's gradient."""
    before, after = tensor._backward_hooks, tensor._post_accumulate_grad_hooks
    return (*(before or ()), *(after or ())) if before or after else ()


def step_hooks(optimizer: Optimizer) -> bool:
    """Return whether a step of an optimizer calls functions before or after it."""
    own = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    return bool(own or optimizers._global_optimizer_pre_hooks or optimizers._global_optimizer_post_hooks)


def mask_of(distribution: Any) -> bool | Tensor:
    """Return the mask of Pyro's ``MaskedDistribution``."""
    mask: bool | Tensor = distribution._mask
    return mask


def given_logits(distribution: Any) -> bool:
    """Whether a distribution of torch was made from logits instead of probabilities."""
    held = vars(distribution)
    return held.get("_param") is held.get("logits")


def validates(distribution: Any) -> bool | None:
    """Return a distribution's own setting of validation; None if it has none."""
    return vars(distribution).get("_validate_args")


def shared_tril(distribution: Any) -> Tensor:
    """Return the Cholesky factor of a ``MultivariateNormal``, not expanded over rows that share it."""
    found: Tensor = distribution._unbroadcasted_scale_tril
    return found


def shared_factors(distribution: Any) -> tuple[Tensor, Tensor]:
    """Return the factors and variances of a ``LowRankMultivariateNormal``, not expanded over rows."""
    return distribution._unbroadcasted_cov_factor, distribution._unbroadcasted_cov_diag


# The compilers of torch


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run modules wrapped by ``torch.compile`` uncompiled in the body.

    The compiler does not support global hooks, and compiled code cannot be recorded.
    """
    # If the compiler is not loaded (which takes a second), nothing is wrapped.
    set_stance = getattr(torch.compiler, "set_stance", None) if "torch._dynamo" in sys.modules else None
    if set_stance is None:
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using `torch.compile.module.` when there are global hooks")
        with set_stance("force_eager"), torch._dynamo.config.patch(error_on_nested_fx_trace=False):
            yield


def compiler_options(**options: Any) -> Any:
    """Return a context with the given compiler options, as far as this version of torch has them."""
    from torch._inductor import config  # late, because it is slow

    return config.patch({name: value for name, value in options.items() if hasattr(config, name)})


def compiled(graph: torch.fx.GraphModule, example: list[Tensor]) -> Callable[..., Any]:
    """Compile a graph without the compiler's front end for Python code, which a graph does not need.

    The compiler uses its cache on disk, also from other processes, only if it gets the symbols of the shapes;
    here there are none.
    """
    import torch._inductor
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    function: Callable[..., Any]
    try:
        with tracing(TracingContext(FakeTensorMode(shape_env=ShapeEnv()))):
            function = torch._inductor.compile(graph, [*example])
    except Exception:  # this torch has an operation without symbolic shapes
        function = torch._inductor.compile(graph, [*example])
    return function


# Pyro


def leaves_in_store() -> dict[str, Tensor]:
    """Return the unconstrained parameters of Pyro's store by name; its own methods would transform each."""
    found: dict[str, Tensor] = pyro.get_param_store()._params
    return found


def handlers() -> list[Any]:
    found: list[Any] = runtime._PYRO_STACK
    return found


def setting(name: str) -> Callable[[], Any]:
    """Return a reader of one of Pyro's settings, three times as fast as a look-up by name."""
    module, path, _ = pyro.settings._REGISTRY[name]
    return partial(operator.attrgetter(path), importlib.import_module(module))


@contextmanager
def without_nan_check() -> Iterator[None]:
    """Disable ``pyro.util.warn_if_nan`` in the body, because it branches on values.

    This is the only process-wide change, because Pyro has no setting for it. It also affects other threads.
    """
    before = pyro.util.torch_isnan
    pyro.util.torch_isnan = lambda value: False
    try:
        yield
    finally:
        pyro.util.torch_isnan = before


def clip_arguments(optimizer: PyroOptim, leaf: Tensor) -> dict[str, Any]:
    """Return how a Pyro optimizer clips the gradient of a parameter."""
    found: dict[str, Any] = optimizer._get_grad_clip_args(leaf)
    return found


def clip(optimizer: PyroOptim, leaf: Tensor) -> Callable[[Tensor], None]:
    """Return the clipping function of a Pyro optimizer in a form that can be pickled."""
    return partial(PyroOptim._clip_grad, **clip_arguments(optimizer, leaf))


def add_waiting_state(optimizer: PyroOptim, state: dict[str, Any]) -> None:
    """Make a Pyro optimizer start with this state at its first use of parameters of these names."""
    optimizer._state_waiting_to_be_consumed = optimizer._state_waiting_to_be_consumed | state


# Optuna


def trial_id(trial: Any) -> int:
    """Return the number of a trial in its storage, so that another process can continue it."""
    return int(trial._trial_id)
