"""The figures. Colours are Okabe and Ito's, which people who are colour-blind can tell apart.

Source of the colours: https://jfly.uni-koeln.de/color/
Every title says the finding, every axis its unit; each function draws one figure and shows it.
"""

import math

import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator, PercentFormatter
from PIL import Image

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
MARKERS = ["o", "s", "^", "D", "v", "P"]
WRONG = "#D55E00"


def show_images(
    images: list[Image.Image],
    titles: list[str],
    columns: int = 4,
    title: str = "",
    wrong: set[int] = frozenset(),
) -> None:
    """PIL images in a grid, each under its own title; those whose index is in `wrong` have a coloured title.

    Raises ValueError without images or columns, and for another number of titles.
    """
    if not len(images) or columns < 1:
        raise ValueError(f"{len(images)} images in {columns} columns make no figure: give at least 1 of each.")
    if len(titles) != len(images):
        raise ValueError(f"There are {len(images)} images and {len(titles)} titles; give one title for each image.")
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2.2 * columns, 2.5 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.set_axis_off()
    for index, (axis, image, name) in enumerate(zip(axes.flat, images, titles)):
        axis.imshow(image)
        axis.set_title(name, fontsize=10, color=WRONG if index in wrong else "black")
    figure.suptitle(title)
    plt.show()


def plot_history(
    histories: dict[str, list[dict]],
    metric: str = "val_accuracy",
    title: str = "",
    mark: float | None = None,
    wide: str | None = None,
    best: int | None = None,
    guessing: float | None = None,
) -> None:
    """One curve per named history (as `training.fit` returns it) over epochs.

    mark: a vertical line at that epoch. wide: the name of a curve to draw wide and pale, so that one upon it shows.
    best: a ring around that epoch of the first curve. guessing: a horizontal line at that value.
    A value that is no finite number leaves a gap. Raises ValueError without a curve, for a history without epochs, and
    for an epoch that has no such metric.
    """
    _check_curves(histories)
    for name, history in histories.items():
        if lacking := [row for row in history if metric not in row]:
            has = ", ".join(map(str, lacking[0]))
            raise ValueError(f"The history {name!r} has no {metric!r} in each epoch; choose one of: {has}.")
    figure, axis = plt.subplots(figsize=(7, 3.5))
    for number, (name, history) in enumerate(histories.items()):
        epochs, values = [row["epoch"] for row in history], [_finite(row[metric]) for row in history]
        style = _style(number) | ({"linewidth": 8, "alpha": 0.35, "marker": ""} if name == wide else {})
        axis.plot(epochs, values, label=name, **style)
    if mark is not None:
        axis.axvline(mark, color="gray", linestyle="--", label="interrupted here")
    if best is not None:
        value = next(row[metric] for row in next(iter(histories.values())) if row["epoch"] == best)
        ring = {"markersize": 14, "markerfacecolor": "none", "markeredgewidth": 2, "color": "black"}
        axis.plot(best, value, "o", label="best epoch", **ring)
    if guessing is not None:
        axis.axhline(guessing, color="black", linestyle=":", label="guessing")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    _label(axis, title, "epoch", metric.replace("val_", "validation ").replace("train_", "training "))
    if "accuracy" in metric:
        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    if len(histories) > 1 or {mark, best, guessing} != {None}:
        axis.legend()
    figure.tight_layout()
    plt.show()


def plot_lines(x: list[float], lines: dict[str, list[float]], title: str, xlabel: str, ylabel: str) -> None:
    """One curve per name over the same x; a value that is no finite number leaves a gap.

    Raises ValueError without a curve, and for a curve with another number of values than x.
    """
    _check_curves(lines)
    for name, values in lines.items():
        if len(values) != len(x):
            raise ValueError(f"The curve {name!r} has {len(values)} values and x has {len(x)}; give one for each x.")
    figure, axis = plt.subplots(figsize=(7, 3.5))
    for number, (name, values) in enumerate(lines.items()):
        axis.plot(x, [_finite(value) for value in values], label=name, **_style(number))
    axis.set_xticks(x, [f"{value:g}" for value in x])
    _label(axis, title, xlabel, ylabel)
    axis.legend()
    figure.tight_layout()
    plt.show()


def plot_range_test(rates: list[float], losses: list[float], guessing: float) -> None:
    """The losses of a learning-rate range test over its rates, each batch and the mean of five in a row.

    guessing: the loss of a model that guesses, a line. Raises ValueError without losses, and for another number of
    rates. Source: notebook 05, section "Which learning rate?".
    """
    if not len(losses) or len(rates) != len(losses):
        raise ValueError(
            f"{len(rates)} rates and {len(losses)} losses make no range test: give one loss for each rate."
        )
    figure, axis = plt.subplots(figsize=(7, 3))
    windows = [losses[max(0, place - 2) : place + 3] for place in range(len(losses))]
    means = [sum(window) / len(window) for window in windows]
    axis.plot(rates, losses, ".", color=COLOURS[5], label="one batch")
    axis.plot(rates, means, color=COLOURS[0], label="mean of five batches")
    axis.axhline(guessing, color="black", linestyle="--", label="guessing")
    axis.set_xscale("log")
    axis.set_ylim(0, 3 * guessing)
    best = rates[means.index(min(means))]
    _label(axis, f"The loss is lowest near {best:.1g}, then it rises", "learning rate (log scale)", "training loss")
    axis.legend()
    figure.tight_layout()
    plt.show()


