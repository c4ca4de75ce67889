import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from pyro_dvae import plots
from pyro_dvae.errors import InputError

NOTE = "pixel intensity 0 (black) to 1 (white)"
CLIPPED = "; values outside [0, 1] are clipped for display"
SHAPES = [(28, 28), (28, 20), (8, 8), (1, 5), (5, 1), (40, 100)]


def put(draw, path, *arguments, **options):
    """Draw, and save the picture."""
    return plots.write_figure(path, draw(*arguments, **options))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "picture.png"


def draw_manifold(path, images, shape):
    return put(plots.manifold, path, images, shape, rows=1, columns=len(images))


GRIDS = {
    "image_grid": lambda path, images, shape: put(plots.image_grid, path, images, shape),
    "denoising_grid": lambda path, images, shape: put(
        plots.denoising_grid, path, images, images, images, shape
    ),
    "manifold": draw_manifold,
}


def random_images(count, shape):
    return torch.rand(count, math.prod(shape), generator=torch.Generator().manual_seed(0))


def pixels(path):
    """The picture as ``[height, width]`` grey values in [0, 1]."""
    from matplotlib.image import imread

    return imread(path)[:, :, 0]


def texts(figure):
    """Every non-empty text of a figure, line breaks undone."""
    from matplotlib.text import Text

    return {text.get_text().replace("\n", " ") for text in figure.findobj(Text)} - {""}


def check_layout(figure):
    """No text leaves the figure, and no two shown texts overlap."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    width, height = canvas.get_width_height()
    boxes, hidden = [], hidden_tick_labels(figure)
    for text in figure.findobj(Text):
        box = text.get_window_extent(canvas.get_renderer())
        if not text.get_text() or not text.get_visible():
            continue
        if text in hidden:
            continue
        boxes.append((text.get_text(), box))
    for name, box in boxes:
        assert box.x0 >= 0, name
        assert box.y0 >= 0, name
        assert box.x1 <= width, name
        assert box.y1 <= height, name
    for index, (name, box) in enumerate(boxes):
        for other_name, other in boxes[:index]:
            assert not box.overlaps(other), f"{name!r} overlaps {other_name!r}"


def hidden_tick_labels(figure):
    """Labels of ticks outside the limits of an axis, which matplotlib stores but does not draw."""
    hidden = []
    for axes in figure.axes:
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            low, high = min(low, high), max(low, high)
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                hidden += [tick.label2]
                if not low <= tick.get_loc() <= high:
                    hidden += [tick.label1]
    return hidden


# --- files -------------------------------------------------------------------------------------------


def test_without_matplotlib_drawing_says_what_to_install(monkeypatch):
    for name in ["matplotlib", *(name for name in sys.modules if name.startswith("matplotlib."))]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"^pictures need matplotlib: pip install matplotlib$"):
        plots.image_grid([[0.5]], (1, 1))


@pytest.mark.parametrize("draw", GRIDS.values(), ids=GRIDS)
def test_a_png_is_written_at_the_returned_path(draw, path, figures):
    assert draw(str(path), random_images(4, (8, 8)), (8, 8)) == path
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert list(path.parent.iterdir()) == [path]


def test_missing_folders_are_made(tmp_path, figures):
    path = tmp_path / "new" / "folder" / "picture.png"
    assert put(plots.image_grid, path, random_images(1, (8, 8)), (8, 8)).is_file()


def test_an_older_picture_is_replaced_whole(path, figures):
    put(plots.image_grid, path, random_images(4, (8, 8)), (8, 8))
    older = path.read_bytes()
    put(plots.image_grid, path, random_images(9, (8, 8)), (8, 8))
    assert path.read_bytes() != older


@pytest.mark.parametrize("broken", ["print_png", "write_bytes", "replace"])
def test_a_failure_keeps_the_older_picture_and_leaves_no_other_file(broken, path, figures, monkeypatch):
    put(plots.image_grid, path, random_images(4, (8, 8)), (8, 8))
    older = path.read_bytes()

    def fail(target, *args):
        if broken == "write_bytes":
            with target.open("wb") as file:
                file.write(b"half")
        raise KeyboardInterrupt

    owner = {
        "print_png": "matplotlib.backends.backend_agg.FigureCanvasAgg.print_png",
        "write_bytes": "pathlib.Path.write_bytes",
        "replace": "os.replace",
    }[broken]
    monkeypatch.setattr(owner, fail)
    with pytest.raises(KeyboardInterrupt):
        put(plots.image_grid, path, random_images(9, (8, 8)), (8, 8))
    assert path.read_bytes() == older
    assert list(path.parent.iterdir()) == [path]


def test_places_that_cannot_be_written_are_refused_in_one_line(tmp_path, figures):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    for path in (tmp_path / "file" / "picture.png", tmp_path / "folder.png"):
        with pytest.raises(InputError, match=r"^output: cannot write .*\.png: [A-Z][\w ]+$"):
            put(plots.image_grid, path, random_images(1, (8, 8)), (8, 8))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.png"]


@pytest.mark.parametrize("path", ["picture.pdf", "picture", None])
def test_only_png_names_are_taken(path, figures):
    with pytest.raises(InputError, match=r"path: expected a (path|file name ending in \.png)"):
        put(plots.image_grid, path, random_images(1, (8, 8)), (8, 8))


def test_matplotlibs_global_state_is_not_changed(path, figures):
    code = f"""
