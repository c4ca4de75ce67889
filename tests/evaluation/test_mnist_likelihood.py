"""The likelihood of a model trained on real MNIST: importance sampling compared with annealing."""

from pathlib import Path

import pyro
import pytest
import torch

import pyro_dvae as dv
from pyro_dvae.networks import BernoulliDecoder, GaussianEncoder

REAL = (Path(__file__).parents[2] / "../shared/data").resolve()


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "MNIST").is_dir(), reason="needs the real MNIST")
def test_annealing_and_importance_sampling_agree_as_far_as_they_can():
    """Both are lower bounds in expectation; annealing is tighter, here by tenths of a nat."""
    data = dv.load_dataset("mnist", REAL, download=False)
    generator = torch.Generator().manual_seed(0)
    train, test = (torch.bernoulli(part, generator=generator) for part in (data.train, data.test[:20]))
    torch.manual_seed(0)
    dvae = dv.DVAE(GaussianEncoder(784, 50, (200,)), BernoulliDecoder(784, 50), dv.SaltAndPepper(0.05))
    with pyro.settings.context(module_local_params=True):
        dv.fit(dvae.model, dvae.guide, train, loss=dv.TraceDenoising_ELBO(), epochs=4, progress=False, seed=0)
        bound = dv.evaluate_bound(
            dvae.model,
            dvae.guide,
            test,
            loss=dv.TraceDenoising_ELBO(num_corruptions=10, num_particles=10),
            seed=0,
        )
        sampled = {
            kind: dv.log_likelihood(dvae.model, dvae.guide, test, proposal=kind, seed=0)
            for kind in ("clean", "corrupted", "mixture")
        }
        annealed = dv.annealed_log_likelihood(
            dvae.model, dvae.guide, test, start="guide", num_steps=200, num_chains=8, seed=0
        )
        both = dv.bidirectional(
            dvae.model, dvae.guide, test, start="guide", num_steps=200, num_chains=8, seed=0
        )
    for found in sampled.values():
        assert found.mean > bound.mean + 3
        error = (found.standard_error.square() + annealed.standard_error.square()).sum().sqrt() / 20
        assert found.mean < annealed.mean + 4 * float(error)
        assert found.mean > annealed.mean - 2
    assert both.lower.mean < both.upper.mean + 4 * both.gap.standard_error
    assert abs(both.gap.mean) < 1
