"""Small programs like Pyro's deep examples; they do not use pyro_dvae.

Each has a model and a guide with the same arguments, the data first. Their networks accept dimensions left
of the data, as Pyro's ``vectorize_particles=True`` asks.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as transforms
import torch
from foreign_models import DeepMarkovModel, LeadingBatchNorm
from pyro import poutine
from torch import Tensor, nn
from torch.nn.functional import softplus


def joined(*parts: Tensor) -> Tensor:
    """Return tensors [..., D_i] side by side, whatever stands left of the last dimension."""
    lead = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return torch.cat([part.expand(*lead, -1) for part in parts], -1)


def gaussian(raw: Tensor) -> dist.TorchDistribution:
    """Return the normal distribution of a network's output [..., 2 d]."""
    loc, log_scale = raw.chunk(2, -1)
    return dist.Normal(loc, softplus(log_scale) + 0.1).to_event(1)


class SemiSupervisedVAE(nn.Module):
    """Binary rows [N, 6] of one of three classes, known or not; the plate has no size, as in the example."""

    def __init__(self):
        super().__init__()
        self.encoder_y, self.encoder_z = nn.Linear(6, 3), nn.Linear(9, 4)
        self.decoder = nn.Sequential(nn.Linear(5, 8), nn.Softplus(), nn.Linear(8, 6))

    def model(self, x, y=None):
        pyro.module("ss_vae", self)
        with pyro.plate("data"):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(logits=x.new_zeros(len(x), 3)), obs=y)
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(joined(z, y))).to_event(1), obs=x)

    def guide(self, x, y=None):
        with pyro.plate("data"):
            if y is None:
                y = pyro.sample("y", dist.OneHotCategorical(logits=self.encoder_y(x)))
            pyro.sample("z", gaussian(self.encoder_z(joined(x, y))))

    def classify(self, x, y):
        """Observe the classes under the recognition network: the auxiliary loss, scaled."""
        pyro.module("ss_vae", self)
        with pyro.plate("data"), poutine.scale(scale=46.0):
            pyro.sample("y_aux", dist.OneHotCategorical(logits=self.encoder_y(x)), obs=y)

    def no_guide(self, x, y):
        """The guide of :meth:`classify`, which has no latents."""


