"""DRAW, a recurrent variational autoencoder with attention, as a Pyro model and guide."""

from pyro_dvae.models.draw.draw import DRAW, DrawGuide, DrawModel
from pyro_dvae.models.draw.networks import DrawDecoder, DrawEncoder

__all__ = ["DRAW", "DrawDecoder", "DrawEncoder", "DrawGuide", "DrawModel"]
