"""The recurrent networks of DRAW: cells, encoder and decoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_dvae import checks
from pyro_dvae.models.draw.attention import (
    AttentiveReader,
    AttentiveWriter,
    Reader,
    WholeReader,
    WholeWriter,
    joined,
)
from pyro_dvae.networks.mlp import last_dimension, linear
from pyro_dvae.registration import Module

State = tuple[Tensor, ...]


class Cell(Module, ABC):
    """One step of a recurrent network, h_t = RNN(h_{t−1}, input_t), which a subclass defines.

    A state is a tuple of tensors [..., hidden_size]; the first is the hidden vector h. Leading dimensions of
    input and state broadcast, so that a state shared by several draws is computed once. It starts at learned
    biases, the same for every observation, as in Gregor et al. (2015).

    :param input_size: size of the input.
    :param hidden_size: size of h.
    """

    gates: int
    parts: int

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = checks.count("hidden_size", hidden_size)
        self.input = linear(input_size, self.gates * hidden_size)
        self.recurrent = linear(hidden_size, self.gates * hidden_size)
        self.initial = nn.ParameterList(nn.Parameter(torch.zeros(hidden_size)) for _ in range(self.parts))

    def start(self) -> State:
        """Return the state before the first step, each tensor [hidden_size]."""
        return tuple(self.initial)

    @abstractmethod
    def forward(self, value: Tensor, state: State) -> State:
        """Return the state after ``value`` [..., input_size]."""


class LSTM(Cell):
    """Long short-term memory (Hochreiter and Schmidhuber 1997), with the forget gate of Gers et al. (2000).

    The forget gate starts open, with bias 1 (Jozefowicz et al. 2015). The state is (h, c).
    """

    gates = 4
    parts = 2

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        nn.init.ones_(self.input.bias[hidden_size : 2 * hidden_size])

    def forward(self, value: Tensor, state: State) -> State:
        hidden, memory = state
        enter, forget, change, leave = (self.input(value) + self.recurrent(hidden)).chunk(4, dim=-1)
        memory = forget.sigmoid() * memory + enter.sigmoid() * change.tanh()
        return leave.sigmoid() * memory.tanh(), memory


class GRU(Cell):
    """Gated recurrent unit (Cho et al. 2014); as in cuDNN, the reset gate follows the recurrent product."""

    gates = 3
    parts = 1

    def forward(self, value: Tensor, state: State) -> State:
        (hidden,) = state
        reset_in, update_in, new_in = self.input(value).chunk(3, dim=-1)
        reset_re, update_re, new_re = self.recurrent(hidden).chunk(3, dim=-1)
        new = (new_in + (reset_in + reset_re).sigmoid() * new_re).tanh()
        update = (update_in + update_re).sigmoid()
        return (new + update * (hidden - new),)


CELLS: dict[str, type[Cell]] = {"gru": GRU, "lstm": LSTM}


class Drawing(NamedTuple):
    """The state of a drawing.

    :param state: state of the recurrent cell; its first tensor is h^dec [..., hidden_size].
    :param canvas: c, the logits of the pixels so far, [..., D].
    """

    state: State
    canvas: Tensor


class DrawDecoder(Module):
    """The generative recurrence (Gregor et al. 2015, equations 7 and 8), and the likelihood::

        h^dec_t = RNN(h^dec_{t−1}, z_t),   c_t = c_{t−1} + write(h^dec_t),   x ~ Bernoulli(sigmoid(c_T))

    h^dec_0 and c_0 are learned. Values of x in [0, 1] are accepted, as by
    :class:`~pyro_dvae.networks.BernoulliDecoder`.

    :param latent_size: size of each z_t.
    :param writer: module from h^dec to the change of the canvas.
    """

    def __init__(
        self, latent_size: int, data_size: int, hidden_size: int, *, steps: int, cell: str, writer: nn.Module
    ) -> None:
        super().__init__()
        self.latent_size = checks.count("latent_size", latent_size)
        self.data_size = data_size
        self.steps = checks.count("steps", steps)
        self.cell = CELLS[checks.known("cell", cell, CELLS)](latent_size, hidden_size)
        self.writer = writer
        self.first_canvas = nn.Parameter(torch.zeros(data_size))

    def start(self) -> Drawing:
        """Return the drawing before the first step."""
        return Drawing(self.cell.start(), self.first_canvas)

    def forward(self, z: Tensor, drawing: Drawing) -> Drawing:
        """Return the drawing after the latent ``z`` [..., latent_size] of one step."""
        last_dimension("z", z, self.latent_size, "latent_size")
        state = self.cell(z, drawing.state)
        return Drawing(state, drawing.canvas + self.writer(state[0]))

    def likelihood(self, canvas: Tensor) -> dist.Independent:
        """Return p(x | z_1..z_T) with event shape [D] for the last canvas [..., D]."""
        pixels = dist.Bernoulli(logits=canvas, validate_args=False)
        return dist.Independent(pixels, 1, validate_args=False)


class DrawEncoder(Module):
    """The recognition recurrence (Gregor et al. 2015, equations 1 to 6) of corrupted data::

        r_t = read(x̃, x̃ − sigmoid(c_{t−1}), h^dec_{t−1}),   h^enc_t = RNN(h^enc_{t−1}, [r_t, h^dec_{t−1}])
        q(z_t | x̃, z_1..z_{t−1}) = N(μ_t, diag σ_t²),       (μ_t, log σ_t²) = W h^enc_t + b

    h^enc_0 is learned.

    :param reader: module of (x̃, error, h^dec) to r_t, with its size as ``output_size``.
    """

    def __init__(
        self, data_size: int, latent_size: int, hidden_size: int, *, cell: str, reader: Reader
    ) -> None:
        super().__init__()
        self.data_size = data_size
        self.reader = reader
        size = reader.output_size + hidden_size
        self.cell = CELLS[checks.known("cell", cell, CELLS)](size, hidden_size)
        self.latent_size = checks.count("latent_size", latent_size)
        self.head = linear(hidden_size, 2 * latent_size)

    def start(self) -> State:
        """Return the state before the first step."""
        return self.cell.start()

    def forward(self, x: Tensor, drawing: Drawing, state: State) -> State:
        """Return the state after reading ``x`` [..., D] and the current drawing."""
        last_dimension("x", x, self.data_size, "data_size")
        hidden = drawing.state[0]
        glimpse = self.reader(x, x - drawing.canvas.sigmoid(), hidden)
        after: State = self.cell(joined(glimpse, hidden), state)
        return after

    def posterior(self, state: State) -> dist.Independent:
        """Return q(z_t | x̃, z_1..z_{t−1}) with event shape [latent_size]."""
        loc, log_variance = self.head(state[0]).chunk(2, dim=-1)
        return dist.Normal(loc, (0.5 * log_variance).exp()).to_event(1)


def decoder_of(
    image_shape: tuple[int, int], latent_size: int, hidden_size: int, *, steps: int, cell: str, size: int
) -> DrawDecoder:
    """Return a decoder; ``size`` is N of its attention, 0 for none."""
    writer = (
        AttentiveWriter(image_shape, hidden_size, size) if size else WholeWriter(image_shape, hidden_size)
    )
    data_size = image_shape[0] * image_shape[1]
    return DrawDecoder(latent_size, data_size, hidden_size, steps=steps, cell=cell, writer=writer)


def encoder_of(
    image_shape: tuple[int, int], latent_size: int, hidden_size: int, *, cell: str, size: int
) -> DrawEncoder:
    """Return an encoder; ``size`` is N of its attention, 0 for none."""
    reader = AttentiveReader(image_shape, hidden_size, size) if size else WholeReader(image_shape)
    data_size = image_shape[0] * image_shape[1]
    return DrawEncoder(data_size, latent_size, hidden_size, cell=cell, reader=reader)
