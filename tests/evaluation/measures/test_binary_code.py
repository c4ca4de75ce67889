"""The binary code of latents: its length by counting, its errors by decoding the bits directly."""

import json
import math

import pytest
import torch
from measured_problems import InnerPlate, Mixed, binary, no_latents
from torch import nn

import pyro_dvae as dv
from pyro_dvae.errors import InputError
from pyro_dvae.evaluation.measures import binary_code
from pyro_dvae.guides import BernoulliGuide, FlowGuide, GaussianGuide
from pyro_dvae.networks import BernoulliDecoder, GaussianDecoder
from pyro_dvae.priors import BernoulliPrior, ConcretePrior, GaussianPair, SparseBeta, StandardNormal

D, d = 6, 3
LOGITS = {"threshold": 0.0, "values": (-math.inf, math.inf)}


class Codes(nn.Module):
    """An encoder whose means are the first elements of the datum, on a scale and from a start."""

    def __init__(self, scale=1.0, start=0.0):
        super().__init__()
        self.scale, self.start = scale, start

    def forward(self, x):
        loc = self.start + self.scale * x[..., :d]
        return loc, torch.full_like(loc, 0.1)


def entropy(p):
    return -sum(q * math.log2(q) for q in (p, 1 - p) if q > 0)


def cross_entropy(decoder, code, x):
    return -decoder(code).log_prob(x).detach()


def data():
    """Eight data whose first elements are 1 in a half, a quarter and none of them, near 0.1 otherwise."""
    x = torch.rand(8, D, dtype=torch.float64)
    first = torch.tensor([[0.9] * 4 + [0.1] * 4, [0.8] * 2 + [0.2] * 6, [0.3] * 8], dtype=torch.float64)
    x[:, :d] = first.T
    return x


@pytest.mark.parametrize("chunk", [None, 3])
def test_the_length_and_errors_of_latents_near_0_and_1(chunk):
    decoder, x = BernoulliDecoder(D, d, (4,)).double(), data()
    model = dv.LatentVariableModel(decoder, GaussianPair(d))
    found = binary_code(model, GaussianGuide(Codes(), dv.BitFlip(0.3)), x, batch_size=chunk)
    assert found.share.tolist() == [0.5, 0.25, 0.0]
    torch.testing.assert_close(found.entropy, torch.tensor([1.0, entropy(0.25), 0.0], dtype=torch.float64))
    assert found.bits == pytest.approx(1.0 + entropy(0.25))
    assert found.dead_share == pytest.approx(1 / 3)
    assert found.data_size == D
    assert found.compression == pytest.approx(D / found.bits)
    code = x[:, :d]
    torch.testing.assert_close(found.from_real.cross_entropy.per_datum, cross_entropy(decoder, code, x))
    bits = (code > 0.5).double()
    torch.testing.assert_close(found.from_bits.cross_entropy.per_datum, cross_entropy(decoder, bits, x))
    squared = (x - decoder(bits).mean.detach()).square().mean(1)
    torch.testing.assert_close(found.from_bits.squared.per_datum, squared)


@pytest.mark.parametrize("prior", [SparseBeta(d), ConcretePrior(d)])
def test_latents_that_are_logits(prior):
    decoder, x = BernoulliDecoder(D, d, (4,)).double(), data()
    model = dv.LatentVariableModel(decoder, prior.double())
    found = binary_code(model, GaussianGuide(Codes(2.0, -1.0)), x, **LOGITS)
    assert found.share.tolist() == [0.5, 0.25, 0.0]
    code = (2 * x[:, :d] - 1).sigmoid()
    torch.testing.assert_close(found.from_real.cross_entropy.per_datum, cross_entropy(decoder, code, x))
    bits = (x[:, :d] > 0.5).double()
    torch.testing.assert_close(found.from_bits.cross_entropy.per_datum, cross_entropy(decoder, bits, x))