import sys, matplotlib
from pyro_dvae import plots
before = list(dict.items(matplotlib.rcParams))  # dict(rcParams) would itself import pyplot
plots.write_figure({str(path)!r}, plots.image_grid([[0.5]], (1, 1)))
plots.write_figure({str(path)!r}, plots.learning_curves([1], [-1.0], [-2.0]))
assert "matplotlib.pyplot" not in sys.modules
assert list(dict.items(matplotlib.rcParams)) == before
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# --- learning curves ---------------------------------------------------------------------------------


def rising(count, final=-95.0, drop=400.0):
    return [final - drop / epoch for epoch in range(1, count + 1)]


def test_the_curves_hold_the_values_and_the_labels(path, figures):
    put(
        plots.learning_curves, path, range(1, 31), rising(30), rising(30, -97.0), best_epoch=28, title="MNIST"
    )
    axes = figures[0].axes[0]
    train, validation, best = axes.get_lines()
    np.testing.assert_array_equal(train.get_xdata(), range(1, 31))
    np.testing.assert_array_equal(train.get_ydata(), rising(30))
    np.testing.assert_array_equal(validation.get_ydata(), rising(30, -97.0))
    assert set(best.get_xdata()) == {28}
    assert (axes.get_xlabel(), axes.get_ylabel()) == (
        "epoch\n6 values lie outside the picture",
        "bound (nats per observation)",
    )
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["training (corrupted input)", "validation (clean input)", "best epoch: 28"]
    assert "MNIST" in texts(figures[0])
    check_layout(figures[0])


def test_missing_values_are_left_out_and_the_rest_joined(path, figures):
    bounds = [-120.0, None, math.nan, -100.0, -math.inf, -99.0]
    put(plots.learning_curves, path, torch.arange(6), bounds, torch.tensor(rising(6)))
    line = figures[0].axes[0].get_lines()[0]
    assert list(line.get_xdata()) == [0, 3, 5]
    assert list(line.get_ydata()) == [-120, -100, -99]


def test_a_curve_without_values_is_not_drawn(path, figures):
    put(plots.learning_curves, path, [1, 2], [-120.0, -100.0], [None, None])
    assert [line.get_label() for line in figures[0].axes[0].get_lines()] == ["training (corrupted input)"]


