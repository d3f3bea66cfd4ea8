"""The figures: whatever numbers a training can give, they are drawn, or one sentence says why they cannot be."""

import math
import warnings

import matplotlib
import pytest
from PIL import Image

matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402

from course_utils.plots import (  # noqa: E402
    plot_bars,
    plot_differences,
    plot_history,
    plot_lines,
    plot_range_test,
    share_interval,
    show_images,
)


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
    """Draw each figure when it is shown, with every warning an error; gives the figures."""
    figures = []

    def show():
        figures.append(plt.gcf())
        figures[-1].canvas.draw()

    monkeypatch.setattr(plt, "show", show)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DeprecationWarning)  # of an old matplotlib's use of a new pyparsing
        yield figures
    plt.close("all")


def history(*values):
    return [{"epoch": epoch, "val_accuracy": value} for epoch, value in enumerate(values, start=1)]


BLACK = Image.new("RGB", (8, 8))
NOT_FINITE = [math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("count", [1, 7, 20])
def test_any_number_of_curves_is_drawn_and_no_two_look_alike(drawn, count):
    plot_history({f"run {number}": history(0.5, number / 20) for number in range(count)})
    plot_lines([1, 2], {f"run {number}": [0.5, number] for number in range(count)}, "title", "x", "y")
    for figure in drawn:
        lines = figure.axes[0].get_lines()
        looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in lines}
        assert len(lines) == len(looks) == count


def test_a_wide_curve_has_no_markers(drawn):
    plot_history({"a": history(0.1, 0.2), "b": history(0.1, 0.2)}, wide="a")
    assert [line.get_marker() for line in drawn[0].axes[0].get_lines()] == ["", "s"]


def test_bars_of_shares_have_their_interval(drawn):
    """Wilson's, as R's prop.test(correct=FALSE) gives it."""
    assert share_interval(0.9, 100) == pytest.approx((0.8256, 0.9448), abs=1e-4)
    assert share_interval(1.0, 100) == pytest.approx((0.9630, 1.0), abs=1e-4)
    plot_bars(["some", "all", "none", "diverged"], [0.9, 1.0, 0.0, math.nan], "title", "x", "{:.0%}", images=100)
    _, _, (segments,) = drawn[0].axes[0].containers[0]  # what matplotlib calls an error bar container
    ends = [tuple(segment[:, 0]) for segment in segments.get_segments()]
    assert ends[0] == pytest.approx((0.8256, 0.9448), abs=1e-4) and ends[3] == (0, 0)
    assert ends[1][1] == pytest.approx(1) and ends[2][0] == pytest.approx(0)


def test_a_range_test_names_the_rate_of_the_lowest_loss(drawn):
    rates = [10.0**-power for power in range(9, 0, -1)]
    plot_range_test(rates, [0.7, 0.7, 0.6, 0.3, 0.2, 0.2, 0.6, 2.0, math.inf], guessing=0.69)
    assert "1e-05" in drawn[0].axes[0].get_title()


def test_the_best_epoch_and_guessing_are_marked(drawn):
    plot_history({"a": history(0.9, 0.4, 0.6)}, best=2, guessing=0.5)
    _, ring, line = drawn[0].axes[0].get_lines()
    assert (list(ring.get_xdata()), list(ring.get_ydata())) == ([2], [0.4])
    assert set(line.get_ydata()) == {0.5}
    labels = [text.get_text() for text in drawn[0].axes[0].get_legend().get_texts()]
    assert labels == ["a", "best epoch", "guessing"]


@pytest.mark.parametrize("value", NOT_FINITE)
def test_a_value_that_is_no_number_leaves_a_gap(drawn, value):
    plot_history({"diverged": history(0.5, value, 0.6), "from the start": history(value)})
    plot_lines([1, 2, 3], {"a": [0.5, value, 1.0]}, "title", "x", "y")
    plot_bars(["a", "b"], [0.5, value], "title", "x", "{:.0%}")
    assert drawn[0].axes[0].get_lines()[0].get_ydata()[2] == 0.6
    assert [text.get_text() for text in drawn[2].axes[0].texts] == ["50%", f"{value:.0%}"]


@pytest.mark.parametrize("values", [[0.0], [0.0, 0.0], [0.0, 1e-8], [3.0], [1e-30, 1e30]])
def test_differences_may_all_be_zero(drawn, values):
    plot_differences({f"way {number}": value for number, value in enumerate(values)}, "title")
    texts = [text.get_text() for text in drawn[0].axes[0].texts]
    assert [text.startswith("exactly 0") for text in texts] == [value == 0 for value in values]


def test_two_bars_may_have_the_same_label(drawn):
    plot_bars(["again", "again"], [1, 2], "title", "x")
    assert [bar.get_width() for bar in drawn[0].axes[0].patches] == [1, 2]
    assert [label.get_text() for label in drawn[0].axes[0].get_yticklabels()] == ["again", "again"]


def test_images_fill_a_grid(drawn):
    show_images([BLACK] * 5, list("abcde"), columns=4, wrong={4})
    assert [axis.get_title() for axis in drawn[0].axes] == ["a", "b", "c", "d", "e", "", "", ""]


@pytest.mark.parametrize(
    ("draw", "sentence"),
    [
        (lambda: show_images([], []), "0 images in 4 columns make no figure"),
        (lambda: show_images([BLACK], ["a"], columns=0), "1 images in 0 columns make no figure"),
        (lambda: show_images([BLACK, BLACK], ["a"]), "2 images and 1 titles; give one title for each"),
        (lambda: plot_history({}), "There is no curve"),
        (lambda: plot_history({"a": history(1.0), "b": []}), "The curve 'b' has no values"),
        (lambda: plot_history({"a": history(1.0)}, "val_acc"), "'a' has no 'val_acc' .* one of: epoch, val_accuracy"),
        (lambda: plot_lines([1], {}, "t", "x", "y"), "There is no curve"),
        (lambda: plot_lines([], {"a": []}, "t", "x", "y"), "The curve 'a' has no values"),
        (lambda: plot_lines([1, 2], {"a": [1]}, "t", "x", "y"), "'a' has 1 values and x has 2"),
        (lambda: plot_bars([], [], "t", "x"), "0 labels and 0 values make no bars"),
        (lambda: plot_bars(["a"], [1, 2], "t", "x"), "1 labels and 2 values make no bars"),
        (lambda: plot_range_test([], [], 1.0), "0 rates and 0 losses make no range test"),
        (lambda: plot_range_test([1.0], [1.0, 2.0], 1.0), "1 rates and 2 losses make no range test"),
        (lambda: plot_differences({}, "t"), "no differences to plot"),
        *[(lambda value=value: plot_differences({"a": 1.0, "b": value}, "t"), "'b' is ") for value in NOT_FINITE],
        (lambda: plot_differences({"a": -1.0}, "t"), "'a' is -1.0; only finite ones from 0 on"),
    ],
)
def test_what_has_no_figure_is_refused_in_one_sentence(drawn, draw, sentence):
    with pytest.raises(ValueError, match=sentence):
        draw()
    assert not drawn and not plt.get_fignums()
