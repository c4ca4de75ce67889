"""DRAW, a recurrent variational autoencoder with attention, as a Pyro model and guide."""

from pyro_dvae.draw.draw import DRAW
from pyro_dvae.draw.networks import DrawDecoder, DrawEncoder
from pyro_dvae.draw.programs import DrawGuide, DrawModel

__all__ = ["DRAW", "DrawDecoder", "DrawEncoder", "DrawGuide", "DrawModel"]
