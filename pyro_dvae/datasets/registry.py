"""The registry of data sets, and :func:`load_dataset`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import torch

from pyro_dvae import checks
from pyro_dvae.datasets.base import Dataset, UnavailableError
from pyro_dvae.datasets.from_tables import treated
from pyro_dvae.datasets.treatment import Content, Treatment
from pyro_dvae.errors import DataError, InputError, warn
from pyro_dvae.files import user_path

DEFAULT = "mnist"
OFFLINE = "digits"


@dataclass(frozen=True)
class Request:
    """The arguments of a loader: the folder, whether to download, and the seed of a random split.

    ``treatment`` describes how to read a user's own file.
    """

    root: Path
    download: bool = True
    split_seed: int = 0
    treatment: Treatment = field(default_factory=Treatment)


Loader = Callable[[Request], Dataset]
FileLoader = Callable[[Path, Request], Dataset]
Reader = Callable[[Path, Treatment], Content]
_Any = TypeVar("_Any", Loader, FileLoader, Reader)

_named: dict[str, Loader] = {}
_files: dict[str, Reader] = {}
_prefixed: dict[str, FileLoader] = {}


def register(name: str) -> Callable[[Loader], Loader]:
    """Make ``load_dataset(name)`` call the decorated loader; case does not matter."""
    return _enter(_named, name.lower())


def own_loaders() -> dict[str, Loader]:
    """Return the loaders by name that are not of this package; another process does not know them."""
    package = __name__.partition(".")[0]
    return {
        name: loader
        for name, loader in _named.items()
        if getattr(loader, "__module__", "").partition(".")[0] != package
    }


def register_all(loaders: Mapping[str, Loader]) -> None:
    """Register the loaders of another process, without those whose names are known."""
    for name, loader in loaders.items():
        _named.setdefault(name, loader)


def register_file(suffix: str) -> Callable[[Reader], Reader]:
    """Make ``load_dataset("....suffix")`` call the decorated reader on that file."""
    return _enter(_files, suffix)


def register_prefix(prefix: str) -> Callable[[FileLoader], FileLoader]:
    """Make ``load_dataset("prefix:PATH")`` call the decorated loader on that path."""
    return _enter(_prefixed, prefix)


def dataset_names() -> tuple[str, ...]:
    """Return the names of data sets that :func:`load_dataset` knows, besides your own files."""
    return tuple(sorted(_named))


def is_file_name(name: str | Path) -> bool:
    """Return whether :func:`load_dataset` treats ``name`` as the path of a file."""
    return _prefix_and_path(name) is None and Path(name).suffix.lower() in _files


def is_own(name: str) -> bool:
    """Return whether ``name`` refers to a user's own data: a file, or a folder of images."""
    return is_file_name(name) or _prefix_and_path(name) is not None


def check_name(name: str) -> None:
    """Refuse what :func:`load_dataset` takes for the name of a published data set and does not know."""
    if is_own(name):
        return
    try:
        checks.known("dataset", name.lower(), _named)
    except InputError as error:
        endings = ", ".join(sorted(_files))
        raise InputError(f"{error}; or a file ending in one of {endings}, or folder:PATH") from None


def absolute_name(name: str) -> str:
    """Return the only name of a data set for :func:`load_dataset`, in every working directory."""
    if found := _prefix_and_path(name):
        return f"{found[0]}:{user_path('dataset', found[1]).absolute()}"
    return str(user_path("dataset", name).absolute()) if is_file_name(name) else name.lower()


def _prefix_and_path(name: str | Path) -> tuple[str, str] | None:
    prefix, colon, path = name.partition(":") if isinstance(name, str) else ("", "", "")
    return (prefix, path) if colon and prefix in _prefixed else None


