"""What a model and a guide are: a look at a pair before it is trained."""

from pyro_dvae.programs.check import Check, check

__all__ = ["Check", "check"]
