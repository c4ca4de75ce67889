"""Chains of stochastic layers: the bound and its gradient by Gaussian algebra, at any depth."""

import itertools
import math

import pyro
import pytest
import torch
from exact import check_estimates, gradients
from pyro import poutine
from torch import nn

import pyro_dvae as dv
from pyro_dvae.networks import GaussianDecoder
from pyro_dvae.priors import StandardNormal

F64 = torch.float64
SIZES = (3, 2, 2, 1)  # of the data and of z1, z2, z3
SIGMA = 0.4


class Layer(nn.Module):
    """N(M y + b, e^s): one linear-Gaussian layer."""

    def __init__(self, in_size, out_size, generator, strength=0.6):
        super().__init__()

        def normal(*shape):
            return nn.Parameter(strength * torch.randn(*shape, generator=generator, dtype=F64))

        self.M, self.b, self.s = normal(out_size, in_size), normal(out_size), normal(out_size)

    def forward(self, y):
        loc = y @ self.M.T + self.b
        return loc, (self.s / 2).exp().expand(loc.shape)


class LinearDecoder(Layer):
    def __init__(self, latent_size, data_size, generator):
        super().__init__(latent_size, data_size, generator)
        self.latent_size = latent_size

    def forward(self, y):
        return torch.distributions.Independent(torch.distributions.Normal(*super().forward(y)), 1)


class Chain(nn.Module):
    def __init__(self, depth):
        super().__init__()
        generator = torch.Generator().manual_seed(depth)
        sizes = SIZES[: depth + 1]
        pairs = list(itertools.pairwise(sizes))
        first, *upper = [Layer(a, b, generator) for a, b in pairs]
        noise = dv.GaussianNoise(torch.tensor(SIGMA, dtype=F64), learnable=True)
        self.guide = dv.ChainGuide(first, upper, noise)
        decoders = [Layer(b, a, generator) for a, b in pairs[1:]]
        decoder = LinearDecoder(sizes[1], sizes[0], generator)
        self.model = dv.ChainModel(decoder, decoders, StandardNormal(sizes[-1]))

    def l_dvae(self, x):
        """Exact denoising bound of each row of x (nats): moments go up the guide, layer by layer."""
        encoders = [self.guide.encoder, *self.guide.upper_encoders]
        decoders = [self.model.decoder, *self.model.upper_decoders]
        mean = x
        covariance = self.guide.corruption.scale() ** 2 * torch.eye(x.shape[-1], dtype=F64)
        # What the first decoder is compared with is x itself, not its corrupted version.
        target = (x, torch.zeros(x.shape[-1], x.shape[-1], dtype=F64))
        total = torch.zeros(len(x), dtype=F64)
        for number, (encoder, decoder) in enumerate(zip(encoders, decoders, strict=True)):
            above = mean @ encoder.M.T + encoder.b
            noise = torch.diag(encoder.s.exp())
            above_covariance = encoder.M @ covariance @ encoder.M.T + noise
            across = encoder.M @ covariance if number else torch.zeros_like(encoder.M)  # Cov(above, below)
            error = target[0] - above @ decoder.M.T - decoder.b
            product = decoder.M @ across
            spread = target[1] - product - product.T + decoder.M @ above_covariance @ decoder.M.T
            square = error**2 + spread.diagonal()
            total = total - 0.5 * (math.log(2 * math.pi) + decoder.s + square / decoder.s.exp()).sum(-1)
            total = total + 0.5 * (math.log(2 * math.pi) + 1 + encoder.s).sum()  # − E log q
            mean, covariance = above, above_covariance
            target = (mean, covariance)
        prior = math.log(2 * math.pi) + mean**2 + covariance.diagonal()
        return total - 0.5 * prior.sum(-1)

    def log_evidence(self, x):
        """Exact log p(x) of each row of x (nats): moments come down the model."""
        size = self.model.prior.latent_size
        mean, covariance = torch.zeros(size, dtype=F64), torch.eye(size, dtype=F64)
        for layer in [*reversed(self.model.upper_decoders), self.model.decoder]:
            mean = layer.M @ mean + layer.b
            covariance = layer.M @ covariance @ layer.M.T + torch.diag(layer.s.exp())
        return torch.distributions.MultivariateNormal(mean, covariance).log_prob(x)


def data(count=3):
    return torch.randn(count, SIZES[0], generator=torch.Generator().manual_seed(5), dtype=F64)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize(("m", "k"), [(1, 1), (2, 2)])
