"""Pictures from plain arrays or tensors, without matplotlib's global state.

Every function draws on the axes that it is given (``ax=``), or on those of a new figure, and returns them;
:func:`write_figure` writes a PNG file. matplotlib is imported when a picture is drawn, not with this module.
"""

from pyro_dvae.plots.bounds import bounds, inference_gaps
from pyro_dvae.plots.curves import learning_curves
from pyro_dvae.plots.figures import DPI, FONT_SIZE, new_figure, number, write_figure
from pyro_dvae.plots.grids import SHOWN, checked_images, denoising_grid, image_grid
from pyro_dvae.plots.likelihood import (
    convergence,
    hardest_and_easiest,
    kl_per_dimension,
    log_likelihood_histogram,
    pareto_k,
)
from pyro_dvae.plots.manifolds import manifold, manifold_codes
from pyro_dvae.plots.tables import column_errors, latent_scatter, observed_and_reconstructed

__all__ = [
    "DPI",
    "FONT_SIZE",
    "SHOWN",
    "bounds",
    "checked_images",
    "column_errors",
    "convergence",
    "denoising_grid",
    "hardest_and_easiest",
    "image_grid",
    "inference_gaps",
    "kl_per_dimension",
    "latent_scatter",
    "learning_curves",
    "log_likelihood_histogram",
    "manifold",
    "manifold_codes",
    "new_figure",
    "number",
    "observed_and_reconstructed",
    "pareto_k",
    "write_figure",
]
