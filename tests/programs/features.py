"""Small programs, one for each feature of a program: the rows of ``docs/programs.md``."""

import plate_features  # noqa: I001 - the order of the rows
import weighting_features
import latent_features
import guide_features
import odd_features

from feature_base import FEATURES, X, guide, loc, model, scale

GROUPS = (plate_features, weighting_features, latent_features, guide_features, odd_features)
__all__ = ["FEATURES", "GROUPS", "X", "guide", "loc", "model", "scale"]
