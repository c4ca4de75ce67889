"""The first run of a loss, which finds the parameters to train."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pyro_dvae import checks
from pyro_dvae.errors import warn
from pyro_dvae.internals import TorchDispatchMode
from pyro_dvae.machine import threads_for
from pyro_dvae.programs.parameters import Trained, discover
from pyro_dvae.programs.row_parameters import refuse_other_rows, row_parameter
from pyro_dvae.programs.support import InSupport
from pyro_dvae.training.batches import Batches
from pyro_dvae.training.learning_rates import left_out
from pyro_dvae.training.stopping import Faults


class DryRun(NamedTuple):
    """The result of a dry run: parameters, one row of each data argument, and a useful number of threads."""

    trained: Trained
    row: tuple[Tensor, ...]
    threads: int


def dry_run(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    loss: Any,
    batches: Batches,
    faults: Faults,
    rows_by_name: Mapping[str, Any],
) -> DryRun:
    """Run the loss of the first batch on a forked random stream; warn of parameters that it does not train.

    :param rows_by_name: the rows of training and validation by argument name, for the messages.
    """
    support: list[InSupport] = []
    given: dict[str, Tensor] = {}
    seen: list[tuple[Tensor, ...]] = []

    def run() -> None:
        batch = batches.prepared(*batches.example())
        seen.append(batch)
        given["data"] = checks.dense("transform", batch[0])
        support.append(InSupport("data", batch[0]))
        with support[-1], faults.explained(*batch):
            loss(*batch)

    with _Operations() as operations:
        trained = discover(model, guide, run, data=given)
    for argument, each in rows_by_name.items():
        if each is not None and batches.as_given:
            support[-1].require(each, argument)
    if trained.left_out:
        warn(left_out(trained))
    trained.of_rows = row_parameter(model, guide, seen[-1], trained)
    if not batches.whole:
        refuse_other_rows(trained, "batch_size", "train on all rows at once, as one batch of a tensor")
    if rows_by_name.get("validation") is not None:
        refuse_other_rows(trained, "validation", "leave it out")
    row = tuple(part[:1].detach().cpu() for part in seen[-1])
    # The backward pass takes twice as many operations as the loss.
    return DryRun(trained, row, threads_for(3 * operations.count))


class _Operations(TorchDispatchMode):
    """Counts multiplications and additions of products, without the hooks of torch's ``FlopCounterMode``.

    Those do not work in a program that differentiates its modules (``torch.func.grad``).
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self._formulas = FlopCounterMode(display=False).flop_registry

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if (formula := self._formulas.get(func.overloadpacket)) is not None:
            self.count += formula(*args, **(kwargs or {}), out_val=result)
        return result
