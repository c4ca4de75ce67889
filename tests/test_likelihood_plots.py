import numpy as np
import pytest
import torch
from test_plots import check_layout, put, texts

from pyro_dvae import plots
from pyro_dvae.errors import InputError

VALUES = torch.linspace(-200, -50, 40)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "picture.png"


TITLE = "a data set, 40 test data, 5,000 samples each, proposal: mixture of 10, widened by 1.2, and more"
DRAWN = {
    "histogram": lambda path: put(plots.log_likelihood_histogram, path, VALUES, title=TITLE),
    "equal values": lambda path: put(plots.log_likelihood_histogram, path, [-3.0] * 5, title=TITLE),
    "k": lambda path: put(plots.pareto_k, path, VALUES / 100 + 2, 0.7, title=TITLE),
    "many k": lambda path: put(plots.pareto_k, path, torch.rand(3000), 0.7, title=TITLE),
    "convergence": lambda path: put(
        plots.convergence, path, [1, 10, 100], [-9.0, -8.0, -7.5], 0.1, -7.4, (-7.3, 0.2), title=TITLE
    ),
    "one number of samples": lambda path: put(plots.convergence, path, [500], [-9.0], 0.1, title=TITLE),
    "kl": lambda path: put(plots.kl_per_dimension, path, [0.1, 2.0, 0.0], [0.5, 0.9, 0.001], title=TITLE),
    "kl alone": lambda path: put(plots.kl_per_dimension, path, [0.1]),
    "images": lambda path: put(
        plots.hardest_and_easiest, path, torch.rand(40, 64), VALUES, (8, 8), title=TITLE
    ),
    "faces": lambda path: put(
        plots.hardest_and_easiest, path, torch.rand(9, 560), VALUES[:9], (28, 20), title=TITLE
    ),
    "rows": lambda path: put(
        plots.hardest_and_easiest, path, torch.rand(5, 9), VALUES[:5], (1, 9), title=TITLE
    ),
    "colour": lambda path: put(
        plots.hardest_and_easiest, path, torch.rand(9, 3, 8, 8), VALUES[:9], (3, 8, 8)
    ),
    "one image": lambda path: put(plots.hardest_and_easiest, path, torch.rand(1, 64), [-3.0], (8, 8)),
}


@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)
def test_a_png_is_written_and_nothing_is_cut_off_or_overlaps(draw, path, figures):
    assert draw(path) == path
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert list(path.parent.iterdir()) == [path]
    check_layout(figures[0])


def test_the_histogram_counts_every_datum(path, figures):
    put(plots.log_likelihood_histogram, path, [-100.0, -90.0, -50.0, -np.inf])
    (axes,) = figures[0].axes
    assert sum(bar.get_height() for bar in axes.patches) == 3
    shown = texts(figures[0])
    assert f"mean {plots.number(-80.0)} nats" in shown
    assert f"median {plots.number(-90.0)} nats" in shown
    assert any("1 of the values not finite, and left out" in text for text in shown)


def test_pareto_k_distinguishes_the_shares(path, figures):
    put(plots.pareto_k, path, [0.1, 0.5, 0.9, np.inf, -np.inf], 0.7)
    (axes,) = figures[0].axes
    below, above = (points.get_offsets() for points in axes.collections)
    assert below[:, 1].tolist() == [0.1, 0.5]
    assert above[:, 1].tolist() == [0.9]
    shown = texts(figures[0])
    assert "above 0.70: 40.0 %, not to be trusted" in shown
    assert "up to 0.70: 60.0 % of the data" in shown
    assert any("2 of the values not finite, and left out" in text for text in shown)


def test_convergence_draws_annealing_only_if_given(path, figures):
    for annealed in (None, (-7.0, 0.1)):
        put(plots.convergence, path, [1, 10], [-9.0, -8.0], 0.1, -7.9, annealed)
        shown = " ".join(texts(figures[-1]))
        assert ("annealed" in shown) is (annealed is not None)
        assert "a lower bound in expectation" in shown
        assert figures[-1].axes[0].get_xscale() == "log"


def test_kl_is_sorted_and_coloured_by_activity(path, figures):
    put(plots.kl_per_dimension, path, [0.1, 2.0, 0.3], [0.5, 0.9, 0.001])
    bars = sorted(figures[0].axes[0].patches, key=lambda bar: bar.get_x())
    assert [bar.get_height() for bar in bars] == [2.0, 0.3, 0.1]
    assert bars[0].get_facecolor() == bars[2].get_facecolor() != bars[1].get_facecolor()
    assert {"active: 2 of 3", "inactive: 1 of 3"} <= texts(figures[0])


def test_the_hardest_come_first_and_the_easiest_below(path, figures):
    images = torch.zeros(40, 4)
    images[:, 0] = torch.linspace(0, 1, 40)
    put(plots.hardest_and_easiest, path, images, VALUES, (2, 2))
    tiles = [axes for axes in figures[0].findobj(lambda a: hasattr(a, "get_images")) if axes.get_images()]
    firsts = [float(axes.get_images()[0].get_array()[0, 0]) for axes in tiles]
    assert firsts == pytest.approx([*images[:16, 0].tolist(), *images.flip(0)[:16, 0].tolist()])
    assert {"hardest: the lowest log p(x)", "easiest: the highest", "no. 39"} <= texts(figures[0])


BAD = {
    "empty": (
        lambda path: put(plots.log_likelihood_histogram, path, []),
        "log_likelihood: expected at least",
    ),
    "all infinite": (lambda path: put(plots.log_likelihood_histogram, path, [np.inf]), "one finite value"),
    "text": (lambda path: put(plots.pareto_k, path, ["a"], 0.7), "k: expected numbers"),
    "table": (
        lambda path: put(plots.pareto_k, path, [[0.1]], 0.7),
        "k: expected at least one value in a row",
    ),
    "lengths": (lambda path: put(plots.convergence, path, [1], [1, 2], 0.1), "mean_bound: expected 1 values"),
    "no bound": (
        lambda path: put(plots.convergence, path, [1], [np.nan], 0.1),
        "mean_bound: expected at least",
    ),
    "activity": (lambda path: put(plots.kl_per_dimension, path, [1], [1, 2]), "activity: expected 1 values"),
    "shape": (
        lambda path: put(plots.hardest_and_easiest, path, torch.rand(40, 9), VALUES, (2, 2)),
        "images: expected shape",
    ),
    "name": (lambda path: put(plots.pareto_k, path.with_suffix(".pdf"), [0.1], 0.7), "ending in .png"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case, path, figures):
    draw, message = BAD[case]
    with pytest.raises(InputError, match=message):
        draw(path)
    assert not path.exists()
