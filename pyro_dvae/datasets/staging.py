"""Published files: complete downloads are moved into place, and MATLAB's .mat files are checked."""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import shutil
import socket
import tempfile
import textwrap
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from pyro_dvae.datasets.base import UnavailableError, needs
from pyro_dvae.datasets.registry import Request
from pyro_dvae.errors import DataError

TIMEOUT = 30.0  # seconds without an answer until a server counts as unreachable

# torchvision raises RuntimeError if a download fails; EOFError means a truncated archive.
DOWNLOAD_ERRORS = (OSError, RuntimeError, EOFError, http.client.HTTPException)


@contextlib.contextmanager
def staging(root: Path) -> Iterator[Path]:
    """Yield a temporary folder in ``root``; folders made for it are removed if they stay empty."""
    made = [folder for folder in (root, *root.parents) if not folder.exists()]
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as temporary:
            yield Path(temporary)
    finally:
        with contextlib.suppress(OSError):  # not empty: the download succeeded
            for folder in made:
                folder.rmdir()


def fetch(
    dataset: str, request: Request, urls: Mapping[str, Sequence[str]], check: Callable[[Path], object]
) -> bool:
    """Download the missing files, all or none; return whether any were missing.

    :param urls: the addresses of each file, tried in order.
    :param check: raises a :class:`DataError` for a wrong file.
    """
    missing = [file for file in urls if not os.path.isfile(request.root / file)]
    layout = ", ".join(urls)
    if missing and not request.download:
        raise unavailable(dataset, request.root, layout)
    try:
        if missing:
            with staging(request.root) as folder:
                for file in missing:
                    _download(folder / file, urls[file], check)
                for file in missing:
                    os.replace(folder / file, request.root / file)
    except DOWNLOAD_ERRORS as error:
        raise unavailable(dataset, request.root, layout, error) from error
    return bool(missing)


def fetch_by_torchvision(
    dataset: str, request: Request, layout: str, files: Sequence[str], download: Callable[[str], object]
) -> None:
    """Let torchvision ``download`` to a temporary folder; move ``files``, paths below it, to the root.

    :param layout: the files that a user could put there instead, for the error.
    """
    if not request.download:
        raise unavailable(dataset, request.root, layout)
    try:
        # Older torchvision prints each attempt; its progress bar on stderr is kept.
        with staging(request.root) as folder, _timeout(TIMEOUT), contextlib.redirect_stdout(io.StringIO()):
            download(str(folder))
            for file in files:
                (request.root / file).parent.mkdir(parents=True, exist_ok=True)
                os.replace(folder / file, request.root / file)
    except DOWNLOAD_ERRORS as error:
        raise unavailable(dataset, request.root, layout, error) from error


@contextlib.contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """Set a timeout in the body: behind a silent firewall, torchvision would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _download(target: Path, urls: Sequence[str], check: Callable[[Path], object]) -> None:
    failures = []
    for url in urls:
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as response, open(target, "wb") as file:
                shutil.copyfileobj(response, file)
                expected = getattr(response, "length", None)  # number of missing bytes
            if expected:
                raise http.client.IncompleteRead(b"", expected)
            check(target)
        except (*DOWNLOAD_ERRORS, DataError) as error:
            failures.append(f"{url}: {_cause(error).removeprefix(f'{target}: ')}")
        else:
            return
    raise RuntimeError("; ".join(failures))


def _cause(error: BaseException) -> str:
    if isinstance(error, urllib.error.HTTPError):
        error.close()  # closes the connection
    return str(error) or type(error).__name__


def unavailable(
    dataset: str, root: Path, layout: str, failure: BaseException | None = None
) -> UnavailableError:
    """Return the error for a set that is not on disk and whose download failed (or is off)."""
    if failure is not None:
        # torchvision's text runs over several lines.
        text = textwrap.shorten(_cause(failure), 300)
        reason = f"it is not in {str(root)!r} and the download failed ({text})"
    elif root.is_dir():
        reason = f"it is not in {str(root)!r} and download is off"
    else:
        reason = f"the folder {str(root)!r} does not exist and download is off"
    return UnavailableError(
        f"dataset {dataset!r} is not available: {reason}; put {layout} in that folder, "
        "or use the offline set 'digits' (--dataset digits)"
    )


#: The kind of an array's values, a dtype or "real" for any real numbers, and its shape.
Form = tuple[str, tuple[int, ...]]


def read_mat(
    dataset: str,
    path: Path,
    expected: Mapping[str, Form],
    optional: Mapping[str, Form] | None = None,
    size: int | None = None,
) -> dict[str, np.ndarray]:
    """Return the ``expected`` arrays of a .mat file; refuse missing arrays and other shapes or types.

    :param dataset: the name of the data set, for the error if SciPy is not installed.
    :param optional: arrays that are also returned if the file has them in this form.
    :param size: the size of the published file in bytes, for the error that the file is damaged.
    """
    scipy_io = needs("scipy.io", "scipy", dataset)
    optional = optional or {}
    try:
        content = scipy_io.loadmat(str(path), variable_names=[*expected, *optional])
    except Exception as error:  # SciPy may raise anything for damaged bytes
        promised = "" if size is None else f"expected {size} bytes, "
        cause = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{path}: damaged .mat file, {promised}found {os.path.getsize(path)} ({cause}); "
            "delete it to download it again"
        ) from None
    for name, form in expected.items():
        found = content.get(name)
        if not _has(found, form):
            there = f"no {name!r}" if found is None else f"{name!r} of {found.dtype} {list(found.shape)}"
            kind = "real numbers" if form[0] == "real" else form[0]
            raise DataError(f"{path}: expected an array {name!r} of {kind} {list(form[1])}, found {there}")
    kept = [*expected, *(name for name, form in optional.items() if _has(content.get(name), form))]
    return {name: content[name] for name in kept}


def _has(array: np.ndarray | None, form: Form) -> bool:
    kind, shape = form
    if array is None or array.shape != shape:
        return False
    return array.dtype.kind in "biuf" if kind == "real" else array.dtype == kind
