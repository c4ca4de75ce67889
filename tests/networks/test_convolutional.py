"""Convolutions of both directions against explicit matrices, and the symmetry of their shapes."""

import math

import pytest
import torch
from torch.nn.functional import softplus

from pyro_dvae.errors import InputError
from pyro_dvae.networks import (
    BernoulliDecoder,
    ContinuousBernoulliDecoder,
    ConvolutionalDecoder,
    ConvolutionalEncoder,
)
from pyro_dvae.networks.convolutional import image_shape_of, sizes_of

SHAPES = [(28, 28), (28, 20), (7, 5), (1, 9), (4, 4), (3, 6, 5), (1, 1)]


def convolution(weight, bias, stride=2):
    """Cross-correlation of stride 2 as a loop: out[o, i, j] = b[o] + Σ w[o, c, a, b] x[c, 2i+a−p, 2j+b−p]."""

    def apply(x):
        kernel = weight.shape[-1]
        padding = kernel // 2
        channels, height, width = x.shape
        padded = x.new_zeros(channels, height + 2 * padding, width + 2 * padding)
        padded[:, padding : padding + height, padding : padding + width] = x
        out = x.new_zeros(len(weight), (height + 1) // 2, (width + 1) // 2)
        for i in range(out.shape[1]):
            for j in range(out.shape[2]):
                window = padded[:, 2 * i : 2 * i + kernel, 2 * j : 2 * j + kernel]
                out[:, i, j] = (weight * window).sum((1, 2, 3)) + bias
        return out

    return apply


def matrix_of(linear, shape):
    """The matrix of a linear map of images of ``shape``."""
    basis = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    return torch.stack([linear(image).flatten() for image in basis], 1)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 4)])
