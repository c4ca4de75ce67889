"""A plain implementation of DRAW, row by row, with the parameters of a ``pyro_dvae.DRAW``.

Filters by the formulas of Gregor et al. (2015) with pixels counted from 1, cells by torch's own functions.
"""

import math

import torch

import pyro_dvae as dv

SHAPE = (4, 5)
D, HIDDEN, LATENT, STEPS = 20, 6, 2, 3
KINDS = [(attention, cell) for attention in (False, True) for cell in ("lstm", "gru")]


def network(attention=True, cell="lstm", corruption=None, seed=0, **options):
    """A small DRAW in float64; no parameter or bias is zero."""
    settings = {"image_shape": SHAPE, "steps": STEPS, "hidden_size": HIDDEN, "latent_size": LATENT}
    settings |= {"read_size": 3, "write_size": 2} | options
    draw = dv.DRAW(attention=attention, cell=cell, corruption=corruption, **settings).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in draw.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return draw


def data(count=3, size=D, seed=5):
    return torch.rand(count, size, generator=torch.Generator().manual_seed(seed)).double().round()


def affine(layer, value):
    return layer.weight @ value + layer.bias


def advanced(cell, value, state):
    weights = (cell.input.weight, cell.recurrent.weight, cell.input.bias, cell.recurrent.bias)
    value, state = value[None], [part[None] for part in state]
    if type(cell).__name__ == "GRU":
        return [torch.gru_cell(value, state[0], *weights)[0]]
    return [part[0] for part in torch.lstm_cell(value, state, *weights)]


def bank(centre, stride, variance, size, length):
    """F of one axis, pixels 1 .. length, filters 1 .. size."""
    rows = []
    for i in range(1, size + 1):
        mean = centre + (i - size / 2 - 0.5) * stride
        row = torch.stack([torch.exp(-((a - mean) ** 2) / (2 * variance)) for a in range(1, length + 1)])
        rows.append(row / row.sum())
    return torch.stack(rows)


def banks(outputs, size):
    """F_Y, F_X and γ of five outputs of a network."""
    height, width = SHAPE
    g_x, g_y = (width + 1) / 2 * (outputs[0] + 1), (height + 1) / 2 * (outputs[1] + 1)
    stride = (max(SHAPE) - 1) / (size - 1) * outputs[3].exp()
    variance = outputs[2].exp()
    return (
        bank(g_y, stride, variance, size, height),
        bank(g_x, stride, variance, size, width),
        outputs[4].exp(),
    )


def glimpse(reader, x, error, hidden):
    if not hasattr(reader, "where"):
        return torch.cat([x, error])
    f_y, f_x, gamma = banks(affine(reader.where, hidden), reader.size)
    return torch.cat([(gamma * f_y @ image.reshape(SHAPE) @ f_x.T).reshape(-1) for image in (x, error)])


def stroke(writer, hidden):
    patch = affine(writer.patch, hidden)
    if not hasattr(writer, "where"):
        return patch
    f_y, f_x, gamma = banks(affine(writer.where, hidden), writer.size)
    return (f_y.T @ patch.reshape(writer.size, writer.size) @ f_x).reshape(-1) / gamma


def terms(draw, x, x_tilde, noise):
    """For one datum x [D], x̃ [D] and noise [T, d]: log p(x|c_T), Σ KL(q‖p), Σ (log q − log p)."""
    encoder, decoder = draw.guide.encoder, draw.model.decoder
    seen, drawn, canvas = list(encoder.cell.initial), list(decoder.cell.initial), decoder.first_canvas
    divergence, ratio = 0.0, 0.0
    for eps in noise:
        patch = glimpse(encoder.reader, x_tilde, x_tilde - 1 / (1 + torch.exp(-canvas)), drawn[0])
        seen = advanced(encoder.cell, torch.cat([patch, drawn[0]]), seen)
        loc, log_variance = affine(encoder.head, seen[0]).chunk(2)
        z = loc + torch.exp(log_variance / 2) * eps
        divergence = divergence + 0.5 * (log_variance.exp() + loc**2 - 1 - log_variance).sum()
        ratio = ratio + 0.5 * (z**2 - eps**2 - log_variance).sum()
        drawn = advanced(decoder.cell, z, drawn)
        canvas = canvas + stroke(decoder.writer, drawn[0])
    mean = 1 / (1 + torch.exp(-canvas))
    return (x * mean.log() + (1 - x) * (1 - mean).log()).sum(), divergence, ratio


def standardised(trace):
    """The noise ε = (z − μ)/σ behind each latent of a guide's trace, [T, ..., d]."""
    sites = [trace.nodes[f"z{step}"] for step in range(1, STEPS + 1)]
    noise = [(site["value"] - site["fn"].mean) / site["fn"].variance.sqrt() for site in sites]
    return torch.stack(noise).detach()


def log_normal(z):
    return -0.5 * (z**2 + math.log(2 * math.pi))
