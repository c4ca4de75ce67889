import math

import pyro
import pytest
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.infer import Trace_ELBO
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from pyro_dvae.errors import InputError
from pyro_dvae.jobs.options import COUNTS, Options
from pyro_dvae.jobs.parts import build_decoder
from pyro_dvae.networks import BernoulliDecoder, ContinuousBernoulliDecoder, GaussianDecoder, TableDecoder


def hidden_by_hand(decoder, z):
    hidden = z
    for layer in (decoder.trunk[0], decoder.trunk[2]):
        hidden = softplus(hidden @ layer.weight.T + layer.bias)
    return hidden


def affine(layer, value):
    return value @ layer.weight.T + layer.bias


def close(actual, expected, atol=1e-12):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


@pytest.fixture
def z():
    torch.manual_seed(0)
    return torch.randn(6, 2, dtype=torch.float64)


@pytest.fixture
def grey(z):
    return torch.rand(6, 5, dtype=torch.float64)


@pytest.fixture
def bernoulli(z):
    return BernoulliDecoder(5, 2, hidden_sizes=(4, 3)).double()


def test_bernoulli_logits_equal_the_hand_written_computation(bernoulli, z):
    close(bernoulli(z).base_dist.logits, affine(bernoulli.head, hidden_by_hand(bernoulli, z)))


def test_bernoulli_likelihood_of_grey_targets_is_the_cross_entropy(bernoulli, z, grey):
    logits = affine(bernoulli.head, hidden_by_hand(bernoulli, z))
    expected = -binary_cross_entropy_with_logits(logits, grey, reduction="none").sum(-1)
    with pyro.validation_enabled(True):
        close(bernoulli(z).log_prob(grey), expected)
        close(bernoulli(z).expand([3, 6]).log_prob(grey), expected.expand(3, 6))
        close(bernoulli(z).expand_by([2]).mask(True).log_prob(grey), expected.expand(2, 6))


def test_bernoulli_takes_grey_observations_in_a_validated_pyro_model(bernoulli, z, grey):
    def model(x):
        with pyro.plate("particles", 3, dim=-2), pyro.plate("data", 6, dim=-1):
            pyro.sample("x", bernoulli(z), obs=x)

    with pyro.validation_enabled(True):
        loss = Trace_ELBO().loss(model, lambda x: None, grey)
    assert loss == pytest.approx(-3 * bernoulli(z).log_prob(grey).sum().item(), rel=1e-12)


def test_continuous_bernoulli_likelihood_is_the_normalised_one(z, grey):
    """log p = −cross-entropy + log C(λ), and the mean, in λ, as Loaiza-Ganem and Cunningham have it."""
    decoder = ContinuousBernoulliDecoder(5, 2, (4, 3), maximum_logit=3.0).double()
    outputs = affine(decoder.head, hidden_by_hand(decoder, z))
    logits = 3 * torch.tanh(outputs / 3)
    probability = logits.sigmoid()
    constant = 2 * torch.atanh(1 - 2 * probability) / (1 - 2 * probability)
    cross_entropy = binary_cross_entropy_with_logits(logits, grey, reduction="none")
    close(decoder(z).log_prob(grey), (constant.log() - cross_entropy).sum(-1))
    close(decoder(z).mean, probability / (2 * probability - 1) + 1 / (2 * torch.atanh(1 - 2 * probability)))


def test_the_limit_of_the_logit_bounds_the_density(z):
    decoder = ContinuousBernoulliDecoder(5, 2, maximum_logit=20.0).double()
    with torch.no_grad():
        decoder.head.bias.fill_(-1e9)
    black = torch.zeros(6, 5, dtype=torch.float64)
    close(decoder(z).log_prob(black), torch.full((6,), 5 * math.log(20.0), dtype=torch.float64), atol=1e-7)


def test_continuous_bernoulli_targets_outside_the_interval_are_refused_while_pyro_validates(z):
    with pyro.validation_enabled(True), pytest.raises(ValueError, match="within the support"):
        ContinuousBernoulliDecoder(5, 2).double()(z).log_prob(torch.full((6, 5), 1.1, dtype=torch.float64))


@pytest.mark.parametrize("bounded", [True, False])
def test_gaussian_location_equals_the_hand_written_computation(z, bounded):
    decoder = GaussianDecoder(5, 2, (4, 3), bounded=bounded).double()
    expected = affine(decoder.head, hidden_by_hand(decoder, z))
    close(decoder(z).mean, 1 / (1 + (-expected).exp()) if bounded else expected)