def test_early_values_and_outliers_do_not_flatten_the_picture(path, figures):
    bounds = rising(500)
    bounds[300] = -1e5
    put(plots.learning_curves, path, range(500), bounds, rising(500, -94.0))
    low, high = figures[0].axes[0].get_ylim()
    assert -110 < low < -96
    assert -94.8 < high < -93
    outside = sum(value < low for value in [*bounds, *rising(500, -94.0)])
    assert any(f"{outside} values lie outside the picture" in text for text in texts(figures[0]))
    check_layout(figures[0])


def test_a_validation_curve_that_falls_at_the_end_is_shown_to_its_end(path, figures):
    falling = [-95 - 10 * (epoch / 500) ** 3 for epoch in range(500)]
    put(plots.learning_curves, path, range(500), rising(500, -90.0), falling)
    assert figures[0].axes[0].get_ylim()[0] < falling[-1]


def test_the_best_epoch_is_always_inside(path, figures):
    put(plots.learning_curves, path, range(1, 501), rising(500), rising(500), best_epoch=2)
    assert figures[0].axes[0].get_ylim()[0] < rising(500)[1]


@pytest.mark.parametrize("count", [1, 2, 3, 12])
def test_few_epochs_are_visible(count, path, figures):
    put(plots.learning_curves, path, range(1, count + 1), rising(count), rising(count, -90.0), best_epoch=1)
    axes = figures[0].axes[0]
    assert axes.get_lines()[0].get_marker() == "o"
    low, high = axes.get_ylim()
    assert low < min(rising(count)[-1], -90 - 400 / count) < max(rising(count)[-1], -90 - 400 / count) < high
    assert axes.get_xlim()[0] < 1 <= count < axes.get_xlim()[1]
    assert all(tick == int(tick) for tick in axes.get_xticks())
    check_layout(figures[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], [], []), "epochs: expected at least one value"),
        (([1, 2], [-1.0], [-1.0, -2.0]), "train_bound: expected 2 values, one per epoch, got 1"),
        (([1, 2], [-1.0, -2.0], [-1.0]), "validation_bound: expected 2 values, one per epoch, got 1"),
        (([1, math.nan], [-1.0, -2.0], [-1.0, -2.0]), "epochs: expected finite numbers"),
        (([1], [None], [math.nan]), "train_bound, validation_bound: expected at least one finite value"),
        (([1], ["a"], [-1.0]), "train_bound: expected numbers"),
        (([1], 3.0, [-1.0]), "train_bound: expected at least one value in a row"),
        (([1], [-1.0], np.ones((1, 1))), "validation_bound: expected at least one value in a row"),
        (([1], [-1.0], [-1.0], 7), "best_epoch: expected one of the epochs, got 7"),
        (([1], [-1.0], [-1.0], "last"), "best_epoch: expected a number"),
    ],
)
def test_bad_curves_are_refused(arguments, message, path):
    with pytest.raises(InputError, match=message):
        put(plots.learning_curves, path, *arguments)
    assert not path.exists()


# --- images ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("draw", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("count", [1, 7, 20])
def test_texts_fit_and_images_fill_the_picture(draw, shape, count, path, figures):
    draw(path, 1.5 * random_images(count, shape), shape)
    check_layout(figures[0])
    height, width = pixels(path).shape
    position = figures[0].axes[0].get_position()
    assert (height - position.height * height) <= 110
    assert (width - position.width * width) <= max(150, 344 - 16)
    assert 300 <= width <= 2560
    assert any(text.startswith(NOTE) for text in texts(figures[0]))


def test_every_image_value_is_shown_one_to_one(path, figures):
    """Each grey level is an exact block of screen pixels, in row-major order, and all gaps have one width."""
    images = random_images(6, (8, 8))
    put(plots.image_grid, path, images, (8, 8), columns=3)
    picture, zoom = pixels(path), 30
    tile, pitch = 8 * zoom, 8 * zoom + 2
    assert picture.shape == (12 + 2 * tile + 2 + 12 + 18, 3 * tile + 4 + 24)
    for index, image in enumerate(images.reshape(6, 8, 8).numpy()):
        top, left = 12 + index // 3 * pitch, 12 + index % 3 * pitch
        shown = picture[top : top + tile, left : left + tile]
        np.testing.assert_allclose(shown, image.repeat(zoom, 0).repeat(zoom, 1), rtol=0, atol=2 / 255)


