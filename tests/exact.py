"""Small problems whose bounds are known exactly, in float64, for every test that needs one."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyro_dvae as dv
from pyro_dvae.registration import register


class LinearGaussian(nn.Module):
    """z ~ N(0, I), x|z ~ N(Wz + b, s²I), x̃|x ~ N(x, σ²I), q(z|x̃) = N(Ax̃ + c, diag v)."""

    def __init__(self, data_size=3, latent_size=2, sigma=0.4, learn_sigma=True, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape):
            return nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64))

        self.W, self.b = normal(data_size, latent_size), normal(data_size)
        self.A = nn.Parameter(0.3 * normal(latent_size, data_size).detach())
        self.c = nn.Parameter(0.1 * normal(latent_size).detach())
        self.log_s = nn.Parameter(torch.tensor(-0.2, dtype=torch.float64))
        self.log_v = nn.Parameter(torch.full((latent_size,), -1.0, dtype=torch.float64))
        level = torch.tensor(sigma, dtype=torch.float64)
        self.corruption = dv.GaussianNoise(level, learnable=learn_sigma)

    def model(self, x, size=None):
        register("problem", self)
        latent_size = self.W.shape[1]
        zero = torch.zeros(latent_size, dtype=torch.float64)
        with pyro.plate("data", size or len(x), subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.W.T + self.b, self.log_s.exp()).to_event(1), obs=x)

    def recognition(self, x_tilde):
        pyro.sample("z", dist.Normal(x_tilde @ self.A.T + self.c, (self.log_v / 2).exp()).to_event(1))

    def guide(self, x, size=None):
        register("problem", self)
        with pyro.plate("data", size or len(x), subsample_size=len(x)):
            self.recognition(dv.corrupt("x_tilde", self.corruption, x))

    def plain_guide(self, x):
        register("problem", self)
        with pyro.plate("data", len(x)):
            self.recognition(x)

    def _common(self, x, S):
        W, D, d = self.W, self.W.shape[0], self.W.shape[1]
        m = x @ self.A.T + self.c
        s2 = (2 * self.log_s).exp()
        error = ((x - self.b - m @ W.T) ** 2).sum(-1) + (W @ S @ W.T).diagonal().sum()
        likelihood = -D / 2 * torch.log(2 * math.pi * s2) - error / (2 * s2)
        prior = -d / 2 * math.log(2 * math.pi) - ((m**2).sum(-1) + S.diagonal().sum()) / 2
        return likelihood + prior

    def _covariances(self):
        v = self.log_v.exp()
        sigma = self.corruption.scale()
        return v, sigma**2 * self.A @ self.A.T + torch.diag(v)

    def l_dvae(self, x) -> Tensor:
        """Exact denoising bound of each row of x (nats)."""
        v, S = self._covariances()
        return self._common(x, S) + 0.5 * torch.log(2 * math.pi * math.e * v).sum()

    def l_cvae(self, x) -> Tensor:
        """Exact bound of the marginal guide of each row of x (nats)."""
        _, S = self._covariances()
        return self._common(x, S) + 0.5 * torch.logdet(2 * math.pi * math.e * S)

    def log_evidence(self, x) -> Tensor:
        """Exact log p(x) of each row of x (nats)."""
        D = self.W.shape[0]
        covariance = self.W @ self.W.T + (2 * self.log_s).exp() * torch.eye(D, dtype=torch.float64)
        return torch.distributions.MultivariateNormal(self.b, covariance).log_prob(x)


class BinaryProblem(nn.Module):
    """Bernoulli pixels, a scalar Gaussian latent, a discrete corruption: exact by enumeration.

    The encoder and decoder are small and non-linear; x̃ is enumerated over its 2^D values and z integrated
    by Gauss-Hermite quadrature.
    """

    def __init__(self, corruption, data_size=3, seed=1):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape):
            return nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64))

        self.decode_weight, self.decode_bias = normal(data_size), normal(data_size)
        self.encode_weight, self.encode_scale = normal(data_size), normal(data_size)
        self.corruption = corruption

    def logits(self, z):
        return torch.tanh(z) * self.decode_weight + self.decode_bias

    def encode(self, x_tilde):
        loc = torch.tanh(x_tilde @ self.encode_weight)
        return loc.unsqueeze(-1), torch.sigmoid(x_tilde @ self.encode_scale).unsqueeze(-1)

    def model(self, x):
        register("problem", self)
        zero = torch.zeros(1, dtype=torch.float64)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.logits(z)).to_event(1), obs=x)

    def guide(self, x):
        register("problem", self)
        with pyro.plate("data", len(x)):
            loc, scale = self.encode(dv.corrupt("x_tilde", self.corruption, x))
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    def l_dvae(self, x, nodes=60) -> Tensor:
        """Exact denoising bound of each row of x (nats)."""
        points, weights = np.polynomial.hermite_e.hermegauss(nodes)
        points = torch.as_tensor(points).reshape(-1, 1, 1, 1)
        weights = torch.as_tensor(weights / weights.sum()).reshape(-1, 1, 1)
        D = x.shape[-1]
        values = torch.tensor(list(itertools.product([0.0, 1.0], repeat=D)), dtype=torch.float64)
        values = values.reshape(-1, 1, D)
        clean = x.expand(len(values), *x.shape)
        probability = self.corruption(clean).mass(values.expand_as(clean)).prod(-1)
        loc, scale = self.encode(values)
        z = loc + scale * points
        q = dist.Normal(loc, scale).log_prob(z).squeeze(-1)
        prior = dist.Normal(torch.zeros((), dtype=torch.float64), 1.0).log_prob(z).squeeze(-1)
        likelihood = dist.Bernoulli(logits=self.logits(z)).log_prob(x).sum(-1)
        inner = (weights * (prior + likelihood - q)).sum(0)
        return (probability * inner).sum(0)


def check_estimates(
    name: str, estimates: Tensor, exact: Tensor, errors: float = 5.0, slack: float = 0.0
) -> None:
    """Assert that the mean of repeated estimates [R, ...] lies within some standard errors of the truth.

    ``slack`` allows for a known bias.
    """
    mean = estimates.mean(0)
    standard_error = estimates.std(0) / math.sqrt(len(estimates))
    distance = (mean - exact).abs()
    assert bool((distance <= errors * standard_error + slack + 1e-10).all()), (
        f"{name}: off by {float((distance / (standard_error + 1e-10)).max()):.2f} standard errors "
        f"(mean {mean.tolist()}, exact {exact.tolist()})"
    )


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """Return a copy of each parameter's gradient (zeros where there is none), and clear them."""
    found = {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in module.named_parameters()
    }
    module.zero_grad()
    return found