def test_gaussian_scale_fixed(z, grey):
    decoder = GaussianDecoder(5, 2, (4, 3), scale=0.3).double()
    residual = grey - decoder(z).mean
    expected = (-0.5 * (residual / 0.3) ** 2 - math.log(0.3) - 0.5 * math.log(2 * math.pi)).sum(-1)
    close(decoder(z).log_prob(grey), expected)
    assert not [name for name in decoder.state_dict() if "scale" in name]


def test_gaussian_scale_learned_is_one_number(z):
    decoder = GaussianDecoder(5, 2, (4, 3), scale="learned", minimum_scale=0.02).double()
    close(decoder(z).stddev, torch.full((6, 5), 0.12, dtype=torch.float64), atol=1e-8)
    with torch.no_grad():
        decoder.unconstrained_scale.fill_(-100.0)
    close(decoder(z).stddev, torch.full((6, 5), 0.02, dtype=torch.float64))


def test_gaussian_scale_per_pixel(z):
    decoder = GaussianDecoder(5, 2, (4, 3), scale="per-pixel", minimum_scale=0.02).double()
    close(softplus(decoder.scale_head.bias), torch.full((5,), 0.1, dtype=torch.float64), atol=1e-8)
    close(decoder(z).stddev, 0.02 + softplus(affine(decoder.scale_head, hidden_by_hand(decoder, z))))


def test_the_learned_scale_reaches_its_optimum(z, grey):
    """The maximum-likelihood σ is the root mean square residual."""
    decoder = GaussianDecoder(5, 2, (4, 3), minimum_scale=0.0).double()
    for parameter in decoder.parameters():
        parameter.requires_grad_(False)
    residual = (grey - decoder(z).mean).square().mean().sqrt()
    u = decoder.unconstrained_scale.fill_(residual.expm1().log()).requires_grad_(True)
    (gradient,) = torch.autograd.grad(decoder(z).log_prob(grey).sum(), u)
    assert abs(gradient.item()) < 1e-10


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf, True, None])
def test_bad_fixed_scales_are_refused(scale):
    with pytest.raises(InputError, match="scale: expected a number"):
        GaussianDecoder(5, 2, scale=scale)


def test_unknown_scale_names_are_refused():
    with pytest.raises(InputError, match=r"scale: unknown name 'pixel' \(did you mean 'per-pixel'\?\)"):
        GaussianDecoder(5, 2, scale="pixel")


def test_negative_minimum_scale_is_refused():
    with pytest.raises(InputError, match="minimum_scale: expected a number"):
        GaussianDecoder(5, 2, minimum_scale=-1e-3)


@pytest.mark.parametrize("scale", ["learned", "per-pixel"])
def test_gradients_match_finite_differences(z, grey, scale):
    decoder = GaussianDecoder(5, 2, (3,), "tanh", scale=scale).double()
    names, values = zip(*decoder.named_parameters(), strict=True)

    def log_likelihood(*parameters):
        outputs = torch.func.functional_call(decoder, dict(zip(names, parameters, strict=True)), (z,))
        return outputs.log_prob(grey) / 100

    assert torch.autograd.gradcheck(log_likelihood, values)


def test_distributions_are_pyros(bernoulli, z):
    assert isinstance(bernoulli(z), TorchDistributionMixin)
    assert isinstance(GaussianDecoder(5, 2)(torch.randn(1, 2)), TorchDistributionMixin)


DENSITIES = ("gaussian", "gaussian-per-pixel", "gaussian-columns", "continuous-bernoulli", "full-covariance")
DENSITIES += ("low-rank-covariance",)
PROBABILITIES = ("bernoulli", "discretised-logistic", "discretised-logistic-mixture", *COUNTS)


@pytest.mark.parametrize("likelihood", [*DENSITIES, *PROBABILITIES])
def test_a_decoder_knows_whether_it_has_probabilities(likelihood):
    options = Options(likelihood=likelihood, binarisation="none", width=3)
    assert build_decoder(options, 4).discrete == (likelihood in PROBABILITIES)


def test_a_table_has_probabilities_if_all_its_columns_have_them():
    kinds = {"real": False, "heavy-tailed": False, "positive": False, "binary": True, "count": True}
    for kind, discrete in (kinds | {("categorical", 3): True, ("ordinal", 3): True}).items():
        assert TableDecoder([kind], 2).discrete == discrete
        assert TableDecoder([kind, "binary"], 2).discrete == discrete