def test_the_grid_has_the_columns_asked_for_or_is_about_square(path, figures):
    put(plots.image_grid, path, random_images(12, (8, 8)), (8, 8), columns=6)
    put(plots.image_grid, path, random_images(100, (28, 20)), (28, 20))
    wide, square = (figure.axes[0].images[0].get_array().shape for figure in figures)
    assert wide[1] / wide[0] == pytest.approx(3, rel=0.02)
    assert square[1] / square[0] == pytest.approx(1, rel=0.25)


def test_black_is_0_and_white_is_1_whatever_the_values(path, figures):
    put(plots.image_grid, path, [[0.4, 0.6], [0.4, 0.6]], (1, 2))
    image = figures[0].axes[0].images[0]
    assert image.get_clim() == (0, 1)
    assert image.get_cmap().name == "gray"
    assert NOTE in texts(figures[0])


def test_limits_are_shown_in_black_and_white_and_noted(path, figures):
    images = [[80.0, 100.0], [120.0, 140.0]]
    put(plots.image_grid, path, images, (1, 2), columns=1, limits=(90, 130))
    shown = figures[0].axes[0].images[0].get_array()
    assert sorted(set(shown[shown <= 1].tolist())) == [0.0, 0.25, 0.75, 1.0]
    note = "pixel intensity 90 (black) to 130 (white); values outside [90, 130] are clipped for display"
    assert note in texts(figures[0])
    put(plots.manifold, path, [[-3.0], [1.0]], (1, 1), 1, 2, limits=(-3, 1))
    assert "pixel intensity -3 (black) to 1 (white)" in texts(figures[1])


@pytest.mark.parametrize(
    ("limits", "words"), [((1, 1), "expected low < high"), (3, "two numbers"), ((0, 1, 2), "two numbers")]
)
def test_bad_limits_are_refused(limits, words, path):
    with pytest.raises(InputError, match=rf"limits: .*{words}"):
        put(plots.image_grid, path, [[0.4, 0.6]], (1, 2), limits=limits)


@pytest.mark.parametrize("convert", [torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.double])
def test_arrays_lists_and_tensors_give_the_same_picture(convert, tmp_path, figures):
    images = random_images(3, (8, 8))
    one = put(plots.image_grid, tmp_path / "one.png", images.clone().requires_grad_(), (8, 8))
    two = put(plots.image_grid, tmp_path / "two.png", convert(images), (8, 8))
    assert one.read_bytes() == two.read_bytes()


def test_long_titles_are_wrapped(path, figures):
    put(plots.image_grid, path, random_images(1, (8, 8)), (8, 8), title="samples from the prior " * 6)
    check_layout(figures[0])


def test_denoising_rows_are_labelled_and_clipping_is_noted(path, figures):
    clean = random_images(20, (8, 8))
    put(plots.denoising_grid, path, clean, 3 * clean - 1, clean, (8, 8), title="Gaussian noise")
    put(plots.denoising_grid, path, clean, clean, clean, (8, 8))
    noisy, plain = map(texts, figures)
    assert {"clean", "corrupted", "reconstructed", "Gaussian noise", NOTE + CLIPPED} <= noisy
    assert NOTE in plain
    assert NOTE + CLIPPED not in plain


