"""The pictures show the values of the rows."""

import dataclasses

import numpy as np
import pytest
from experiments_small import row_of

from pyro_dvae import plots
from pyro_dvae.jobs.experiments import plan
from pyro_dvae.jobs.experiments.pictures import PICTURES


@pytest.fixture
def drawn(monkeypatch):
    """The last figure that was written."""
    kept = []
    write = plots.write_figure

    def keep(path, figure):
        kept.append(figure)
        return write(path, figure)

    monkeypatch.setattr(plots, "write_figure", keep)
    return kept


def rows(small):
    means = {"0 %": (-91.0, -93.0), "5 %": (-88.0, -89.0)}
    return [row_of(each, means[each.case.column][each.options.seed]) for each in plan(small)]


def test_lines_have_the_means_of_ours_and_the_published(small, drawn, tmp_path):
    path = PICTURES["lines"](small, rows(small), tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")
    ours, published = drawn[-1].axes
    assert list(ours.containers[0].lines[0].get_ydata()) == [92.0, 88.5]
    assert list(ours.containers[1].lines[0].get_ydata()) == [88.5]
    assert list(published.containers[0].lines[0].get_ydata()) == [90.0, 89.0]
    assert ours.get_ylabel() == small.table.quantity
    assert ours.get_title() == "ours, ± standard deviation"
    one = [row for row in rows(small) if row["seed"] == 0]
    PICTURES["lines"](small, one, tmp_path)
    assert [axes.get_title() for axes in drawn[-1].axes] == ["ours", "published, ± standard deviation"]


def test_lines_without_published_figures_have_one_panel(small, drawn, tmp_path):
    plain = dataclasses.replace(
        small, cases=tuple(dataclasses.replace(case, published=None) for case in small.cases)
    )
    PICTURES["lines"](plain, rows(small), tmp_path)
    assert len(drawn[-1].axes) == 1


def test_curves_are_means_over_the_seeds_with_a_band(small, drawn, tmp_path):
    own = rows(small)
    same = [row for row in own if (row["row"], row["column"]) == ("VAE", "0 %")]
    same[0]["curve"]["validation"] = [-6.0, -5.0, -3.0]
    same[1]["curve"]["validation"] = [-4.0, -3.0, -3.0]
    PICTURES["curves"](small, own, tmp_path)
    first, second = drawn[-1].axes
    assert (first.get_title(), second.get_title()) == ("0 %", "5 %")
    assert list(first.lines[0].get_ydata()) == [5.0, 4.0, 3.0]
    assert len(second.lines) == 2
    low, high = first.get_ylim()
    assert low < 3
    assert high > 5
    shown = {text.get_text() for text in drawn[-1].legends[0].get_texts()}
    assert shown == {"VAE", "VAE, K = 2"}
    (band,) = (each.get_paths()[0].vertices[:, 1] for each in first.collections)
    assert (band.min(), band.max()) == pytest.approx((4 - 2**0.5, 5 + 2**0.5))


def test_log_curves_have_a_panel_for_each_row(small, drawn, tmp_path):
    PICTURES["log-curves-by-row"](small, rows(small), tmp_path)
    first, second = drawn[-1].axes
    assert (first.get_title(), second.get_title()) == ("VAE", "VAE, K = 2")
    assert first.get_xscale() == "log"
    assert (len(first.lines), len(second.lines)) == (2, 1)


def test_a_heat_map_has_the_means_and_gaps(small, drawn, tmp_path):
    PICTURES["heat-map"](small, rows(small), tmp_path)
    shown = np.ma.filled(drawn[-1].axes[0].images[0].get_array().astype(float), np.nan)
    np.testing.assert_allclose(shown, [[92.0, 88.5], [np.nan, 88.5]])
    assert {text.get_text() for text in drawn[-1].axes[0].texts} == {"92.00", "88.50"}


def test_a_heat_map_of_test_and_training_data_has_one_scale(small, drawn, tmp_path):
    own = [row_of(each, -91.0, training_bound=-85.0) for each in plan(small)]
    PICTURES["heat-map"](small, own, tmp_path)
    test, training = drawn[-1].axes[:2]
    assert (test.get_title(), training.get_title()) == ("test data", "training data")
    assert float(test.images[0].get_array()[0, 0]) == 91.0
    assert float(training.images[0].get_array()[0, 0]) == 85.0
    assert test.images[0].get_clim() == training.images[0].get_clim() == (85.0, 91.0)


def test_gaps_are_stacked_for_test_and_training_rows(small, drawn, tmp_path):
    figures = {
        f"{part}_{name}": value * scale
        for part, scale in (("test", 2.0), ("training", 1.0))
        for name, value in (
            ("approximation_gap_full", 1.0),
            ("approximation_gap", 1.5),
            ("amortisation_gap", 4.0),
        )
    }
    PICTURES["gaps"](small, [row_of(each, -90.0, **figures) for each in plan(small)], tmp_path)
    first, second = drawn[-1].axes
    assert (first.get_title(), second.get_title()) == ("0 %", "5 %")
    assert [label.get_text() for label in first.get_yticklabels()] == ["VAE, test", "VAE, training"]
    assert second.get_yticklabels()[0].get_text()
    assert first.get_xlim()[1] >= 1.25 * 11.0
    (legend,) = drawn[-1].legends
    assert len(legend.get_texts()) == 3
    widths = [
        [bar.get_width() for bar in each.patches] for each in first.containers if hasattr(each, "patches")
    ]
    assert widths == [[2.0], [1.0], [8.0], [1.0], [0.5], [4.0]]


def test_values_that_are_not_finite_are_left_out(small, drawn, tmp_path):
    names = ("approximation_gap_full", "approximation_gap", "amortisation_gap")
    figures = {f"{part}_{name}": 1.0 for part in ("test", "training") for name in names}
    own = [row_of(each, None, **figures) for each in plan(small, seeds=1)]
    assert PICTURES["heat-map"](small, own, tmp_path) is None
    for row in own:
        row["figures"]["test_amortisation_gap"] = {"mean": None, "standard_error": None}
    PICTURES["gaps"](small, own, tmp_path)
    ends = [each.get_text() for each in drawn[-1].axes[0].texts]
    assert ends == ["nan", "2.0"]


def test_digits_are_next_to_the_lines(small, drawn, tmp_path):
    own = rows(small)
    axes = plots.image_grid(np.zeros((4, 9)), (3, 3))
    plots.write_figure(tmp_path / "pictures" / f"{own[0]['key']}-digits.png", axes)
    path = PICTURES["lines-and-digits"](small, own, tmp_path)
    assert path.name == "picture.png"
    assert (tmp_path / "digits.png").read_bytes().startswith(b"\x89PNG")


def test_panels_are_the_pictures_of_the_measure(small, drawn, tmp_path):
    own = rows(small)
    assert PICTURES["manifolds"](small, own, tmp_path) is None
    images = np.zeros((4, 9))
    for row in own[:2]:
        plots.write_figure(
            tmp_path / "pictures" / f"{row['key']}-manifold.png", plots.image_grid(images, (3, 3))
        )
    PICTURES["manifolds"](small, own, tmp_path)
    titles = [axes.get_title() for axes in drawn[-1].axes if axes.get_title()]
    assert titles == ["VAE, 0 %", "VAE, 5 %"]


def test_a_title_names_other_data_and_fewer_epochs(small, drawn, tmp_path):
    PICTURES["lines"](small, rows(small), tmp_path)
    assert drawn[-1].get_suptitle() == small.title
    longer = dataclasses.replace(small, epochs=5)
    planned = plan(small, overrides={"dataset": "another"})
    other = [row_of(each, -91.0) for each in planned]
    PICTURES["lines"](longer, other, tmp_path)
    text = " ".join(drawn[-1].get_suptitle().split())
    assert text.startswith("On another, not the declared data: ")
    assert text.endswith("runs with fewer epochs than declared: 3)")