def load_dataset(
    name: str | Path | None = None,
    root: str | Path = "data",
    *,
    download: bool = True,
    split_seed: int = 0,
    scale: str = "auto",
    columns: Sequence[str] | None = None,
    drop: Sequence[str] = (),
    label_column: str | None = None,
    id_column: str | None = None,
    array: str | None = None,
    kinds: Mapping[str, str] | None = None,
) -> Dataset:
    """Load a data set as training, validation and test tensors of torch's default type.

    ``source`` of the result describes what was found and done. The arguments from ``scale`` on are for your
    own files.

    :param name: one of :func:`dataset_names`, or the path of a file: a table (.csv, .tsv, .parquet) or
        arrays (.npy, .npz, .mat), or ``folder:PATH`` for images of one size, in a sub-folder for each class.
        None loads MNIST or, if it is not available, scikit-learn's digits, with a warning.
    :param root: folder of the files, to which they are also downloaded.
    :param download: whether missing files may be downloaded.
    :param split_seed: seed of a random split (Frey faces, digits, single files, folders of images). All
        other sets have a fixed split.
    :param scale: "none", "unit" (to [0, 1]), "standardise", or "bytes" (divided by 255); "auto" leaves binary
        values and arrays in [0, 1] unchanged and standardises all others. It refuses a file of whole numbers
        only, unless there is a column of classes.
    :param columns: names of the columns to keep; numbers from 0 if there are no names.
    :param drop: names of columns to leave out.
    :param label_column: the column of the classes.
    :param id_column: a column that names the rows, which is left out.
    :param array: the name of the array of an archive.
    :param kinds: kinds of columns, by name, that their values do not show: "categorical", "count",
        "heavy-tailed", "ordinal", "positive" or "real".
    :raises InputError: if the name is unknown or an argument is invalid.
    :raises DataError: if the data set is not available, damaged, or has values that the models cannot use.
    """
    if not isinstance(root, str | Path):
        raise InputError(f"root: expected a folder's path, got {root!r}")
    split_seed = checks.count("split_seed", split_seed, 0, 2**32 - 1)
    checks.flag("download", download)
    treatment = Treatment(scale, columns, drop, label_column, id_column, array, kinds).checked()
    if treatment != Treatment() and not (isinstance(name, str | Path) and is_file_name(name)):
        raise InputError(
            "scale, columns, drop, label_column, id_column, array, kinds: only for your own files"
        )
    request = Request(user_path("root", root), download, split_seed, treatment)
    return _loaded(name, request).to(torch.get_default_dtype())


def _loaded(name: str | Path | None, request: Request) -> Dataset:
    if name is None:
        return _default(request)
    if not isinstance(name, str | Path):
        raise InputError(f"dataset: expected a name or the path of an array file, got {name!r}")
    if (found := _prefix_and_path(name)) is not None:
        return _prefixed[found[0]](user_path("dataset", found[1]), request)
    if is_file_name(name):
        return treated(read_file(name, request.treatment), request.treatment, request.split_seed)
    if isinstance(name, Path):
        raise DataError(f"{name}: expected a file ending in one of {', '.join(sorted(_files))}")
    check_name(name)
    return _in_unit_interval(_named[name.lower()](request))


def read_file(name: str | Path, treatment: Treatment) -> Content:
    """Return the content of a user's file before any treatment.

    :raises DataError: the file is missing, damaged or of an unknown kind.
    :raises InputError: an array is named, and the file is no archive.
    """
    if not is_file_name(name):
        raise DataError(f"{name}: expected a file ending in one of {', '.join(sorted(_files))}")
    content = _files[Path(name).suffix.lower()](user_path("dataset", name), treatment)
    if treatment.array is not None and not content.named:
        raise InputError(f"array: {name} is no archive of named arrays (.npz, .mat); leave array out")
    return content


def _in_unit_interval(dataset: Dataset) -> Dataset:
    """Refuse a published set with values outside [0, 1], because its file must be wrong."""
    for part in ("train", "validation", "test"):
        try:
            checks.unit_interval(f"{dataset.name}, {part}", getattr(dataset, part))
        except InputError as error:
            raise DataError(str(error)) from None
    return dataset


def _default(request: Request) -> Dataset:
    try:
        return _named[DEFAULT](request)
    except UnavailableError as error:  # do not train on other data because a local copy is damaged
        reason = str(error)
    substitute = replace(_named[OFFLINE](request), substituted_for=DEFAULT)
    warn(
        f"NOT {DEFAULT.upper()}, but {OFFLINE!r} ({'x'.join(map(str, substitute.picture_shape))} images): "
        f"its results are not comparable with published ones. Reason: {reason}",
    )
    return replace(substitute, source=f"{substitute.source}; in place of {DEFAULT}, because: {reason}")


def _enter(table: dict[str, _Any], key: str) -> Callable[[_Any], _Any]:
    def enter(loader: _Any) -> _Any:
        if key in table:
            raise ValueError(f"{key!r} is registered already")
        table[key] = loader
        return loader

    return enter
