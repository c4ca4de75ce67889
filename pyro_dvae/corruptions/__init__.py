"""Corruptions: modules from clean ``x`` to a Pyro distribution of corrupted ``x̃``."""

from pyro_dvae.corruptions.base import Corruption, NoCorruption
from pyro_dvae.corruptions.gaussian import GaussianNoise, MultiplicativeNoise
from pyro_dvae.corruptions.network import NetworkCorruption
from pyro_dvae.corruptions.replacement import BitFlip, Masking
from pyro_dvae.corruptions.salt_and_pepper import SaltAndPepper, mean_image_rate
from pyro_dvae.corruptions.swap import SwapNoise
from pyro_dvae.corruptions.thinning import BinomialThinning
from pyro_dvae.levels import ConstantSchedule, LinearSchedule, Schedule, StepSchedule

__all__ = [
    "BinomialThinning",
    "BitFlip",
    "ConstantSchedule",
    "Corruption",
    "GaussianNoise",
    "LinearSchedule",
    "Masking",
    "MultiplicativeNoise",
    "NetworkCorruption",
    "NoCorruption",
    "SaltAndPepper",
    "Schedule",
    "StepSchedule",
    "SwapNoise",
    "mean_image_rate",
]