def test_the_encoder_is_its_equation(kernel_size, shape):
    torch.manual_seed(0)
    size = math.prod(shape)
    encoder = ConvolutionalEncoder(
        size, 2, (7,), image_shape=shape, channels=(3, 4), kernel_size=kernel_size
    ).double()
    x = torch.rand(5, size, dtype=torch.float64)
    first, second = encoder.convolutions.layers[0], encoder.convolutions.layers[2]
    maps = [image.reshape(1, *shape) if len(shape) == 2 else image.reshape(shape) for image in x]
    for layer in (first, second):
        maps = [convolution(layer.weight, layer.bias)(image).relu() for image in maps]
    features = torch.stack([image.flatten() for image in maps])
    hidden = softplus(features @ encoder.trunk[0].weight.T + encoder.trunk[0].bias)
    outputs = hidden @ encoder.head.weight.T + encoder.head.bias
    loc, scale = encoder(x)
    torch.testing.assert_close(loc, outputs[:, :2], rtol=0, atol=1e-12)
    torch.testing.assert_close(scale, (outputs[:, 2:] / 2).exp(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("shape", [(1, 6, 5), (2, 3, 4), (1, 1, 7)])
def test_the_decoders_convolution_is_the_transpose(kernel_size, shape):
    """Its matrix is the transpose of the encoder's matrix, for even and odd sizes."""
    torch.manual_seed(0)
    size = math.prod(shape)
    decoder = ConvolutionalDecoder(size, 2, image_shape=shape, channels=(4,), kernel_size=kernel_size)
    layer = decoder.double().head[2].layers[0]
    bias = torch.randn_like(layer.bias)
    with torch.no_grad():
        layer.bias.copy_(bias)
    small = sizes_of(shape, [4])[1]
    matrix = matrix_of(convolution(layer.weight, torch.zeros(len(layer.weight))), shape)
    features = torch.randn(3, math.prod(small), dtype=torch.float64)
    pixels = bias.repeat_interleave(math.prod(shape[1:]))
    torch.testing.assert_close(decoder.head[2](features), features @ matrix + pixels, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_decoder_mirrors_the_encoder(shape, layers):
    size = math.prod(shape)
    encoder = ConvolutionalEncoder(size, 2, image_shape=shape, channels=(2, 3, 4)[:layers])
    decoder = ConvolutionalDecoder(size, 2, image_shape=shape, channels=(4, 3, 2)[-layers:])
    down = [tuple(p.shape) for p in encoder.convolutions.parameters() if p.ndim == 4]
    up = [tuple(p.shape) for p in decoder.head.parameters() if p.ndim == 4]
    assert up == down[::-1]
    assert encoder.convolutions.feature_size == decoder.head[2].feature_size
    assert decoder(torch.randn(3, 2)).mean.shape == (3, size)


def test_the_features_of_mnist():
    encoder = ConvolutionalEncoder(784, 50)
    assert sizes_of((1, 28, 28), (32, 64)) == [(1, 28, 28), (32, 14, 14), (64, 7, 7)]
    assert encoder.trunk[0].in_features == 64 * 7 * 7


@pytest.mark.parametrize(
    ("likelihood", "plain"),
    [("bernoulli", BernoulliDecoder), ("continuous-bernoulli", ContinuousBernoulliDecoder)],
)
def test_the_likelihood_equals_that_of_the_plain_decoder_at_its_logits(likelihood, plain):
    decoder = ConvolutionalDecoder(16, 2, likelihood=likelihood).double()
    z, x = torch.randn(5, 2, dtype=torch.float64), torch.rand(5, 16, dtype=torch.float64)
    reference = plain(16, 2).double()
    reference.trunk, reference.head = decoder.trunk, decoder.head
    torch.testing.assert_close(decoder(z).log_prob(x), reference(z).log_prob(x), rtol=0, atol=0)


@pytest.mark.parametrize("kernel_size", [3, 5])
def test_initialisation_keeps_the_size_of_the_signal(kernel_size):
    """He: Σ w² over the inputs of a map is 2; of the last layer, and of all outputs together, 1."""
    torch.manual_seed(0)
    encoder = ConvolutionalEncoder(400, 2, channels=(256, 128), kernel_size=kernel_size)
    decoder = ConvolutionalDecoder(400, 2, channels=(128, 256), kernel_size=kernel_size)
    for layer in encoder.convolutions.layers[::2]:
        weights = layer.weight.detach()
        assert weights.square().sum((1, 2, 3)).mean().item() == pytest.approx(2, rel=0.05)
        assert torch.count_nonzero(layer.bias) == 0
    first, last = decoder.head[2].layers[::2]
    for layer, gain in ((first, 2), (last, 1)):
        square = layer.weight.detach().square()
        small = torch.ones(1, layer.in_channels, 9, 9)
        received = torch.nn.functional.conv_transpose2d(small, square, stride=2, padding=kernel_size // 2)
        assert received[..., 4:-4, 4:-4][..., :8, :8].mean().item() == pytest.approx(gain, rel=0.05)
        assert torch.count_nonzero(layer.bias) == 0


def test_gaussian_pixels():
    torch.manual_seed(0)
    z, x = torch.randn(5, 2, dtype=torch.float64), torch.rand(5, 16, dtype=torch.float64)
    for likelihood in ("gaussian", "gaussian-per-pixel"):
        decoder = ConvolutionalDecoder(16, 2, likelihood=likelihood).double()
        with torch.no_grad():
            decoder.head[0].weight.mul_(1e-9)  # so that the pixels are the bias of the last layer, 0
            decoder.head[2].layers[2].weight.mul_(1e-9)
        loc, scale = torch.full_like(x, 0.5), torch.full_like(x, 0.101)
        expected = torch.distributions.Normal(loc, scale).log_prob(x).sum(-1)
        torch.testing.assert_close(decoder(z).log_prob(x), expected, rtol=1e-6, atol=0)


def test_the_scale_of_a_pixel_is_the_second_image():
    torch.manual_seed(0)
    z = torch.randn(5, 2, dtype=torch.float64)
    decoder = ConvolutionalDecoder(16, 2, likelihood="gaussian-per-pixel").double()
    outputs = decoder.head(decoder.trunk(z)).reshape(5, 2, 16)
    start = math.log(math.expm1(0.1))
    torch.testing.assert_close(decoder(z).mean, outputs[:, 0].sigmoid(), rtol=0, atol=1e-14)
    torch.testing.assert_close(decoder(z).stddev, 1e-3 + softplus(outputs[:, 1] + start), rtol=0, atol=1e-14)


def test_gradients_match_finite_differences():
    torch.manual_seed(0)
    encoder = ConvolutionalEncoder(9, 2, (3,), channels=(2, 2)).double()
    decoder = ConvolutionalDecoder(9, 2, (3,), channels=(2, 2), likelihood="continuous-bernoulli").double()
    x = torch.rand(2, 9, dtype=torch.float64)
    for network, run in (
        (encoder, lambda parameters: torch.func.functional_call(encoder, parameters, (x,))),
        (
            decoder,
            lambda parameters: torch.func.functional_call(decoder, parameters, (x[:, :2],)).log_prob(x),
        ),
    ):
        with torch.no_grad():
            for parameter in network.parameters():  # biases too: at 0 a dead map would sit on the kink
                parameter.add_(0.1 * torch.randn_like(parameter))
        names, values = zip(*network.named_parameters(), strict=True)
        assert torch.autograd.gradcheck(
            lambda *tensors, run=run, names=names: run(dict(zip(names, tensors, strict=True))), values
        )


def test_data_that_are_no_square_ask_for_their_shape():
    message = (
        r"image_shape: expected the \(height, width\) of the images, since a data_size of 560 is not square"
    )
    for network in (ConvolutionalEncoder, ConvolutionalDecoder):
        with pytest.raises(InputError, match=message):
            network(data_size=560, latent_size=2)
    assert ConvolutionalEncoder(560, 2, image_shape=(28, 20)).convolutions.image == (1, 28, 20)


@pytest.mark.parametrize("shape", [(4, 5), (16,), (1, 1, 4, 4), (4.0, 4), (-4, -4), (4, True), "44", 16, ()])
def test_bad_image_shapes_are_refused(shape):
    with pytest.raises(InputError, match=r"^image_shape: expected"):
        image_shape_of(16, shape)


@pytest.mark.parametrize("channels", [(), 8, "8", (0,), (8, 2.0), None])
def test_bad_channels_are_refused(channels):
    for network in (ConvolutionalEncoder, ConvolutionalDecoder):
        with pytest.raises(InputError, match=r"^channels: expected"):
            network(data_size=16, latent_size=2, channels=channels)
