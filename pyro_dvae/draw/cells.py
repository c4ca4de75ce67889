"""Recurrent cells in plain tensor arithmetic: any leading dims, each operand broadcast against the others."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from pyro_dvae import checks
from pyro_dvae.networks.mlp import linear
from pyro_dvae.registration import Module

State = tuple[Tensor, ...]


class Cell(Module, ABC):
    """One step of a recurrent network, h_t = RNN(h_{t−1}, input_t); a subclass gives the arithmetic.

    A state is a tuple of tensors [..., hidden_size], its first the hidden vector h. Input and state may have
    different leading dims that broadcast, so that a state shared by several draws is computed once.
    It starts at learned biases, the same for every datum, as in Gregor et al. (2015).

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
    """Gated recurrent unit (Cho et al. 2014); its reset gate acts after the recurrent product, as cuDNN's."""

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