class Enumerated:
    """Exact expectations over corruptions and latents of a problem with few values of x̃.

    :param problem: a :class:`BinaryProblem` or :class:`DiscreteProblem`.
    :param x: data [N, D].
    """

    def __init__(self, problem, x):
        self.problem, self.x = problem, x
        D = x.shape[-1]
        values = torch.tensor(list(itertools.product([0.0, 1.0], repeat=D)), dtype=torch.float64)
        clean = x.expand(len(values), *x.shape)
        self.probability = problem.corruption(clean).mass(values[:, None].expand_as(clean)).prod(-1)
        self.values = values

    def _axes(self, corruptions, owners):
        """Return per latent draw its log p(x, z) and log q(z|x̃_j) for each corruption, and all weights.

        Draw ``i`` comes from corruption ``owners[i]`` and varies on axis ``i``; the last axis is the datum.
        """
        count = len(owners)
        log_p, log_q, weights = [], [], 1.0
        for axis, owner in enumerate(owners):
            z, weight = self.problem.latents(corruptions[owner])
            shape = [1] * count
            shape[axis] = len(weight)
            log_p.append(self.problem.log_joint(z, self.x).reshape(*shape, -1))
            log_q.append([self.problem.log_guide(z, c).reshape(*shape, 1) for c in corruptions])
            weights = weights * weight.reshape(*shape, 1)
        return log_p, log_q, weights

    def expect(self, num_corruptions, owners, bound) -> Tensor:
        """Return E bound(log_p, log_q) of each datum, over all corruptions and latents."""
        total = 0.0
        for index in itertools.product(range(len(self.values)), repeat=num_corruptions):
            corruptions = [self.values[i] for i in index]
            probability = torch.stack([self.probability[i] for i in index]).prod(0)
            log_p, log_q, weights = self._axes(corruptions, owners)
            value = (weights * bound(log_p, log_q)).flatten(0, -2).sum(0)
            total = total + probability * value
        return total

    def iwae(self, combine, m, k) -> Tensor:
        """Exact importance-weighted bounds of each row of x (nats)."""
        owners = [i for i in range(m) for _ in range(k)]

        def bound(log_p, log_q):
            weights = []
            for p, q, owner in zip(log_p, log_q, owners, strict=True):
                mixture = torch.logsumexp(torch.stack(torch.broadcast_tensors(*q)), 0) - math.log(m)
                weights.append(p - (mixture if combine == "mixture" else q[owner]))
            weights = torch.stack(torch.broadcast_tensors(*weights))
            if combine != "average":
                return torch.logsumexp(weights, 0) - math.log(m * k)
            columns = weights.reshape(m, k, *weights.shape[1:])
            return (torch.logsumexp(columns, 1) - math.log(k)).mean(0)

        return self.expect(m, owners, bound)

    def semi_implicit(self, j) -> Tensor:
        """Exact L_J of each row of x (nats)."""

        def bound(log_p, log_q):
            mixture = torch.logsumexp(torch.stack(torch.broadcast_tensors(*log_q[0])), 0) - math.log(j + 1)
            return log_p[0] - mixture

        return self.expect(j + 1, [0], bound)

    def upper(self, j) -> Tensor:
        """Exact upper sandwich of each row of x (nats)."""

        def bound(log_p, log_q):
            mixture = torch.logsumexp(torch.stack(torch.broadcast_tensors(*log_q[0][1:])), 0) - math.log(j)
            return log_p[0] - mixture

        return self.expect(j + 1, [0], bound)

    def l_cvae(self) -> Tensor:
        """Exact bound of the marginal guide of each row of x (nats)."""
        rows = []
        for n in range(len(self.x)):
            probability = self.probability[:, n]
            total = 0.0
            for value, mass in zip(self.values, probability, strict=True):
                z, weight = self.problem.latents(value)
                mixture = torch.stack([self.problem.log_guide(z, v) for v in self.values])
                marginal = torch.logsumexp(mixture + probability.log().unsqueeze(-1), 0)
                integrand = self.problem.log_joint(z, self.x[n : n + 1]).squeeze(-1) - marginal
                total = total + mass * (weight * integrand).sum()
            rows.append(total)
        return torch.stack(rows)