def test_denoising_rows_hold_their_images(path, figures):
    black, grey, white = (torch.full((20, 64), value) for value in (0.0, 0.5, 1.0))
    put(plots.denoising_grid, path, black, grey, white, (8, 8))
    axes = figures[0].axes[0]
    mosaic = axes.images[0].get_array()
    centres = dict(zip([t.get_text() for t in axes.get_yticklabels()], axes.get_yticks(), strict=True))
    shown = {label: mosaic[int(centre), 10] for label, centre in centres.items()}
    assert shown == {"clean": 0.0, "corrupted": 0.5, "reconstructed": 1.0}
    assert mosaic.shape[1] / mosaic.shape[0] == pytest.approx(plots.SHOWN / 3, rel=0.02)


@pytest.mark.parametrize("draw", GRIDS.values(), ids=GRIDS)
def test_colours_are_those_of_the_channels(draw, path, figures):
    images = torch.zeros(3, 3, 8, 10)
    images[0, 0] = images[1, 1, :4] = images[2, 2, :, 5:] = 1  # red; green above; blue to the right
    draw(path, images, (3, 8, 10))
    mosaic = figures[0].axes[0].images[0].get_array()
    assert mosaic.shape[2] == 3
    rows = 3 if draw is GRIDS["denoising_grid"] else 1
    columns = 2 if draw is GRIDS["image_grid"] else 3
    down, across = mosaic.shape[0] // rows, mosaic.shape[1] // columns
    assert tuple(mosaic[down // 4, across // 4]) == (1, 0, 0)
    assert tuple(mosaic[down // 8, across + across // 4]) == (0, 1, 0)
    assert any("red, green and blue intensity from 0 to 1" in text for text in texts(figures[0]))
    before = path.read_bytes()
    draw(path, images.flatten(1), (3, 8, 10))
    assert path.read_bytes() == before
    check_layout(figures[0])


def test_gaps_and_empty_places_of_a_colour_grid(path, figures):
    put(plots.image_grid, path, torch.zeros(3, 3, 8, 8), (3, 8, 8), columns=2)
    mosaic = figures[0].axes[0].images[0].get_array()
    assert tuple(mosaic[-1, -1]) == (1, 1, 1)
    assert np.allclose(mosaic[0, mosaic.shape[1] // 2], np.array([0xCF, 0xD8, 0xE6]) / 255)


def test_one_channel_is_grey(path, figures):
    images = random_images(4, (8, 8))
    put(plots.image_grid, path, images, (8, 8))
    before = path.read_bytes()
    put(plots.image_grid, path, images.reshape(4, 1, 8, 8), (1, 8, 8))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("images", "shape", "message"),
    [
        (torch.empty(0, 64), (8, 8), "images: expected at least one element"),
        ([], (8, 8), "images: expected at least one element"),
        (torch.rand(3, 63), (8, 8), r"images: expected shape \[N, 64\] for images of 8 x 8, got \(3, 63\)"),
        (torch.rand(64), (8, 8), r"images: expected shape \[N, 64\]"),
        (torch.rand(3, 4, 16), (8, 8), r"images: expected shape \[N, 64\]"),
        (torch.rand(3, 8, 8, 3), (3, 8, 8), r"shape \[N, 192\] for images of 3 x 8 x 8, got \(3, 8, 8, 3\)"),
        (torch.rand(3, 128), (2, 8, 8), "image_shape: pictures show 1 or 3 channels, got 2; choose"),
        (torch.rand(3, 64), (1, 1, 8, 8), r"image_shape: expected \(height, width\) or \(channels, "),
        (torch.full((1, 64), math.nan), (8, 8), "images: expected finite values, got 64 NaN"),
        ("no image", (8, 8), r"images: expected an array \[N, D\], got str"),
        (torch.rand(3, 64), (64,), r"image_shape: expected \(height, width\) or .*, got \(64,\)"),
        (torch.rand(3, 64), 64, r"image_shape: expected \(height, width\) or .*, got 64"),
        (torch.rand(3, 64), (8, 0), "image_shape: expected a whole number"),
        (torch.rand(3, 64), (8.0, 8), "image_shape: expected a whole number"),
    ],
)
def test_bad_images_are_refused(images, shape, message, path):
    for draw in (
        lambda: put(plots.image_grid, path, images, shape),
        lambda: put(plots.manifold, path, images, shape, 1, 3),
    ):
        with pytest.raises(InputError, match=message):
            draw()
    assert not path.exists()


@pytest.mark.parametrize("argument", ["clean", "corrupted", "reconstructed"])
def test_bad_denoising_rows_are_named(argument, path):
    rows = {name: torch.rand(3, 64) for name in ("clean", "corrupted", "reconstructed")}
    with pytest.raises(InputError, match=f"^{argument}: expected shape"):
        put(plots.denoising_grid, path, **{**rows, argument: torch.rand(3, 60)}, image_shape=(8, 8))
    if argument != "clean":
        with pytest.raises(InputError, match=f"^{argument}: expected 3 images as in clean, got 2"):
            put(plots.denoising_grid, path, **{**rows, argument: torch.rand(2, 64)}, image_shape=(8, 8))


@pytest.mark.parametrize("columns", [0, -1, 2.5])
def test_bad_columns_are_refused(columns, path):
    with pytest.raises(InputError, match="columns: expected a whole number"):
        put(plots.image_grid, path, torch.rand(3, 64), (8, 8), columns=columns)


# --- the latent manifold -----------------------------------------------------------------------------


def test_codes_are_gaussian_quantiles_row_by_row_from_the_top_left():
    codes = plots.manifold_codes(rows=3, columns=5, low=0.1, high=0.9)
    normal = torch.distributions.Normal(0.0, 1.0)
    first = normal.icdf(torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9]))
    second = normal.icdf(torch.tensor([0.9, 0.5, 0.1]))
    expected = torch.stack([torch.stack([z1, z2]) for z2 in second for z1 in first])
    assert codes.dtype == torch.get_default_dtype()
    torch.testing.assert_close(codes, expected, rtol=0, atol=1e-6)


def test_one_row_or_column_is_the_median():
    assert torch.equal(plots.manifold_codes(1, 1), torch.zeros(1, 2))
    assert torch.equal(plots.manifold_codes(1, 3)[:, 1], torch.zeros(3))


@pytest.mark.parametrize(("rows", "columns"), [(3, 5), (20, 20), (33, 40)])
def test_tile_centres_on_the_axes_are_the_codes(rows, columns, path, figures):
    """The tile drawn over a pair of tick labels is the image decoded from that pair of values."""
    codes = plots.manifold_codes(rows, columns)
    images = torch.distributions.Normal(0.0, 1.0).cdf(codes)  # two pixels: the ranks of z₁ and z₂
    put(plots.manifold, path, images, (1, 2), rows, columns, title="manifold")
    axes = figures[0].axes[0]
    mosaic = axes.images[0].get_array()
    assert mosaic.count() == mosaic.size, "tiles without gaps"
    across, down = (
        [float(label.get_text().replace("\N{MINUS SIGN}", "-")) for label in labels]
        for labels in (axes.get_xticklabels(), axes.get_yticklabels())
    )
    width, height = mosaic.shape[1] / columns, mosaic.shape[0] / rows
    for x, first in zip(axes.get_xticks(), across, strict=True):
        for y, second in zip(axes.get_yticks(), down, strict=True):
            tile = mosaic[int(y), int(x - width / 4)], mosaic[int(y), int(x + width / 4)]
            z1, z2 = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(tile)).tolist()
            assert z1 == pytest.approx(first, abs=0.0051)
            assert z2 == pytest.approx(second, abs=0.0051)
    assert axes.get_ylim() == (rows * height, 0)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("z₁", "z₂")
    assert "manifold" in texts(figures[0])
    check_layout(figures[0])


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.9), (0.1, 1.0), (0.9, 0.1), (0.5, 0.5), (math.nan, 0.9)])
def test_bad_ranges_are_refused(low, high):
    with pytest.raises(InputError, match="low"):
        plots.manifold_codes(3, 3, low, high)


