"""The registry of data sets, and :func:`load_dataset`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch

from pyro_dvae import checks
from pyro_dvae.datasets.base import Dataset, UnavailableError
from pyro_dvae.errors import DataError, InputError
from pyro_dvae.files import user_path

DEFAULT = "mnist"
OFFLINE = "digits"


@dataclass(frozen=True)
class Request:
    """The arguments of a loader: the folder, whether it may download, and the seed of a random split."""

    root: Path
    download: bool = True
    split_seed: int = 0


Loader = Callable[[Request], Dataset]
FileLoader = Callable[[Path, Request], Dataset]
_Any = TypeVar("_Any", Loader, FileLoader)

_named: dict[str, Loader] = {}
_files: dict[str, FileLoader] = {}
_prefixed: dict[str, FileLoader] = {}


def register(name: str) -> Callable[[Loader], Loader]:
    """Make ``load_dataset(name)`` call the decorated loader."""
    return _enter(_named, name)


def register_file(suffix: str) -> Callable[[FileLoader], FileLoader]:
    """Make ``load_dataset("....suffix")`` call the decorated loader on that file."""
    return _enter(_files, suffix)


def register_prefix(prefix: str) -> Callable[[FileLoader], FileLoader]:
    """Make ``load_dataset("prefix:PATH")`` call the decorated loader on that path."""
    return _enter(_prefixed, prefix)


def dataset_names() -> tuple[str, ...]:
    """The names :func:`load_dataset` knows, beside a user's own array files."""
    return tuple(sorted(_named))


def is_file_name(name: str | Path) -> bool:
    """Return whether :func:`load_dataset` takes ``name`` for the path of an array file."""
    return _prefix_and_path(name) is None and Path(name).suffix.lower() in _files


def absolute_name(name: str) -> str:
    """Return a name of :func:`load_dataset` that means the same data from every working directory."""
    if found := _prefix_and_path(name):
        return f"{found[0]}:{user_path('dataset', found[1]).absolute()}"
    return str(user_path("dataset", name).absolute()) if is_file_name(name) else name


def _prefix_and_path(name: str | Path) -> tuple[str, str] | None:
    prefix, colon, path = name.partition(":") if isinstance(name, str) else ("", "", "")
    return (prefix, path) if colon and prefix in _prefixed else None


def load_dataset(
    name: str | Path | None = None,
    root: str | Path = "data",
    *,
    download: bool = True,
    split_seed: int = 0,
) -> Dataset:
    """Load a data set as train, validation and test tensors of torch's default type.

    :param name: one of :func:`dataset_names`, the path of an array file (.npy, .npz, .csv), or
        ``folder:PATH`` for images of one size, by class in sub-folders. None loads MNIST or, if it is not
        available, scikit-learn's offline digits, with a warning.
    :param root: folder of the files, to which they are also downloaded.
    :param download: whether missing files may be downloaded.
    :param split_seed: seed of a random split (Frey faces, digits, single arrays, folders of images). All
        other sets have a fixed split.
    :raises InputError: if the name is unknown or an argument is invalid.
    :raises DataError: if the set is not available, is damaged, or has values that the models cannot use.
    """
    if not isinstance(root, str | Path):
        raise InputError(f"root: expected a folder's path, got {root!r}")
    checks.count("split_seed", split_seed, 0, 2**32 - 1)
    checks.flag("download", download)
    request = Request(user_path("root", root), download, split_seed)
    return _loaded(name, request).to(torch.get_default_dtype())


def _loaded(name: str | Path | None, request: Request) -> Dataset:
    if name is None:
        return _default(request)
    if not isinstance(name, str | Path):
        raise InputError(f"dataset: expected a name or the path of an array file, got {name!r}")
    if (found := _prefix_and_path(name)) is not None:
        return _prefixed[found[0]](user_path("dataset", found[1]), request)
    if is_file_name(name):
        return _files[Path(name).suffix.lower()](user_path("dataset", name), request)
    endings = ", ".join(sorted(_files))
    if isinstance(name, Path):
        raise DataError(f"{name}: expected a file ending in one of {endings}")
    try:
        known = checks.known("dataset", name.lower(), _named)
    except InputError as error:
        raise InputError(f"{error}; or a file ending in one of {endings}, or folder:PATH") from None
    return _named[known](request)


def _default(request: Request) -> Dataset:
    try:
        return _named[DEFAULT](request)
    except UnavailableError as error:  # a damaged local copy is no reason to train on something else
        reason = str(error)
    substitute = replace(_named[OFFLINE](request), substituted_for=DEFAULT)
    warnings.warn(
        f"NOT {DEFAULT.upper()}: no dataset was named and {DEFAULT} cannot be had, so this is {OFFLINE!r} "
        f"({substitute.image_shape[0]}x{substitute.image_shape[1]} images); its figures compare with nothing "
        f"published. Reason: {reason}",
        UserWarning,
        stacklevel=4,
    )
    return replace(substitute, source=f"{substitute.source}; in place of {DEFAULT}, because: {reason}")


def _enter(table: dict[str, _Any], key: str) -> Callable[[_Any], _Any]:
    def enter(loader: _Any) -> _Any:
        if key in table:
            raise ValueError(f"{key!r} is registered already")
        table[key] = loader
        return loader

    return enter
