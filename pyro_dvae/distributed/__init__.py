"""Training and evaluation by several processes, data-parallel, as ``torchrun`` starts them."""

from pyro_dvae.distributed.group import Group, join
from pyro_dvae.distributed.ranks import Ranks
from pyro_dvae.distributed.sums import Sum

__all__ = ["Group", "Ranks", "Sum", "join"]