@pytest.mark.parametrize("size", [0, -1, 2.0, None])
def test_bad_counts_are_refused(size, path):
    with pytest.raises(InputError, match="rows: expected a whole number"):
        plots.manifold_codes(size, 3)
    with pytest.raises(InputError, match="columns: expected a whole number"):
        put(plots.manifold, path, torch.rand(9, 64), (8, 8), 3, size)


def test_a_wrong_number_of_tiles_is_refused(path):
    with pytest.raises(InputError, match=r"images: expected rows \* columns = 12 images, got 9"):
        put(plots.manifold, path, torch.rand(9, 64), (8, 8), 3, 4)


@pytest.mark.parametrize("name", ["$\\frac$", "$x^$", "a$b", "\x1b[31m$y$", "\\$", "$" * 7])
def test_names_with_mathtext_or_control_codes_are_drawn_as_they_are(name, tmp_path):
    put(plots.learning_curves, tmp_path / "curves.png", [1, 2], [-3, -2], [-3, -1], 2, title=name)
    put(plots.image_grid, tmp_path / "grid.png", np.zeros((2, 4)), (2, 2), title=name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "grid.png"]


# Tables


def columns(count=40, seed=0):
    generator = np.random.default_rng(seed)
    x = {"height": generator.normal(170, 10, count), "7": generator.normal(0, 1, count)}
    x["colour"] = np.array(["red", "blue"])[np.arange(count) % 2]
    return x, {"height": x["height"] + 1, "7": np.zeros(count), "colour": x["colour"]}