class ConditionalVAE(nn.Module):
    """Half a row [N, 6] is the input, the other half is generated; the prior is a network of the input."""

    def __init__(self):
        super().__init__()
        self.baseline, self.prior = nn.Linear(6, 6), nn.Linear(12, 4)
        self.recognition, self.generation = nn.Linear(12, 4), nn.Linear(2, 6)

    def model(self, x, y):
        pyro.module("generation", self)
        with pyro.plate("data", len(x)):
            guess = self.baseline(x)
            z = pyro.sample("z", gaussian(self.prior(joined(x, guess))))
            missing = (y == -1).any(-1)
            probability = dist.Bernoulli(logits=guess + self.generation(z), validate_args=False).to_event(1)
            pyro.sample("y", probability.mask(~missing), obs=y)

    def guide(self, x, y):
        pyro.module("generation", self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", gaussian(self.recognition(joined(x, y))))


class FlowMarkovModel(DeepMarkovModel):
    """The deep Markov model with inverse autoregressive flows in its guide."""

    def __init__(self):
        super().__init__()
        flows = [transforms.affine_autoregressive(self.latents, hidden_dims=[6]) for _ in range(2)]
        self.flows = nn.ModuleList(flows)

    def guide(self, x, lengths, annealing=1.0):
        pyro.module("dmm", self)
        mask = torch.arange(x.shape[-2]) < lengths.unsqueeze(-1)
        states, z = self.backwards(x, lengths), self.z_guide_start
        with pyro.plate("sequences", len(lengths)):
            for t in range(x.shape[-2]):
                hidden = 0.5 * (torch.tanh(self.combine(z)) + states[..., t, :])
                loc, raw = self.head(hidden).chunk(2, -1)
                step = dist.TransformedDistribution(dist.Normal(loc, softplus(raw) + 0.01), [*self.flows])
                with poutine.scale(scale=annealing):
                    z = pyro.sample(f"z_{t}", step.mask(mask[:, t]))


class AttendInferRepeat(nn.Module):
    """Rows [N, 6] of up to two objects: whether there is one more, where it is and what, step by step.

    What comes after the last object is masked. The discrete sites bring their baseline along.
    """

    def __init__(self):
        super().__init__()
        self.step = nn.GRUCell(6 + 4, 8)
        self.head, self.baseline = nn.Linear(8, 1 + 6), nn.Linear(8, 1)
        self.decoder = nn.Sequential(nn.Linear(3, 8), nn.Softplus(), nn.Linear(8, 6))

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            canvas, present = x.new_zeros(len(x), 6), x.new_ones(len(x), 1)
            for t in range(2):
                present = pyro.sample(f"present_{t}", dist.Bernoulli(0.6 * present).to_event(1))
                there = present.squeeze(-1) > 0
                where = pyro.sample(f"where_{t}", self.normal(x, 1).mask(there))
                what = pyro.sample(f"what_{t}", self.normal(x, 2).mask(there))
                canvas = canvas + present * self.decoder(joined(where, what))
            pyro.sample("x", dist.Normal(canvas, 0.5).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("air", nn.ModuleList([self.step, self.head]))
        pyro.module("baseline", self.baseline)
        with pyro.plate("data", x.shape[-2]):
            present = x.new_ones(x.shape[-2], 1)
            last, state = x.new_zeros(4), x.new_zeros(8)
            for t in range(2):
                inputs = joined(x, last)
                flat = inputs.flatten(0, -2)
                state = self.step(flat, state.expand(*inputs.shape[:-1], 8).flatten(0, -2))
                state = state.reshape(*inputs.shape[:-1], 8)
                chance = self.head(state)[..., :1].sigmoid() * present
                value = self.baseline(state.detach()).squeeze(-1)
                present = pyro.sample(
                    f"present_{t}",
                    dist.Bernoulli(chance).to_event(1),
                    infer={"baseline": {"baseline_value": value}},
                )
                there, raw = present.squeeze(-1) > 0, self.head(state)[..., 1:]
                where = pyro.sample(f"where_{t}", gaussian(raw[..., :2]).mask(there))
                what = pyro.sample(f"what_{t}", gaussian(raw[..., 2:]).mask(there))
                last = joined(present, where, what)

    @staticmethod
    def normal(x, size):
        return dist.Normal(x.new_zeros(len(x), size), 1.0).to_event(1)


class BranchingScene(nn.Module):
    """One row [6] of as many objects as were drawn: the number of sites differs from run to run."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(6, 3), nn.Linear(1, 6)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        canvas, t = x.new_zeros(6), 0
        while t < 3 and pyro.sample(f"present_{t}", dist.Bernoulli(torch.tensor(0.5))):
            canvas = canvas + self.decoder(pyro.sample(f"what_{t}", dist.Normal(0.0, 1.0)).unsqueeze(-1))
            t += 1
        pyro.sample("x", dist.Normal(canvas, 0.5).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        chance, loc, scale = self.encoder(x)
        t = 0
        while t < 3 and pyro.sample(f"present_{t}", dist.Bernoulli(chance.sigmoid())):
            pyro.sample(f"what_{t}", dist.Normal(loc, softplus(scale)))
            t += 1


class SingleCell(nn.Module):
    """Counts of genes [N, 6] with cell types, known or not; the networks normalise batches, as in scANVI."""

    def __init__(self):
        super().__init__()

        def network(inputs, outputs):
            return nn.Sequential(nn.Linear(inputs, 8), LeadingBatchNorm(8), nn.ReLU(), nn.Linear(8, outputs))

        self.encoder_y, self.encoder_z2 = network(2, 3), network(6, 4)
        self.encoder_z1, self.decoder_z2, self.decoder = network(5, 4), network(5, 4), network(2, 6)
        self.dispersion = nn.Parameter(torch.zeros(6))

    def model(self, x, y=None):
        pyro.module("scanvi", self)
        with pyro.plate("cells", len(x)), poutine.scale(scale=0.5):
            z1 = pyro.sample("z1", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(logits=x.new_zeros(len(x), 3)), obs=y)
            z2 = pyro.sample("z2", gaussian(self.decoder_z2(joined(z1, y))))
            rate = softplus(self.decoder(z2)) + 0.1
            counts = dist.GammaPoisson(self.dispersion.exp(), self.dispersion.exp() / rate)
            pyro.sample("x", counts.to_event(1), obs=x)

    def guide(self, x, y=None):
        pyro.module("scanvi", self)
        with pyro.plate("cells", x.shape[-2]), poutine.scale(scale=0.5):
            z2 = pyro.sample("z2", gaussian(self.encoder_z2(torch.log1p(x))))
            if y is None:
                y = pyro.sample("y", dist.OneHotCategorical(logits=self.encoder_y(z2)))
            pyro.sample("z1", gaussian(self.encoder_z1(joined(z2, y))))
