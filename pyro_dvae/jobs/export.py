"""The networks of a run for other programs: plain weights (safetensors), or graphs to run (ONNX)."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pyro
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pyro_dvae import checks
from pyro_dvae.datasets.base import needs
from pyro_dvae.errors import InputError
from pyro_dvae.files import replacing, user_path
from pyro_dvae.jobs.folder import load_run
from pyro_dvae.random_state import forked

FORMATS = ("safetensors", "onnx")
OPSET = 18
_BATCH = 7  # rows of the check
_TOLERANCE = 1e-4  # relative, for single precision


class _Encoder(nn.Module):
    """x [B, D] → loc and scale of q(z | x), each [B, d]."""

    outputs = ("loc", "scale")

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.network = encoder
        self.inputs = ("x",)

    def forward(self, *known: Tensor) -> tuple[Tensor, Tensor]:
        loc, scale = self.network(*known)
        return loc, scale


class _Decoder(nn.Module):
    """z [B, d] (and totals [B, 1] for a decoder of counts) → E[x | z] [B, D]."""

    outputs = ("mean",)

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.network = decoder
        self.inputs = ("z", "total") if getattr(decoder, "takes_total", False) else ("z",)

    def forward(self, *known: Tensor) -> tuple[Tensor]:
        mean: Any = self.network(*known).mean
        return (mean,)


def export(run: str | Path, format: str, output: str | Path | None) -> list[Path]:  # noqa: A002
    """Write encoder and decoder of the best epoch; return the files, each compared with the original.

    ``safetensors`` holds the parameters by name. ``onnx`` holds a graph of any batch size: the encoder from
    ``x`` to ``loc`` and ``scale`` of q(z | x), the decoder from ``z`` (and ``total``, of counts) to the
    ``mean`` of p(x | z), in the scale of the model.

    :param run: the run folder.
    :param format: one of :data:`FORMATS`.
    :param output: folder of the files; None for ``export`` in the run folder.
    :raises InputError: a network cannot be exported, or what was written gives other values.
    """
    checks.known("format", format, FORMATS)
    folder = user_path("run", run)
    target = folder / "export" if output is None else user_path("output", output)
    if format == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            needs(package, package, "export --format onnx")
    dvae, config = load_run(folder)
    size, latent = config["data"]["dimension"], dvae.model.latent_size
    parts: dict[str, _Encoder | _Decoder] = {
        "encoder": _Encoder(dvae.guide.encoder),
        "decoder": _Decoder(dvae.model.decoder),
    }
    with forked(0):
        values = {"x": torch.rand(_BATCH, size).round(), "z": torch.randn(_BATCH, latent)}
    values["total"] = torch.arange(1.0, _BATCH + 1).unsqueeze(1)
    made = []
    for name, part in parts.items():
        path = target / f"{name}.{format}"
        given = tuple(values[each] for each in part.inputs)
        write = _weights if format == "safetensors" else _graph
        with torch.no_grad(), pyro.validation_enabled(False):
            write(name, part.eval(), given, path)
        made.append(path)
    return made


def _weights(name: str, part: _Encoder | _Decoder, given: tuple[Tensor, ...], path: Path) -> None:
    tensors = {key: value.contiguous() for key, value in part.network.state_dict().items()}
    with replacing(path) as partial:
        save_file(tensors, partial, {"format": "pt", "network": type(part.network).__name__})
    expected = _values(part, given)
    part.network.load_state_dict(load_file(path))
    _require_same(name, path, _values(part, given), expected)


def _graph(name: str, part: _Encoder | _Decoder, given: tuple[Tensor, ...], path: Path) -> None:
    import onnxruntime

    expected = _values(part, given)
    if not expected or any(bool(each.isnan().any()) for each in expected):
        raise InputError(
            f"format: the {name} ({type(part.network).__name__}) has categories, which have no mean to export"
            "; use --format safetensors"
        )
    rows = torch.export.Dim("batch")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter warns about itself
            program = torch.onnx.export(
                part,
                given,
                input_names=list(part.inputs),
                output_names=list(part.outputs),
                dynamic_shapes=(tuple({0: rows} for _ in given),),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # each step of the exporter has its own exceptions
        cause = (str(error.__cause__ or error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"format: the {name} ({type(part.network).__name__}) cannot be exported to ONNX: {cause}; use "
            "--format safetensors"
        ) from error
    assert program is not None
    with replacing(path) as partial:
        program.save(partial, external_data=False)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for count in (len(given[0]), 1):
        fed = {each: value[:count].numpy() for each, value in zip(part.inputs, given, strict=True)}
        found = tuple(torch.from_numpy(each) for each in session.run(list(part.outputs), fed))
        _require_same(name, path, found, tuple(each[:count] for each in expected))


def _values(part: _Encoder | _Decoder, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the output of a network; None for a distribution without a mean."""
    try:
        found: tuple[Tensor, ...] = part(*given)
    except (NotImplementedError, AttributeError):
        return ()
    return found


def _require_same(name: str, path: Path, found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for own, other in zip(found, expected, strict=True):
        close = own.shape == other.shape and torch.allclose(
            own, other, _TOLERANCE, _TOLERANCE, equal_nan=True
        )
        if not close:
            path.unlink()
            raise InputError(
                f"format: the exported {name} gives other values than the original; {path} is removed"
            )
