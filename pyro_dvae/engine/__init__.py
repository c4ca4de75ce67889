"""Pyro programs recorded as graphs of tensor operations, rewritten and compiled."""

from pyro_dvae.engine.compiler import NoCompiler, compile_graph, compiling
from pyro_dvae.engine.following import Unrecordable
from pyro_dvae.engine.gradient import record
from pyro_dvae.engine.kernels import (
    bfloat16_pays,
    fast_products,
    fuse_bernoulli_sums,
    replace_log1p,
    use_bfloat16_products,
)
from pyro_dvae.engine.loss import CompiledLoss, compile_loss
from pyro_dvae.engine.svi import CompiledSVI

__all__ = [
    "CompiledLoss",
    "CompiledSVI",
    "NoCompiler",
    "Unrecordable",
    "bfloat16_pays",
    "compile_graph",
    "compile_loss",
    "compiling",
    "fast_products",
    "fuse_bernoulli_sums",
    "record",
    "replace_log1p",
    "use_bfloat16_products",
]
