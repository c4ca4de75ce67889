import itertools

import pytest
import torch
from draw_reference import SHAPE, bank, banks

from pyro_dvae.models.draw import attention
from pyro_dvae.models.draw.attention import Window, filters, read, window, write

HEIGHT, WIDTH = 7, 9


def number(value):
    return torch.tensor([value], dtype=torch.float64)


def at(x, y, stride=1.0, scale=0.05, intensity=1.0):
    return Window(*(number(value) for value in (x, y, stride, scale, intensity)))


def randoms(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("spread", [1.0, 5.0, 1000.0])
def test_every_filter_sums_to_one(spread):
    where = window(spread * randoms(50, 5), (HEIGHT, WIDTH), 4)
    rows = filters(where.centre_y, where.stride, where.scale, 4, HEIGHT)
    assert rows.shape == (50, 4, HEIGHT)
    assert bool((rows >= 0).all())
    torch.testing.assert_close(rows.sum(-1), torch.ones(50, 4, dtype=torch.float64), rtol=0, atol=1e-12)


def test_single_precision_stays_finite_with_its_gradient():
    parameters = (1000 * randoms(50, 5)).float().requires_grad_()
    where = window(parameters, (HEIGHT, WIDTH), 4)
    filters(where.centre_y, where.stride, where.scale, 4, HEIGHT).square().sum().backward()
    assert bool(torch.isfinite(parameters.grad).all())


def test_filters_equal_those_of_the_paper_with_pixels_from_one():
    centre, stride, variance = number(2.3), number(1.4), number(0.8)
    expected = bank(centre[0] + 1, stride[0], variance[0], 3, WIDTH)
    torch.testing.assert_close(filters(centre, stride, variance.sqrt(), 3, WIDTH), expected)


def test_the_window_equals_that_of_the_paper():
    outputs = 0.5 * randoms(5, seed=3)
    image, patch = randoms(*SHAPE), randoms(3, 3)
    f_y, f_x, gamma = banks(outputs, 3)
    where = window(outputs, SHAPE, 3)
    torch.testing.assert_close(read(image, where, 3), gamma * f_y @ image @ f_x.T)
    torch.testing.assert_close(write(patch, where, SHAPE), f_y.T @ patch @ f_x / gamma)


def test_zeros_ask_for_the_whole_image():
    where = window(torch.zeros(5, dtype=torch.float64), (HEIGHT, WIDTH), 3)
    assert (float(where.centre_x), float(where.centre_y)) == ((WIDTH - 1) / 2, (HEIGHT - 1) / 2)
    assert float(where.centre_x - where.stride) == 0
    assert float(where.centre_x + where.stride) == WIDTH - 1
    assert float(where.intensity) == float(where.scale) == 1


def test_a_constant_image_is_read_as_a_constant():
    where = window(randoms(20, 5), (HEIGHT, WIDTH), 4)
    patch = read(torch.full((HEIGHT, WIDTH), 0.3, dtype=torch.float64), where, 4)
    torch.testing.assert_close(patch, (0.3 * where.intensity)[..., None].expand(20, 4, 4))


def test_narrow_filters_on_every_pixel_are_the_identity():
    image = randoms(6, 6)
    where = at(2.5, 2.5)
    torch.testing.assert_close(read(image, where, 6), image, rtol=0, atol=1e-12)
    torch.testing.assert_close(write(image, where, (6, 6)), image, rtol=0, atol=1e-12)


@pytest.mark.parametrize("intensity", [1.0, 0.2, 3.0])
def test_what_is_written_can_be_read_in_the_same_place(intensity):
    patch, where = randoms(3, 3), at(5.0, 2.0, stride=2.0, intensity=intensity)
    image = write(patch, where, (HEIGHT, WIDTH))
    torch.testing.assert_close(read(image, where, 3), patch, rtol=0, atol=1e-12)
    torch.testing.assert_close(image[0::2, 3::2][:3, :3], patch / intensity, rtol=0, atol=1e-12)
    assert int((image.abs() > 1e-9).sum()) == 9


def test_writing_is_the_transpose_of_reading():
    where = window(randoms(5, 5), (HEIGHT, WIDTH), 4)
    image, patch = randoms(5, HEIGHT, WIDTH, seed=1), randoms(5, 4, 4, seed=2)
    gamma = where.intensity.squeeze(-1)
    seen = (read(image, where, 4) * patch).sum((-2, -1)) / gamma
    drawn = (write(patch, where, (HEIGHT, WIDTH)) * image).sum((-2, -1)) * gamma
    torch.testing.assert_close(seen, drawn)


def test_x_runs_along_a_row_and_y_down_a_column():
    row, column = 1, 6
    image = torch.zeros(HEIGHT, WIDTH, dtype=torch.float64)
    image[row, column] = 1.0
    asked = torch.tensor(
        [2 * (column + 1) / (WIDTH + 1) - 1, 2 * (row + 1) / (HEIGHT + 1) - 1, -6.0, 0.0, 0.0]
    )
    where = window(asked.double(), (HEIGHT, WIDTH), 1)
    torch.testing.assert_close(read(image, where, 1), torch.ones(1, 1, dtype=torch.float64))
    torch.testing.assert_close(write(number(1.0)[None], where, (HEIGHT, WIDTH)), image)
    for (across, down), (i, j) in {(-1, 0): (1, 2), (1, 0): (1, 0), (0, -1): (2, 1), (0, 1): (0, 1)}.items():
        patch = read(image, at(column + across, row + down), 3)
        expected = torch.zeros(3, 3, dtype=torch.float64)
        expected[i, j] = 1.0
        torch.testing.assert_close(patch, expected, rtol=0, atol=1e-12)


def test_leading_dims_broadcast():
    images, patches = randoms(3, 4, HEIGHT, WIDTH), randoms(2, 1, 4, 5, 5, seed=1)
    where = window(randoms(2, 3, 4, 5, seed=2), (HEIGHT, WIDTH), 5)
    seen, drawn = read(images, where, 5), write(patches, where, (HEIGHT, WIDTH))
    assert seen.shape == (2, 3, 4, 5, 5)
    assert drawn.shape == (2, 3, 4, HEIGHT, WIDTH)
    for k, m, n in itertools.product(range(2), range(3), range(4)):
        one = Window(*(part[k, m, n] for part in where))
        torch.testing.assert_close(seen[k, m, n], read(images[m, n], one, 5))
        torch.testing.assert_close(drawn[k, m, n], write(patches[k, 0, n], one, (HEIGHT, WIDTH)))


def test_gradients_equal_finite_differences():
    parameters = (0.5 * randoms(2, 5)).requires_grad_()
    image, patch = randoms(2, *SHAPE).requires_grad_(), randoms(2, 3, 3).requires_grad_()

    def reading(parameters, image):
        return read(image, window(parameters, SHAPE, 3), 3)

    def writing(parameters, patch):
        return write(patch, window(parameters, SHAPE, 3), SHAPE)

    assert torch.autograd.gradcheck(reading, (parameters, image))
    assert torch.autograd.gradcheck(writing, (parameters, patch))


def test_a_single_filter_has_no_stride():
    where = attention.window(randoms(5), SHAPE, 1)
    assert bool(torch.isfinite(torch.cat(list(where))).all())
