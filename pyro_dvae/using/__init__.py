"""Uses of a trained pair: encode, decode, reconstruct, denoise, sample, interpolate, diagnose.

They are functions of any model and guide, and methods of the result of ``fit``.
"""

from pyro_dvae.using.codes import Codes, encode
from pyro_dvae.using.decoding import decode, denoise, interpolate, reconstruct, sample
from pyro_dvae.using.diagnose import diagnose
from pyro_dvae.using.diagnosis import Diagnosis, Finding
from pyro_dvae.using.labelled_draws import to_arviz
from pyro_dvae.using.methods import METHODS
from pyro_dvae.using.refitting import refit_guide
from pyro_dvae.using.saving import load_weights, save

__all__ = [
    "METHODS",
    "Codes",
    "Diagnosis",
    "Finding",
    "decode",
    "denoise",
    "diagnose",
    "encode",
    "interpolate",
    "load_weights",
    "reconstruct",
    "refit_guide",
    "sample",
    "save",
    "to_arviz",
]
