"""Three models and guides in the style of Pyro's published examples; they do not use pyro_dvae.

Each is written for its own data and has a model and a guide with the same arguments. The only thing asked of
them is what Pyro's ``vectorize_particles=True`` asks too: their networks accept dimensions left of the data.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import nn
from torch.nn.functional import softplus


class ImageVAE(nn.Module):
    """The autoencoder of Pyro's first tutorial: images [N, 8, 8], one hidden layer in each network."""

    def __init__(self, latents=4, hidden=32):
        super().__init__()
        self.latents = latents
        self.encoder = nn.Sequential(
            nn.Flatten(-2), nn.Linear(64, hidden), nn.Softplus(), nn.Linear(hidden, 2 * latents)
        )
        self.decoder = nn.Sequential(nn.Linear(latents, hidden), nn.Softplus(), nn.Linear(hidden, 64))

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z_loc = x.new_zeros(torch.Size((x.shape[0], self.latents)))
            z_scale = x.new_ones(torch.Size((x.shape[0], self.latents)))
            z = pyro.sample("latent", dist.Normal(z_loc, z_scale).to_event(1))
            image = self.decoder(z).sigmoid().unflatten(-1, (8, 8))
            pyro.sample("obs", dist.Bernoulli(image).to_event(2), obs=x)
            return image

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("latent", dist.Normal(loc, log_scale.exp()).to_event(1))


class LeadingBatchNorm(nn.BatchNorm1d):
    """BatchNorm of the last dimension, with any dimensions before it."""

    def forward(self, x):
        return super().forward(x.flatten(0, -2)).reshape(x.shape)


class ProdLDA(nn.Module):
    """The topic model of Pyro's ProdLDA tutorial: word counts [N, V], soft mixtures of topics."""

    def __init__(self, words=30, topics=4, hidden=32):
        super().__init__()
        self.topics = topics
        self.decoder = nn.Sequential(
            nn.Linear(topics, words, bias=False), LeadingBatchNorm(words, affine=False), nn.Softmax(-1)
        )
        self.trunk = nn.Sequential(
            nn.Linear(words, hidden), nn.Softplus(), nn.Linear(hidden, hidden), nn.Softplus()
        )
        self.loc = nn.Sequential(nn.Linear(hidden, topics), LeadingBatchNorm(topics, affine=False))
        self.log_variance = nn.Sequential(nn.Linear(hidden, topics), LeadingBatchNorm(topics, affine=False))

    def model(self, docs):
        pyro.module("decoder", self.decoder)
        with pyro.plate("documents", docs.shape[0]):
            zeros = docs.new_zeros((docs.shape[0], self.topics))
            log_theta = pyro.sample("log_theta", dist.Normal(zeros, 1.0).to_event(1))
            words = self.decoder(log_theta.softmax(-1))
            total = int(docs.sum(-1).max())
            pyro.sample("obs", dist.Multinomial(total, words, validate_args=False), obs=docs)

    def guide(self, docs):
        for name in ("trunk", "loc", "log_variance"):
            pyro.module(name, getattr(self, name))
        with pyro.plate("documents", docs.shape[0]):
            hidden = self.trunk(torch.log1p(docs))
            loc, scale = self.loc(hidden), (0.5 * self.log_variance(hidden)).exp()
            pyro.sample("log_theta", dist.Normal(loc, scale).to_event(1))


class DeepMarkovModel(nn.Module):
    """The deep Markov model of Pyro's example: sequences [N, T, D] of stated lengths, padded with zeros.

    The guide reads each sequence backwards with a recurrent network, then goes forwards through the latents,
    as in the example; mask and annealing of the KL are applied as there.
    """

    def __init__(self, notes=6, latents=3, hidden=16):
        super().__init__()
        self.latents = latents
        self.transition = nn.Sequential(nn.Linear(latents, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latents))
        self.emission = nn.Sequential(nn.Linear(latents, hidden), nn.ReLU(), nn.Linear(hidden, notes))
        self.recurrent = nn.GRU(notes, hidden, batch_first=True)
        self.combine = nn.Linear(latents, hidden)
        self.head = nn.Linear(hidden, 2 * latents)
        self.z_start = nn.Parameter(torch.zeros(latents))
        self.z_guide_start = nn.Parameter(torch.zeros(latents))

    def model(self, x, lengths, annealing=1.0):
        pyro.module("dmm", self)
        mask = torch.arange(x.shape[-2]) < lengths.unsqueeze(-1)
        z = self.z_start.expand(x.shape[0], self.latents)
        with pyro.plate("sequences", x.shape[0]):
            for t in range(x.shape[-2]):
                loc, raw = self.transition(z).chunk(2, -1)
                step = dist.Normal(loc, softplus(raw) + 0.01).mask(mask[:, t : t + 1]).to_event(1)
                with poutine.scale(scale=annealing):
                    z = pyro.sample(f"z_{t}", step)
                notes = dist.Bernoulli(logits=self.emission(z)).mask(mask[:, t : t + 1]).to_event(1)
                pyro.sample(f"x_{t}", notes, obs=x[:, t])

    def backwards(self, x, lengths):
        """Return the state of the recurrent network at each step, having read from the sequence's end."""
        steps = torch.arange(x.shape[-2])
        order = (lengths.unsqueeze(-1) - 1 - steps).clamp_min(0)  # its own inverse inside the sequence
        index = order.unsqueeze(-1).expand(x.shape)
        reversed_x = x.gather(-2, index)
        states = self.recurrent(reversed_x.flatten(0, -3))[0].unflatten(0, x.shape[:-2])
        return states.gather(-2, order.unsqueeze(-1).expand(states.shape))

    def guide(self, x, lengths, annealing=1.0):
        pyro.module("dmm", self)
        mask = torch.arange(x.shape[-2]) < lengths.unsqueeze(-1)
        states = self.backwards(x, lengths)
        z = self.z_guide_start
        with pyro.plate("sequences", len(lengths)):
            for t in range(x.shape[-2]):
                hidden = 0.5 * (torch.tanh(self.combine(z)) + states[..., t, :])
                loc, raw = self.head(hidden).chunk(2, -1)
                step = dist.Normal(loc, softplus(raw) + 0.01).mask(mask[:, t : t + 1]).to_event(1)
                with poutine.scale(scale=annealing):
                    z = pyro.sample(f"z_{t}", step)


def images(count=40):
    """Binary images of four kinds: a bar at one of four places, and specks."""
    kind = torch.randint(4, (count,))
    probability = torch.full((count, 8, 8), 0.05)
    probability[torch.arange(count), 2 * kind] = 0.9
    return (torch.bernoulli(probability),)


def documents(count=40, words=30):
    """Documents of 40 words, each mostly from one of three vocabularies."""
    topics = torch.full((3, words), 0.2)
    for topic in range(3):
        topics[topic, 10 * topic : 10 * topic + 10] = 4.0
    probability = topics[torch.randint(3, (count,))]
    return (dist.Multinomial(40, probability / probability.sum(-1, keepdim=True)).sample(),)


def melodies(count=40, steps=5, notes=6):
    """A random note, then one higher at each step, for 2 to 5 steps; then zeros."""
    start, lengths = torch.randint(notes, (count, 1)), torch.randint(2, steps + 1, (count,))
    note = (start + torch.arange(steps)) % notes
    x = nn.functional.one_hot(note, notes).float()
    return x * (torch.arange(steps) < lengths.unsqueeze(-1)).unsqueeze(-1), lengths