def test_bits_are_rounded_to_the_likelier_value():
    guide = BernoulliGuide.of_sizes(D, d, (4,)).double()
    decoder, x = BernoulliDecoder(D, d, (4,)).double(), data()
    found = binary_code(dv.LatentVariableModel(decoder, BernoulliPrior(d)), guide, x)
    probability = guide.encoder(x).sigmoid()
    bits = (probability > 0.5).double()
    torch.testing.assert_close(found.share, bits.mean(0))
    torch.testing.assert_close(
        found.from_real.cross_entropy.per_datum, cross_entropy(decoder, probability, x)
    )
    torch.testing.assert_close(found.from_bits.cross_entropy.per_datum, cross_entropy(decoder, bits, x))


def test_other_latents_and_names_of_sites():
    problem, x = Mixed(category=False), binary(20)
    found = binary_code(problem.model, problem.guide, x, site="switch", data_site="pixels")
    torch.testing.assert_close(found.share, ((x @ problem.switch) > 0).double().mean(0))
    means = problem.means(x)
    codes = torch.cat([(means["switch"] > 0.5).double(), means["level"].unsqueeze(-1)], -1)
    likelihood = torch.distributions.Bernoulli(logits=codes @ problem.weights)
    expected = -likelihood.log_prob(x).sum(1)
    torch.testing.assert_close(found.from_bits.cross_entropy.per_datum, expected)


def test_the_record_as_text_and_values():
    model = dv.LatentVariableModel(BernoulliDecoder(D, d, (4,)).double(), GaussianPair(d))
    found = binary_code(model, GaussianGuide(Codes()), data())
    text = str(found)
    assert "binary code of 8 rows of 6 elements" in text
    assert "1.8 bits of 3, 0.3019 per element" in text
    assert "33% of the bits" in text
    values = json.loads(json.dumps(found.to_dict(per_datum=True)))
    assert values["bits"] == pytest.approx(found.bits)
    assert len(values["from_bits"]["cross_entropy"]["per_datum"]) == 8
    gaussian = dv.LatentVariableModel(GaussianDecoder(D, d, (4,)).double(), GaussianPair(d))
    found = binary_code(gaussian, GaussianGuide(Codes()), data())
    assert found.to_dict()["from_bits"]["cross_entropy"] is None
    assert "cross-entropy" not in str(found)


def test_bad_input_is_refused():
    model = dv.LatentVariableModel(BernoulliDecoder(D, d, (4,)).double(), StandardNormal(d))
    guide, x, inner = GaussianGuide(Codes()), data(), InnerPlate()
    with pytest.raises(InputError, match=r"^site: unknown name 'zz'"):
        binary_code(model, guide, x, site="zz")
    with pytest.raises(InputError, match=r"^data_site: unknown name 'y'"):
        binary_code(model, guide, x, data_site="y")
    with pytest.raises(
        InputError, match=r"^values: expected a pair around the threshold 0.5, got \(0.0, 0.5\)"
    ):
        binary_code(model, guide, x, values=(0.0, 0.5))
    with pytest.raises(InputError, match=r"^values: expected a pair"):
        binary_code(model, guide, x, values=(0.0, 0.7, 1.0))
    with pytest.raises(InputError, match=r"^dead: expected a number in \[0, 1\]"):
        binary_code(model, guide, x, dead=2.0)
    with pytest.raises(InputError, match=r"^data: expected finite values"):
        binary_code(model, guide, x * math.nan)
    with pytest.raises(InputError, match=r"^guide: expected a distribution with a mean at 'z'"):
        binary_code(model, FlowGuide.of_sizes(D, d, (4,)).double(), x)
    with pytest.raises(InputError, match=r"^site: expected latents of one event dimension at 'z'"):
        binary_code(inner.model, inner.guide, x[:, :3])
    with pytest.raises(InputError, match=r"^model: expected at least one latent"):
        binary_code(no_latents, lambda x: None, x[:, :3])
