"""Pictures: from plain arrays or tensors to a PNG file, without matplotlib's global state.

Every function checks its input, draws in memory, writes beside ``path`` and moves the file into place, so
an older picture is only ever replaced by a whole new one; each returns the :class:`~pathlib.Path` written.
Missing folders are made. matplotlib is needed when a picture is drawn, not when this module is imported.
"""

from pyro_dvae.plots.curves import learning_curves
from pyro_dvae.plots.figures import DPI, FONT_SIZE, new_figure, write_figure
from pyro_dvae.plots.gaps import inference_gaps
from pyro_dvae.plots.grids import CLIPPED, NOTE, SHOWN, checked_images, denoising_grid, image_grid, note_of
from pyro_dvae.plots.manifolds import manifold, manifold_codes
from pyro_dvae.plots.tables import column_errors, latent_scatter, observed_and_reconstructed

__all__ = [
    "CLIPPED",
    "DPI",
    "FONT_SIZE",
    "NOTE",
    "SHOWN",
    "checked_images",
    "column_errors",
    "denoising_grid",
    "image_grid",
    "inference_gaps",
    "latent_scatter",
    "learning_curves",
    "manifold",
    "manifold_codes",
    "new_figure",
    "note_of",
    "observed_and_reconstructed",
    "write_figure",
]
