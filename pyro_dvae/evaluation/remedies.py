"""What errors of several measures advise."""

from __future__ import annotations

SHARED_LATENTS = (
    "; latents that all data share (the weights of a network) are integrated over by "
    "pyro_dvae.bayes.PredictiveModel"
)
