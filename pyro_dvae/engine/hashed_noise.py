"""Random draws of a recorded graph from a hash of counters (Threefry or a simpler one)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from pyro_dvae.engine.gradient import drop_unused, noted

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def threefry(key: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return Threefry-2x32 with twenty rounds (Salmon et al. 2011): two words for each pair of counters.

    :param key: [2], int32, like the counters.
    """
    words = (key[0], key[1], key[0] ^ key[1] ^ _PARITY)
    x, y = first + words[0], second + words[1]
    for group in range(5):
        for turn in _ROTATIONS[group % 2]:
            x = x + y
            y = ((y << turn) | ((y >> (32 - turn)) & ((1 << turn) - 1))) ^ x
        x = x + words[(group + 1) % 3]
        y = y + words[(group + 2) % 3] + (group + 1)
    return x, y


def threefry_bits(key: Tensor, counters: Tensor) -> Tensor:
    """Return 32 bits for each counter (all int32), as JAX does for one generator state."""
    x, y = threefry(key, torch.zeros_like(counters), counters)
    return x ^ y


_aten = torch.ops.aten
_MOST = 2**30  # elements of one draw: at most twice as many counters fit into 32 bits
_DTYPES = (torch.float32, torch.float64)


Bits = Callable[[Tensor, Tensor], Tensor]


def hash_noise(graph: GraphModule, bits: Bits | None = None) -> int:
    """Replace uniform, normal and Bernoulli draws by functions of their position and a key, in place.

    The graph gets one more input, its last: ``keys`` [draws, 2] of int32, two random words for each replaced
    draw, which must be drawn for every run (:func:`draw_keys`). Element i of a draw is a hash of i and the
    key's 64 bits. Without a sequential generator, a compiler fuses the draw into the loop that uses it, on
    any number of threads, and several runs are batched by batching their keys. The distributions and their
    resolution are the same as torch's (uniforms of 24 bits in float32, 53 in float64). Other draws (gamma,
    permutations, ...) still use torch's generator.

    :param bits: function (key [2], counters) → 32 random bits, all int32; :func:`hashed_bits` by default.
    :returns: the number of draws replaced; if it is 0, the graph is unchanged and gets no input.
    """
    found = [(node, draw) for node in graph.graph.nodes if (draw := _drawn(node)) is not None]
    if not found:
        return 0
    last = [node for node in graph.graph.nodes if node.op == "placeholder"][-1]
    with graph.graph.inserting_after(last):
        keys = graph.graph.placeholder("noise_keys")
    for site, (node, (function, *arguments)) in enumerate(found):
        with graph.graph.inserting_before(node):
            key = graph.graph.call_function(_aten.select.int, (keys, 0, site))
            value = graph.graph.call_function(_drawing(function, bits or hashed_bits), (key, *arguments))
            if _in_place(node) and not _fresh(node.args[0]):  # other nodes may read this memory
                value = graph.graph.call_function(_aten.copy_.default, (node.args[0], value))
        value.meta = dict(node.meta)
        node.replace_all_uses_with(value)
        graph.graph.erase_node(node)
    drop_unused(graph)
    return len(found)


@functools.cache
def _drawing(function: Callable[..., Tensor], bits: Bits) -> Callable[..., Tensor]:
    """Return ``function`` as a function of the key, under a name that a graph can contain."""

    def draw(key: Tensor, *arguments: Any) -> Tensor:
        return function((bits, key), *arguments)

    draw.__name__ = draw.__qualname__ = f"{bits.__name__}{function.__name__}"
    return draw


def remaining_draws(graph: GraphModule) -> list[str]:
    """Return the names of the operations that still draw from torch's generator."""
    return [
        str(node.target)
        for node in graph.graph.nodes
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
    ]


def draw_keys(count: int, device: torch.device | str, generator: torch.Generator | None = None) -> Tensor:
    """Return new keys [count, 2] for one run, from ``generator`` or torch's generator of the device."""
    low, high = -(2**31), 2**31
    return torch.randint(low, high, (count, 2), dtype=torch.int32, device=device, generator=generator)


def hashed_bits(key: Tensor, counters: Tensor) -> Tensor:
    """Return 32 pseudo-random bits for each counter under a key [2], all int32.

    It applies two rounds of a 32-bit mixing function (two multiplications and three shifts, with constants
    found by a search for low bias: C. Wellons, hash-prospector, 2018), and adds one word of the key before
    each round.
    """
    return _mixed(_mixed(counters ^ key[0]) + key[1])


Stream = tuple[Bits, Tensor]  # the generator and its key


