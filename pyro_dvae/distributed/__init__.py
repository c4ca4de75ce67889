"""Training and evaluation by several processes, data-parallel, as ``torchrun`` starts them."""

from pyro_dvae.distributed.group import Group, join
from pyro_dvae.distributed.ranks import Ranks

__all__ = ["Group", "Ranks", "join"]
