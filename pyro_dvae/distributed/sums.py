"""Sums of many tensors over the ranks, in few messages."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_dvae.distributed.ranks import Ranks

_ALIGNED = 16  # elements: alignment of the tensors in a message, for vector instructions


class Sum:
    """Adds up tensors over the ranks, with one message per type.

    :param like: tensors with the shapes, types and devices of later ones.
    """

    def __init__(self, ranks: Ranks, like: Sequence[Tensor]) -> None:
        self._ranks = ranks
        kinds: dict[tuple[torch.dtype, torch.device], list[int]] = {}
        for index, tensor in enumerate(like):
            kinds.setdefault((tensor.dtype, tensor.device), []).append(index)
        self.places = list(like)
        self._messages: list[Tensor] = []
        for (dtype, device), members in kinds.items():
            sizes = [-(-like[index].numel() // _ALIGNED) * _ALIGNED for index in members]
            self._messages.append(torch.zeros(sum(sizes), dtype=dtype, device=device))
            for index, part in zip(members, self._messages[-1].split(sizes), strict=True):
                self.places[index] = part[: like[index].numel()].view(like[index].shape)

    def __call__(self, tensors: Sequence[Tensor], counts: bool = True) -> list[Tensor]:
        """Return the sums, which are in ``places`` until the next call.

        :param counts: False to contribute zeros.
        """
        with torch.no_grad():
            for place, tensor in zip(self.places, tensors, strict=True):
                place.copy_(tensor) if counts else place.zero_()
        for message in self._messages:
            self._ranks.add_up(message)
        return self.places

    def gradients(self, leaves: Sequence[Tensor], counts: bool) -> None:
        """Replace the leaves' gradients by their sums; a gradient that no rank has is None.

        The message contains a flag for each leaf, then the gradients.
        """
        flags = [0.0 if leaf.grad is None else 1.0 for leaf in leaves]
        given = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
        found, *sums = self([self.places[0].new_tensor(flags), *given], counts)
        for leaf, has, total in zip(leaves, found.tolist(), sums, strict=True):
            leaf.grad = total if has else None