def uniform(stream: Stream, shape: Sequence[int], dtype: torch.dtype, second: bool = False) -> Tensor:
    """Return uniform numbers in [0, 1): multiples of 2^-24 in float32, of 2^-53 in float64.

    :param second: return a second set of draws under the same key.
    """
    bits, key = stream
    count = math.prod(shape)
    words = 2 if dtype == torch.float64 else 1
    start = count * words * int(second)
    counters = torch.arange(start, start + count, dtype=torch.int32, device=key.device)
    drawn = bits(key, counters)
    if dtype != torch.float64:
        return ((drawn >> 8) & 0xFFFFFF).to(dtype).mul(2.0**-24).reshape(shape)
    more = bits(key, counters + count)
    high, low = ((drawn >> 5) & 0x7FFFFFF).to(dtype), ((more >> 6) & 0x3FFFFFF).to(dtype)
    return (high * 2.0**-27 + low * 2.0**-53).reshape(shape)


def normal(stream: Stream, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return standard normal numbers (Box and Muller 1958)."""
    radius = (-2 * torch.log(1 - uniform(stream, shape, dtype))).sqrt()
    return radius * torch.cos(2 * math.pi * uniform(stream, shape, dtype, second=True))


def _mixed(x: Tensor) -> Tensor:
    x = x ^ ((x >> 16) & 0xFFFF)
    x = x * 0x7FEB352D
    x = x ^ ((x >> 15) & 0x1FFFF)
    x = x * (0x846CA68B - 2**32)
    return x ^ ((x >> 16) & 0xFFFF)


# Each returns a draw of a node's shape and type under the key.


def _uniform(stream: Stream, like: tuple[Any, ...], low: float = 0.0, high: float = 1.0) -> Tensor:
    value = uniform(stream, *like)
    return value if (low, high) == (0.0, 1.0) else low + (high - low) * value


def _normal(stream: Stream, like: tuple[Any, ...], mean: Any = 0.0, deviation: Any = 1.0) -> Tensor:
    value = normal(stream, *like)
    plain = not isinstance(mean, Tensor) and not isinstance(deviation, Tensor) and (mean, deviation) == (0, 1)
    return value if plain else mean + deviation * value


def _bernoulli(stream: Stream, like: tuple[Any, ...], probability: Any = 0.5) -> Tensor:
    shape, dtype = like
    exact = probability.dtype if isinstance(probability, Tensor) else torch.float32
    return (uniform(stream, shape, exact) < probability).to(dtype)


_Draw = tuple[Any, ...]
_FILLING: dict[Any, Callable[..., Tensor]] = {
    _aten.uniform_.default: _uniform,
    _aten.normal_.default: _normal,
    _aten.bernoulli_.float: _bernoulli,
    _aten.bernoulli_.Tensor: _bernoulli,
}
_RETURNING: dict[Any, Callable[..., Tensor]] = {
    _aten.rand.default: _uniform,
    _aten.rand_like.default: _uniform,
    _aten.randn.default: _normal,
    _aten.randn_like.default: _normal,
}


def _drawn(node: Node) -> _Draw | None:
    """Return (function, (shape, dtype), arguments...) of a draw that can be hashed, or None."""
    value = noted(node)
    if node.op != "call_function" or value is None or not hasattr(value, "dtype"):
        return None
    if value.numel() > _MOST or node.kwargs.get("generator") is not None:
        return None
    like = (tuple(value.shape), value.dtype)
    if node.target in _RETURNING:
        return (_RETURNING[node.target], like) if value.dtype in _DTYPES else None
    if node.target in _FILLING:
        function, arguments = _FILLING[node.target], node.args[1:]
    elif node.target is _aten.bernoulli.default:
        function, arguments = _bernoulli, node.args[:1]
    elif node.target is _aten.bernoulli.p:
        function, arguments = _bernoulli, node.args[1:]
    elif node.target in (_aten.normal.Tensor_Tensor, _aten.normal.Tensor_float, _aten.normal.float_Tensor):
        function, arguments = _normal, node.args
    else:
        return None
    if function is _bernoulli:
        given = noted(arguments[0]) if arguments else None
        return (function, like, *arguments) if given is None or given.dtype in _DTYPES else None
    return (function, like, *arguments) if value.dtype in _DTYPES else None


def _in_place(node: Node) -> bool:
    return node.target in _FILLING


def _fresh(filled: Any) -> bool:
    """Whether a node is uninitialised memory with a single reader."""
    makes = getattr(getattr(filled, "target", None), "name", lambda: "")()
    return makes.startswith(("aten::empty", "aten::new_empty")) and len(filled.users) == 1
