"""Denoises counts with scVI (Lopez et al. 2018), in an environment with scvi-tools.

    python scvi_counts.py INPUT OUTPUT OPTIONS      (by benchmarks/counts.py --scvi-python PYTHON)

INPUT holds the counts, [N, D]; OUTPUT gets the expected shares and the expected log-normalised draws, at the
depth of the counts and at a smaller one. All settings but the likelihood are scVI's own.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np

DRAWS = 25  # at a time


def log_normalised(counts: Any) -> Any:
    """Return log(1 + 10⁴ x / Σ x) of rows [N, D]."""
    return np.log1p(counts * (1e4 / np.maximum(counts.sum(1, keepdims=True), 1)))


def main(source: str, target: str, options: str) -> None:
    """Train, and average draws."""
    import anndata
    import scvi

    asked = json.loads(options)
    scvi.settings.seed = asked["seed"]
    counts = np.load(source)
    data = anndata.AnnData(counts)
    scvi.model.SCVI.setup_anndata(data)
    model = scvi.model.SCVI(data, gene_likelihood=asked["likelihood"])
    model.train(max_epochs=asked["epochs"], accelerator="cpu", enable_progress_bar=False, logger=False)
    shares = model.get_normalized_expression(n_samples=100, return_numpy=True)
    random, logs, shallow = np.random.default_rng(asked["seed"]), 0.0, 0.0
    rounds = max(1, asked["draws"] // DRAWS)
    for _ in range(rounds):
        drawn = model.posterior_predictive_sample(n_samples=DRAWS).todense()
        for each in np.moveaxis(np.asarray(drawn), -1, 0):
            logs = logs + log_normalised(each)
            shallow = shallow + log_normalised(random.binomial(each.astype(int), asked["depth"]))
    total = rounds * DRAWS
    np.savez(target, shares=shares, logs=logs / total, shallow=shallow / total)


if __name__ == "__main__":
    main(*sys.argv[1:])