def test_a_table_is_drawn_by_its_columns_of_numbers(figures, path):
    observed, reconstructed = columns()
    put(plots.observed_and_reconstructed, path, observed, reconstructed, title="mine.csv")
    shown = texts(figures[-1])
    assert {"height", "column 7", "observed", "reconstructed", "mine.csv"} <= set(shown)
    assert "colour" not in shown
    put(plots.column_errors, path, observed, reconstructed)
    axes = figures[-1].axes[0]
    x = observed["height"]
    widths = sorted(bar.get_width() for bar in axes.patches)
    expected = [1 / x.var(), np.square(observed["7"]).mean() / observed["7"].var()]
    assert widths == pytest.approx(sorted(expected))


def test_codes_lie_on_their_principal_axes(figures, path):
    generator = np.random.default_rng(1)
    codes = generator.normal(size=(200, 2)) * [3, 0.5]
    turned = codes @ np.array([[0.6, 0.8, 0.0], [-0.8, 0.6, 0.0]])
    put(plots.latent_scatter, path, torch.from_numpy(turned), torch.arange(200) % 2)
    first = figures[-1].axes[0]
    drawn = np.concatenate([line.get_xydata() for line in first.lines])
    assert sorted(drawn.var(0), reverse=True) == pytest.approx(
        np.linalg.eigvalsh(np.cov(codes.T, bias=True))[::-1]
    )
    assert {"class 0", "class 1"} <= set(texts(figures[-1]))
    put(plots.latent_scatter, path, codes[:, :1])  # a single unit
    put(plots.latent_scatter, path, codes, np.arange(200))  # too many classes for colours


def test_bad_tables(path):
    observed, reconstructed = columns()
    with pytest.raises(InputError, match=r"reconstructed: expected \[40\] values of 'height', got \[39\]"):
        put(plots.column_errors, path, observed, reconstructed | {"height": observed["height"][1:]})
    with pytest.raises(InputError, match="at least one column of numbers"):
        put(plots.observed_and_reconstructed, path, {"a": np.array(["x"])}, {})
    with pytest.raises(InputError, match="codes: expected at least two rows"):
        put(plots.latent_scatter, path, torch.zeros(1, 2))
