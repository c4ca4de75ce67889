"""The contenders of one training step, by the names for ``--only``, and those of a GPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from peers.problem import Problem


@dataclass(frozen=True)
class Contender:
    """A row of the table.

    :param label: label of the row.
    :param module: module of :mod:`peers`, imported only in the worker.
    :param function: its function of the problem, which returns a function that runs an epoch.
    :param options: further arguments.
    :param trains_many: whether to divide its times by the problem's number of models.
    """

    label: str
    module: str
    function: str = "build"
    options: dict[str, Any] = field(default_factory=dict)
    trains_many: bool = False

    def models(self, problem: Problem) -> int:
        """Return the number of models that a step trains."""
        return int(self.options.get("models", problem.models)) if self.trains_many else 1


CONTENDERS = {
    "numpyro": Contender("NumPyro, jitted scan", "numpyro_scan"),
    "stock": Contender("Pyro SVI, validation off", "pyro_svi", "stock"),
    "stock-validated": Contender("Pyro SVI, validation on", "pyro_svi", "stock", {"validation": True}),
    "stock-jit": Contender("Pyro SVI, JitTrace_ELBO", "pyro_svi", "stock", {"jit": True}),
    "eager": Contender("torch by hand, eager", "plain_torch"),
    "torch-compile": Contender("torch by hand, forward compiled", "plain_torch", options={"compiled": True}),
    "pythae": Contender("pythae's VAE", "pythae_parts"),
    "compiled": Contender("CompiledSVI", "pyro_svi", "compiled"),
    "compiled-hashed": Contender(
        "CompiledSVI, hashed noise", "pyro_svi", "compiled", {"generator": "hashed"}
    ),
    "compiled-bf16": Contender(
        "CompiledSVI, hashed noise, bf16", "pyro_svi", "compiled", {"generator": "hashed", "bfloat16": True}
    ),
    "compiled-threefry": Contender(
        "CompiledSVI, NumPyro's noise", "pyro_svi", "compiled", {"generator": "threefry"}
    ),
    "fit": Contender("fit, compiled", "trainers", "fit"),
    "fit-many": Contender("fit_many, per model", "trainers", "many", trains_many=True),
    "fit-many-bf16": Contender(
        "fit_many, bf16, per model", "trainers", "many", {"bfloat16": True}, trains_many=True
    ),
    "products": Contender("matrix products, our choice", "products"),
    "products-torch": Contender("matrix products, torch's own", "products", options={"library": "torch"}),
    "products-bf16": Contender("matrix products, bf16", "products", options={"bfloat16": True}),
}


def fit_many_of(models: int, precision: str = "") -> Contender:
    """Return the contender that trains this number of models together."""
    label = f"fit_many, {models} models{precision and ', '}{precision}, per model"
    options = {"models": models, "tf32": precision == "TF32", "bfloat16": precision == "bfloat16"}
    return Contender(label, "trainers", "many", options, trains_many=True)


ON_GPU = {
    **{name: CONTENDERS[name] for name in ("stock", "eager", "torch-compile", "numpyro")},
    "captured": Contender("torch by hand, CUDA graph", "plain_torch", options={"captured": True}),
    "captured-compiled": Contender(
        "torch by hand, compiled, CUDA graph", "plain_torch", options={"compiled": True, "captured": True}
    ),
    **{name: CONTENDERS[name] for name in ("compiled", "compiled-hashed", "fit")},
    **{f"fit-many-{models}": fit_many_of(models) for models in (1, 8, 40, 240)},
    "fit-many-40-tf32": fit_many_of(40, "TF32"),
    "fit-many-40-bf16": fit_many_of(40, "bfloat16"),
}
