"""A wrapper that corrupts the input of any guide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.indep_messenger import CondIndepStackFrame, IndepMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import is_validation_enabled
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.buffers import on_trial
from pyro_dvae.corruptions import Corruption
from pyro_dvae.errors import InputError, shown
from pyro_dvae.registration import Module, register
from pyro_dvae.sites import clean_input, corrupt


class _SamePlates(Messenger):
    """Keep the plates of a wrapped guide at the size of the clean data.

    With M > 1 corruptions, the guide gets data with draw dimensions on the left, so the usual
    ``pyro.plate("data", x.shape[0])`` would have size M. Such a plate gets its true size instead. Any other
    size is refused.
    """

    def __init__(self, sizes: dict[str, int], leading: int | None, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.sizes = sizes
        self.leading = leading
        self.shape = shape
        self.factors: dict[str, float] = {}

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if not poutine.util.site_is_subsample(msg):
            for frame in msg["cond_indep_stack"]:
                if frame.name in self.factors:
                    # Pyro takes this for subsampling; undo it.
                    msg["scale"] = msg["scale"] / self.factors[frame.name]
            msg["cond_indep_stack"] = tuple(map(self._with_true_size, msg["cond_indep_stack"]))
            return
        expected = self.sizes.get(msg["name"])
        if expected is None:
            return
        indices, fn = msg["value"], msg["fn"]
        size = len(indices) if indices is not None else fn.subsample_size or fn.size
        if size == expected:
            return
        if indices is None and fn.subsample_size is None and size == self.leading:
            msg["fn"] = type(fn)(expected, None, fn.use_cuda, fn.device)
            self.factors[msg["name"]] = size / expected
            return
        raise InputError(
            f"guide: its plate {msg['name']!r} has {size} elements, but the data have {expected} "
            f"(it was given corrupted data of shape {self.shape})"
        )

    def _with_true_size(self, frame: CondIndepStackFrame) -> CondIndepStackFrame:
        return frame._replace(full_size=frame.size) if frame.name in self.factors else frame


class DenoisingGuide(Module):
    """Any guide with corrupted input: sample ``x̃``, then call ``guide(x̃, ...)``.

    The corruption site lies in the plates that all latents of the guide share, so that bounds and baselines
    work per observation, as with a hand-written site. One run of the guide on its first call finds these
    plates and then restores the random state. If the plates change between calls, or latents lie outside
    them, name the plates with ``plates``. With M > 1 corruptions, the guide gets x̃ with draw dimensions on
    the left, so its networks must accept leading dimensions.

    :param guide: a guide whose first argument is the data, shape ``batch + event``.
    :param corruption: corruption of the first argument.
    :param name: name of the corruption site.
    :param event_dim: number of rightmost dimensions of the data that form one observation.
    :param plates: names and dims of the data plates, such as ``{"data": -1}``; by default found by one run.
    """

    def __init__(
        self,
        guide: Callable[..., Any],
        corruption: Corruption,
        *,
        name: str = "x_tilde",
        event_dim: int = 1,
        plates: dict[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.guide = checks.program("guide", guide)
        self.corruption: Corruption = checks.instance(
            "corruption", corruption, Corruption, "a pyro_dvae corruption"
        )
        self.name = checks.text("name", name)
        self.event_dim = checks.count("event_dim", event_dim, minimum=0)
        if plates is not None and not isinstance(plates, Mapping):
            raise InputError(f"plates: expected names and their dims, got {shown(plates)}")
        for plate, dim in (plates or {}).items():
            if isinstance(dim, bool) or not isinstance(dim, int) or dim >= 0:
                raise InputError(f"plates: expected a dim below 0 for each plate, got {dim!r} for {plate!r}")
        self.plates = plates

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Corrupt ``x`` and run the guide on it."""
        if not isinstance(x, Tensor):
            raise InputError(f"x: expected a tensor as the guide's first argument, got {type(x).__name__}")
        if is_validation_enabled():
            checks.finite("x", x)
        register(self.name, self.corruption)
        if self.plates is None:
            self.plates = self._find_plates(x, args, kwargs)
        sizes = {plate: self._size(x, plate, dim) for plate, dim in self.plates.items()}
        with ExitStack() as stack:
            for plate, dim in sorted(self.plates.items(), key=lambda item: item[1]):
                size = sizes[plate]
                # Only the frame, because a second pyro.plate of that name would clash with the guide's own.
                stack.enter_context(IndepMessenger(plate, size, dim))
            x_tilde = corrupt(self.name, self.corruption, x, self.event_dim)
        leading = x_tilde.shape[0] if x_tilde.dim() > x.dim() else None
        with _SamePlates(sizes, leading, tuple(x_tilde.shape)):
            return self.guide(x_tilde, *args, **kwargs)

    def _size(self, x: Tensor, plate: str, dim: int) -> int:
        position = dim - self.event_dim
        if -position > x.dim():
            raise InputError(
                f"plates: plate {plate!r} lies at dim {dim}, left of x of shape {tuple(x.shape)} "
                f"with event_dim={self.event_dim}"
            )
        return x.shape[position]

    def _find_plates(self, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, int]:
        with on_trial(), torch.no_grad(), poutine.block(), clean_input():
            trace = poutine.trace(self.guide).get_trace(x, *args, **kwargs)
        if self.name in trace.nodes:
            raise InputError(
                f"name: the guide already has a site {self.name!r}; give DenoisingGuide another name "
                "for its corruption site"
            )
        stacks = [
            frozenset(f for f in site["cond_indep_stack"] if f.vectorized)
            for _, site in trace.iter_stochastic_nodes()
            if not poutine.util.site_is_subsample(site)
        ]
        if not stacks:
            raise InputError("guide: expected at least one sample site, got none")
        common = frozenset.intersection(*stacks)
        if not common and (found := sorted(frozenset.union(*stacks), key=lambda frame: frame.dim)):
            raise InputError(
                "plates: the guide has latents outside its plates, so the plate of the observations is not "
                f"known; name it, as in plates={{{found[-1].name!r}: {found[-1].dim}}}"
            )
        for frame in common:
            self._check_size(frame, x)
        return {frame.name: frame.dim for frame in common}

    def _check_size(self, frame: CondIndepStackFrame, x: Tensor) -> None:
        position = frame.dim - self.event_dim
        size = x.shape[position] if -position <= x.dim() else 1
        if frame.size not in (size, -1):  # Pyro's plates without a size have -1
            raise InputError(
                f"guide: its plate {frame.name!r} has {frame.size} elements, but x of shape "
                f"{tuple(x.shape)} has {size}; give it the mini-batch, set event_dim, or call "
                "pyro_dvae.corrupt inside the guide"
            )
