"""Labels results for ArviZ: from plain arrays to the container of the installed ArviZ version.

This is :class:`arviz.InferenceData` for ArviZ 0.x and :class:`xarray.DataTree` for ArviZ 1.x. ArviZ and
xarray are imported when a function is called, not when this module is imported.
"""

from __future__ import annotations

import importlib
import numbers
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from pyro_dvae import files
from pyro_dvae.errors import DataError, InputError

DATUM, SAMPLE, CHAIN, DRAW = "datum", "importance_sample", "chain", "draw"
# Variables with their descriptions and units.
DESCRIPTIONS = {
    "log_likelihood": ("log of the mean importance weight, an estimate of log p(x)", "nats"),
    "smoothed_log_likelihood": ("log_likelihood with Pareto-smoothed weights", "nats"),
    "standard_error": ("Monte Carlo standard error of log_likelihood", "nats"),
    "ess": ("effective sample size of the weights", "samples"),
    "pareto_k": ("shape of the generalised Pareto distribution of the largest weights", "1"),
    "log_weight": ("log importance weight, log p(x, z) - log q(z | x)", "nats"),
}
_ENGINE = "h5netcdf"


def labelled(
    per_datum: Mapping[str, np.ndarray],
    log_weight: np.ndarray | None = None,
    attributes: Mapping[str, str | int | float] | None = None,
    *,
    group: str = "importance_sampling",
    groups: Mapping[str, Mapping[str, tuple[Sequence[str], np.ndarray]]] | None = None,
    data_labels: np.ndarray | None = None,
) -> Any:
    """Label results of N rows with the dimensions ``datum`` and ``importance_sample``.

    :param per_datum: variables, each of shape [N]; those of ``DESCRIPTIONS`` get ``units`` and ``long_name``.
    :param log_weight: log importance weights (nats), shape [N, S]; the precision is kept.
    :param attributes: of the group, for example the number of samples and the proposal.
    :param group: name of the group that holds the variables.
    :param groups: further groups of variables, each as its dimensions and values. A variable named like its
        only dimension is a coordinate; the two dimensions above always have coordinates.
    :param data_labels: coordinates of ``datum``, shape [N]; by default 0 to N − 1.
    :returns: ``arviz.InferenceData`` (ArviZ 0.x) or ``xarray.DataTree`` (ArviZ 1.x).
    :raises InputError: shapes do not agree, netCDF cannot hold an attribute, or ArviZ is not usable.
    """
    variables: dict[str, tuple[Sequence[str], Any]] = {
        name: ((DATUM,), values) for name, values in per_datum.items()
    }
    if log_weight is not None:
        variables["log_weight"] = ((DATUM, SAMPLE), log_weight)
    if not variables:
        raise InputError("per_datum: expected at least one variable, got none")
    for name in {DATUM, SAMPLE} & set(per_datum):
        raise InputError(f"{name}: expected a variable name, got the name of a dimension")
    if group in (groups or {}):
        raise InputError(f"groups: {group!r} is the name of the main group (see the argument group)")
    first, (_, values) = next(iter(variables.items()))
    if np.ndim(values) == 0:
        raise InputError(f"{first}: expected one value per observation, got a scalar")
    labels = np.arange(len(values)) if data_labels is None else np.asarray(data_labels)
    if labels.shape != (len(values),):
        raise InputError(f"data_labels: expected shape [{len(values)}], got {list(labels.shape)}")
    return grouped({group: variables, **(groups or {})}, {group: attributes or {}}, labels)


def grouped(
    groups: Mapping[str, Mapping[str, tuple[Sequence[str], np.ndarray]]],
    attributes: Mapping[str, Mapping[str, str | int | float]],
    data_labels: np.ndarray,
) -> Any:
    """Return groups of variables in the container of the installed ArviZ.

    :param groups: variables of each group, each as its dimensions and values.
    :param attributes: attributes of some groups; versions and units are added.
    :param data_labels: coordinates of ``datum``, shape [N].
    """
    return _container(
        {
            name: _dataset(each, data_labels, _attributes(attributes[name]) if name in attributes else {})
            for name, each in groups.items()
        }
    )


def write_netcdf(data: Any, path: str | os.PathLike[str]) -> Path:
    """Write a result of :func:`labelled` to ``path`` as compressed netCDF 4, atomically.

    Read it with ``arviz.from_netcdf(path)`` or :func:`read_netcdf`.

    :raises InputError: if ``path`` cannot be written, or h5netcdf or h5py is missing.
    """
    _needed(_ENGINE)
    _needed("h5py")  # only an optional dependency of h5netcdf
    with files.replacing(path) as partial:
        try:
            if hasattr(data, "subtree"):
                encoding = {node.path: _compression(node.data_vars) for node in data.subtree}
                data.to_netcdf(partial, engine=_ENGINE, encoding=encoding)
            else:
                data.to_netcdf(os.fspath(partial), engine=_ENGINE)
        except OSError as error:
            raise files.unwritable(path, error) from None
    return Path(path)