def _binary_latents(self, x_tilde, nodes=24):
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    loc, scale = self.encode(x_tilde)
    return loc + scale * torch.as_tensor(points), torch.as_tensor(weights / weights.sum())


def _binary_log_joint(self, z, x):
    prior = dist.Normal(torch.zeros((), dtype=torch.float64), 1.0).log_prob(z)
    logits = self.logits(z[:, None])
    return prior[:, None] + dist.Bernoulli(logits=logits[:, None]).log_prob(x).sum(-1)


def _binary_log_guide(self, z, x_tilde):
    loc, scale = self.encode(x_tilde)
    return dist.Normal(loc, scale).log_prob(z)


BinaryProblem.latents = _binary_latents
BinaryProblem.log_joint = _binary_log_joint
BinaryProblem.log_guide = _binary_log_guide


class DiscreteProblem(nn.Module):
    """As :class:`BinaryProblem` with two Bernoulli latents: exact by enumeration throughout."""

    def __init__(self, corruption, data_size=3, seed=2):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape):
            return nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64))

        self.decode_weight, self.decode_bias = normal(2, data_size), normal(data_size)
        self.encode_weight, self.encode_bias = normal(data_size, 2), normal(2)
        self.prior_logits = normal(2)
        self.corruption = corruption

    def guide_logits(self, x_tilde):
        return x_tilde @ self.encode_weight + self.encode_bias

    def model(self, x):
        register("problem", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(logits=self.prior_logits).to_event(1))
            logits = z @ self.decode_weight + self.decode_bias
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x):
        register("problem", self)
        with pyro.plate("data", len(x)):
            x_tilde = dv.corrupt("x_tilde", self.corruption, x)
            pyro.sample("z", dist.Bernoulli(logits=self.guide_logits(x_tilde)).to_event(1))

    def latents(self, x_tilde):
        z = torch.tensor(list(itertools.product([0.0, 1.0], repeat=2)), dtype=torch.float64)
        return z, self.log_guide(z, x_tilde).exp()

    def log_joint(self, z, x):
        prior = dist.Bernoulli(logits=self.prior_logits).log_prob(z).sum(-1)
        logits = z @ self.decode_weight + self.decode_bias
        return prior[:, None] + dist.Bernoulli(logits=logits[:, None]).log_prob(x).sum(-1)

    def log_guide(self, z, x_tilde):
        return dist.Bernoulli(logits=self.guide_logits(x_tilde)).log_prob(z).sum(-1)

    def l_dvae(self, x) -> Tensor:
        """Exact denoising bound of each row of x (nats)."""
        return Enumerated(self, x).semi_implicit(0)
