"""Recorded programs: a run of Pyro code as a graph of tensor operations, rewritten and compiled."""

from pyro_dvae.recording.bernoulli_sum import fuse_bernoulli_sums
from pyro_dvae.recording.compilation import NoCompiler, compile_graph, compiling
from pyro_dvae.recording.following import Unrecordable
from pyro_dvae.recording.half_products import use_bfloat16_products
from pyro_dvae.recording.matmul import fast_products
from pyro_dvae.recording.record import record

__all__ = [
    "NoCompiler",
    "Unrecordable",
    "compile_graph",
    "compiling",
    "fast_products",
    "fuse_bernoulli_sums",
    "record",
    "use_bfloat16_products",
]
