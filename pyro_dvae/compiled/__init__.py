"""Training steps that are recorded once and compiled."""

from pyro_dvae.compiled.svi import CompiledSVI

__all__ = ["CompiledSVI"]
