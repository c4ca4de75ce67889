"""Uses the recording of one program for another of the same structure, which is run but not recorded.

Recording takes much longer than a run. Of models that differ only in their weights, one is recorded. A run of
another one under observation shows whether it is the same program:

1. It runs the same code of the user's.
2. The places that it may read hold the same numbers, texts and arrays, and tensors of the same shapes.
3. The graph, with its constant tensors replaced by those in the same places, gives the loss and the
   gradients of the run.

If one of these is not so, the program has to be recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.fx import GraphModule

from pyro_dvae.engine.following import Unrecordable, failing_as
from pyro_dvae.engine.gradient import LossAndGrads, constants, evaluate
from pyro_dvae.engine.observing import observed
from pyro_dvae.engine.step import Gradient
from pyro_dvae.engine.surroundings import Surroundings
from pyro_dvae.engine.verification import Recording, unlike


def alike(
    first: Gradient,
    among: Sequence[Tensor],
    loss_and_grads: LossAndGrads,
    leaves: Sequence[Tensor],
    tensors: Sequence[Tensor],
    programs: Sequence[Any],
) -> Gradient | None:
    """Return the gradient of a program of the same structure as ``first``; None if it has to be recorded.

    :param among: the parameters given to the recording of ``first``.
    :param leaves: those of this program, in the same order.
    :param tensors: example arguments, with the shapes of those of ``first``.
    :param programs: model, guide and bound of this program, as given to a recording.
    :raises Unrecordable: the program changes what it depends on.
    """
    place = {id(leaf): number for number, leaf in enumerate(among)}
    own = [leaves[place[id(leaf)]] for leaf in first.leaves]
    recording = first.recording
    with Surroundings(programs, None).restored():
        with failing_as(Unrecordable), observed(iterators=False) as seen:
            evaluate(loss_and_grads, own, tensors)
        surroundings = Surroundings(programs, seen, own)
        expected = evaluate(loss_and_grads, own, tensors)
        surroundings.refuse_changes()
        tensor_of = recording.surroundings.paired(surroundings)
        if tensor_of is None:
            return None
        graph = _rebound(recording.graph, tensor_of)
        if unlike(graph, own, tensors, expected) is not None:
            return None
    made = Recording(graph, tuple(own), loss_and_grads, surroundings, recording.numbers)
    return Gradient(_rebound(first.graph, tensor_of), tuple(own), first.draws, made, first.coarse)


def _rebound(graph: GraphModule, tensor_of: Mapping[int, Tensor]) -> GraphModule:
    """Return the graph with other constants.

    :param tensor_of: the constants that take the place of others, by the identity of these.
    """
    other = GraphModule(graph, graph.graph)
    for name, value in constants(graph).items():
        setattr(other, name, tensor_of.get(id(value), value))
    return other
