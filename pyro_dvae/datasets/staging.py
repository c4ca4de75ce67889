"""Downloads land beside their place and are moved in whole, so a broken one leaves nothing behind."""

from __future__ import annotations

import contextlib
import http.client
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

from pyro_dvae.datasets.base import UnavailableError

TIMEOUT = 30.0  # seconds without an answer, after which a server counts as unreachable

# torchvision reports a failed download as RuntimeError; EOFError is an archive cut short.
DOWNLOAD_ERRORS = (OSError, RuntimeError, EOFError, http.client.HTTPException)


@contextlib.contextmanager
def staging(root: Path) -> Iterator[Path]:
    """A temporary folder inside ``root``; folders made for it go too if nothing was moved there."""
    made = [folder for folder in (root, *root.parents) if not folder.exists()]
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as temporary:
            yield Path(temporary)
    finally:
        with contextlib.suppress(OSError):  # not empty: the download succeeded
            for folder in made:
                folder.rmdir()


def unavailable(
    dataset: str, root: Path, layout: str, failure: BaseException | None = None
) -> UnavailableError:
    """The one line for a set that is not on disk, and whose download failed (or, without one, is off)."""
    if failure is not None:
        # torchvision's text runs over several lines.
        text = textwrap.shorten(str(failure) or type(failure).__name__, 300)
        reason = f"it is not in {str(root)!r} and the download failed ({text})"
    elif root.is_dir():
        reason = f"it is not in {str(root)!r} and download is off"
    else:
        reason = f"the folder {str(root)!r} does not exist and download is off"
    return UnavailableError(
        f"dataset {dataset!r} cannot be had: {reason}; put {layout} in that folder, "
        "or use the offline set 'digits' (--dataset digits)"
    )
