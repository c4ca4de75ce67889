"""Training steps and losses that are recorded once and compiled."""

from pyro_dvae.compiled.loss import CompiledLoss, compile_loss
from pyro_dvae.compiled.svi import CompiledSVI

__all__ = ["CompiledLoss", "CompiledSVI", "compile_loss"]
