"""The systems of ``systems.py``, declared as data: one module per kind, one entry per system."""

from catalogue.baselines import BASELINES
from catalogue.corruptions import CORRUPTIONS
from catalogue.counts import COUNTS
from catalogue.decoders import DECODERS
from catalogue.discrete import DISCRETE
from catalogue.encoders import ENCODERS
from catalogue.guides import GUIDES
from catalogue.others import OTHERS
from catalogue.priors import PRIORS
from catalogue.system import System

SYSTEMS: dict[str, System] = {
    system.name: system
    for group in (ENCODERS, DECODERS, COUNTS, GUIDES, DISCRETE, PRIORS, CORRUPTIONS, OTHERS, BASELINES)
    for system in group
}