def plot_bars(
    labels: list[str],
    values: list[float],
    title: str,
    xlabel: str,
    value_format: str = "{:g}",
    guessing: float | None = None,
    images: int | None = None,
) -> None:
    """Horizontal bars, the first label on top, each with its value at its end; `guessing`: a line at that value.

    images: on how many images the values, then shares of 0..1, were measured: each bar gets its 95 % interval.
    A value that is no finite number has no bar, only its text. Raises ValueError without bars, and for another number
    of values than labels.
    """
    if not len(labels) or len(labels) != len(values):
        raise ValueError(f"{len(labels)} labels and {len(values)} values make no bars: give one value for each label.")
    figure, axis = plt.subplots(figsize=(7, 0.45 * len(labels) + 1.2))
    lengths = [value if math.isfinite(value) else 0 for value in values]
    errors = {}
    if images:
        intervals = [share_interval(value, images) if math.isfinite(value) else (0, 0) for value in values]
        around = [(length - low, high - length) for length, (low, high) in zip(lengths, intervals)]
        errors = {"xerr": [*zip(*around)], "capsize": 3}
    # Rows for positions: two bars may have the same label.
    bars = axis.barh(range(len(labels)), lengths, tick_label=labels, color=COLOURS[0], **errors)
    on_white = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # readable where the line passes
    axis.bar_label(bars, [value_format.format(value) for value in values], padding=4, bbox=on_white)
    axis.invert_yaxis()
    axis.margins(x=0.15)
    if "%" in value_format:
        axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    if guessing is not None:
        axis.axvline(guessing, color="black", linestyle="--", label="guessing")
        axis.legend(loc="lower right")
    _label(axis, title, xlabel, "")
    figure.tight_layout()
    plt.show()


def share_interval(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval (Wilson's) of a share that was measured on `count` cases: the truth may well lie in it.

    Source: https://en.wikipedia.org/wiki/Binomial_proportion_confidence_interval
    """
    z = 1.96
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return min(share, middle - half), max(share, middle + half)


def plot_differences(differences: dict[str, float], title: str) -> None:
    """A dot per name on a logarithmic scale, each with its value; a hollow one at the left edge is exactly 0.

    Raises ValueError without a difference, and for one that is negative, infinite or not a number.
    """
    if not differences:
        raise ValueError("There are no differences to plot: give at least one name with its number.")
    for name, value in differences.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"The difference {name!r} is {value}; only finite ones from 0 on have a place here.")
    names, values = list(differences), list(differences.values())
    zero = min((value for value in values if value), default=1) / 20  # a logarithmic scale has no 0
    figure, axis = plt.subplots(figsize=(7, 0.45 * len(names) + 1.2))
    for row, value in enumerate(values):
        inside = COLOURS[0] if value else "white"
        axis.plot(value or zero, row, "o", color=COLOURS[0], markerfacecolor=inside, clip_on=False, zorder=3)
        text = f"{value:.2g}" if value else "exactly 0: every bit is equal"
        axis.text(1.3 * (value or zero), row, text, va="center")
    axis.set_xscale("log")
    axis.set_xlim(zero, (max(values) or 1) * 8)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    _label(axis, title, "largest difference from the straight run, weights and BatchNorm (log scale)", "")
    figure.tight_layout()
    plt.show()


def _label(axis, title: str, xlabel: str, ylabel: str) -> None:
    axis.set_title(title)
    axis.set_xlabel(xlabel)
    axis.set_ylabel(ylabel)
    axis.spines[["top", "right"]].set_visible(False)


def _style(number: int) -> dict:
    """Colour, marker and line of a curve: after six the colours come again, with other markers and lines."""
    rounds = number // len(COLOURS)
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[(number + rounds) % len(MARKERS)],
        "linestyle": ["-", "--", ":", "-."][rounds % 4],
    }


def _finite(value: float) -> float:
    """Infinity as "not a number", for which a curve has a gap: an axis cannot reach it."""
    return value if math.isfinite(value) else math.nan


def _check_curves(curves: dict[str, list]) -> None:
    empty = [name for name, values in curves.items() if not len(values)]
    if not curves or empty:
        which = f"The curve {empty[0]!r} has no values" if empty else "There is no curve"
        raise ValueError(f"{which}: give at least one curve, each with at least one value.")