def read_netcdf(path: str | os.PathLike[str]) -> Any:
    """Read a file of :func:`write_netcdf` into memory and close it.

    :returns: ``arviz.InferenceData`` (ArviZ 0.x) or ``xarray.DataTree`` (ArviZ 1.x).
    :raises DataError: if ``path`` is missing or not such a file.
    """
    arviz = import_arviz()
    _needed(_ENGINE)
    _needed("h5py")
    try:
        if not _has_datatree(arviz):
            with arviz.rc_context({"data.load": "eager"}), _any_group():
                return arviz.from_netcdf(os.fspath(path), engine=_ENGINE)
        import xarray

        with closing(xarray.open_datatree(path, engine=_ENGINE)) as tree:
            nodes = {node.path: node.to_dataset(inherit=False).load() for node in tree.subtree}
            return xarray.DataTree.from_dict(nodes)
    except (OSError, ValueError, KeyError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"path: cannot read {os.fspath(path)}: {reason}") from None


def import_arviz() -> ModuleType:
    """Return the module ``arviz``, without the warning about changes that 0.23 gives once a day."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return _needed("arviz")


def _needed(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except (ImportError, AttributeError, OSError) as error:  # AttributeError: built for another NumPy
        cause = " ".join(str(error).split())
        raise InputError(f"labelled results need {module} ({cause}): pip install {module}") from error


@contextmanager
def _any_group() -> Iterator[None]:
    """Allow groups outside ArviZ's schema; ArviZ 0.18 to 0.20 warn about them and have no option."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* group is not defined in the InferenceData scheme")
        yield


def _has_datatree(arviz: ModuleType) -> bool:
    return int(arviz.__version__.split(".")[0]) >= 1


def _container(datasets: Mapping[str, Any]) -> Any:
    arviz = import_arviz()
    if not _has_datatree(arviz):
        with _any_group():
            return arviz.InferenceData(**datasets)
    import xarray

    return xarray.DataTree.from_dict(dict(datasets))


def _dataset(
    variables: Mapping[str, tuple[Sequence[str], Any]], labels: np.ndarray, attributes: dict[str, Any]
) -> Any:
    import_arviz()  # says what to install; xarray comes with it
    import xarray

    sizes = {DATUM: len(labels)}
    arrays = {}
    for name, (dimensions, values) in variables.items():
        values, dimensions = np.asarray(values), tuple(dimensions)
        expected = ", ".join(str(sizes.get(each, each)) for each in dimensions)
        if values.ndim != len(dimensions) or any(
            sizes.setdefault(each, size) != size for each, size in zip(dimensions, values.shape, strict=True)
        ):
            raise InputError(f"{name}: expected shape [{expected}], got {list(values.shape)}")
        described = DESCRIPTIONS.get(name)
        notes = {"long_name": described[0], "units": described[1]} if described else {}
        arrays[name] = (dimensions, values, notes)
    counted = {name: np.arange(sizes.get(name, 0)) for name in (SAMPLE, CHAIN, DRAW)}
    coordinates = {DATUM: labels, **counted}
    used = {each for dimensions, *_ in arrays.values() for each in dimensions}
    arrays |= {name: ((name,), values, {}) for name, values in coordinates.items() if name in used}
    return xarray.Dataset(arrays, attrs=attributes)


def _attributes(attributes: Mapping[str, str | int | float]) -> dict[str, str | int | float]:
    import pyro_dvae

    result: dict[str, str | int | float] = {
        "inference_library": "pyro_dvae",
        "inference_library_version": pyro_dvae.__version__,
        "units": "nats",
    }
    for name, value in attributes.items():
        if not isinstance(value, (str, numbers.Real)):
            raise InputError(f"attributes: expected text or a number for {name!r}, got {value!r}")
        # netCDF has no booleans and no subclasses of str, such as torch's version.
        truth = isinstance(value, (bool, np.bool_))
        result[name] = int(value) if truth else str(value) if isinstance(value, str) else value
    return result


def _compression(variables: Mapping[str, Any]) -> dict[str, dict[str, bool]]:
    return {name: {"zlib": True} for name, each in variables.items() if each.dtype.kind in "biuf"}