def test_the_bound_and_its_gradient_are_exact(depth, m, k):
    chain, x = Chain(depth), data()
    exact = chain.l_dvae(x)
    exact.sum().backward()
    expected = gradients(chain)
    assert bool((exact < chain.log_evidence(x)).all())
    bound = dv.TraceDenoising_ELBO(num_corruptions=m, num_particles=k, max_plate_nesting=1)
    losses, grads, rows = [], [], x.repeat(300, 1)
    for _ in range(40):
        losses.append(bound.loss_and_grads(chain.model, chain.guide, rows))
        grads.append(gradients(chain))
    check_estimates("bound", -torch.tensor(losses, dtype=F64) / 300, exact.sum().detach())
    for name, value in expected.items():
        check_estimates(name, -torch.stack([each[name] for each in grads]) / 300, value)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_likelihood_is_exact(depth):
    chain, x = Chain(depth), data()
    found = dv.log_likelihood(
        chain.model, chain.guide, x, num_samples=4000, defensive=0.2, seed=1, progress=False
    )
    exact = chain.log_evidence(x).detach()
    assert bool(((found.log_likelihood - exact).abs() < 5 * found.standard_error).all())


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_mixture_over_corruptions_tightens_the_chain(depth):
    """L_J redraws the chain as a whole: it lies between the denoising bound and log p(x)."""
    chain, x = Chain(depth), data()
    bound = dv.TraceSemiImplicit_ELBO(num_mixture=10, max_plate_nesting=1)
    found = bound.per_datum(chain.model, chain.guide, x.repeat(1500, 1)).reshape(1500, -1).mean(1)
    error = float(found.std()) / math.sqrt(1500)
    assert float(found.mean()) > float(chain.l_dvae(x).detach().mean()) - 4 * error
    assert float(found.mean()) < float(chain.log_evidence(x).detach().mean()) + 4 * error


def test_sites_go_up_in_the_guide_and_down_in_the_model():
    chain, x = Chain(3), data()
    guide = poutine.trace(chain.guide).get_trace(x)
    model = poutine.trace(poutine.replay(chain.model, trace=guide)).get_trace(x)
    names = [name for name, site in guide.iter_stochastic_nodes() if name != "data"]
    assert names == ["x_tilde", "z1", "z2", "z3"]
    names = [name for name, site in model.nodes.items() if site["type"] == "sample" and name != "data"]
    assert names == ["z3", "z2", "z1", "x"]
    for number, size in enumerate(SIZES[1:], start=1):
        assert guide.nodes[f"z{number}"]["value"].shape == (3, size)
    assert torch.equal(guide.nodes["_RETURN"]["value"], guide.nodes["z3"]["value"])
    assert torch.equal(model.nodes["_RETURN"]["value"], guide.nodes["z1"]["value"])


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("depth", [1, 3])
def test_the_sizes_of_model_and_guide_match(depth, local):

    torch.manual_seed(0)
    guide = dv.ChainGuide.of_sizes(6, 2, (8,), num_layers=depth, corruption=dv.GaussianNoise(0.1))
    model = dv.ChainModel.of_sizes(6, 2, (8,), num_layers=depth, likelihood=GaussianDecoder)
    x = torch.rand(20, 6)
    with pyro.settings.context(module_local_params=local):
        svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), dv.TraceDenoising_ELBO())
        losses = [svi.step(x) for _ in range(60)]
    assert sum(losses[-10:]) < sum(losses[:10]) - 100
    stored = len(pyro.get_param_store())
    assert stored == (0 if local else sum(1 for _ in [*model.parameters(), *guide.parameters()]))


def test_one_layer_is_the_plain_model():
    torch.manual_seed(0)
    model, x = dv.ChainModel.of_sizes(6, 2, (8,), num_layers=1), torch.rand(5, 6).round()
    plain = dv.LatentVariableModel(model.decoder)
    z = torch.randn(5, 2)
    found = [
        poutine.trace(poutine.condition(each, data={site: z})).get_trace(x).log_prob_sum()
        for each, site in ((model, "z1"), (plain, "z"))
    ]
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: dv.ChainGuide.of_sizes(6, 2, num_layers=0), "num_layers: expected a whole number"),
        (lambda: dv.ChainModel.of_sizes(6, 2, num_layers=0), "num_layers: expected a whole number"),
        (lambda: dv.ChainModel.of_sizes(6, 0), "latent_size: expected a whole number"),
        (
            lambda: dv.ChainGuide(nn.Identity(), ["mlp"]),
            "upper_encoders: expected a torch.nn.Module",
        ),
        (
            lambda: dv.ChainModel(nn.Identity(), [3], StandardNormal(2)),
            "upper_decoders: expected a torch.nn.Mod",
        ),
        (lambda: dv.ChainModel(nn.Identity(), [], None), "prior: expected a pyro_dvae prior, got NoneType"),
    ],
)
def test_bad_arguments_are_refused(build, message):
    with pytest.raises(dv.InputError, match=message):
        build()
