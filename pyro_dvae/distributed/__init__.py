"""Data-parallel training and evaluation by several processes, started by ``torchrun``."""

from pyro_dvae.distributed.group import Group, join
from pyro_dvae.distributed.ranks import Ranks
from pyro_dvae.distributed.sums import Sum

__all__ = ["Group", "Ranks", "Sum", "join"]
