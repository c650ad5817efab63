"""The demo's picture: a panel of curves for each question, and two maps of the digits."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter

from .digits import WRONG, DigitClasses, DigitPairs
from .linear import OUTLIERS, BreastCancer, Diabetes, LinearRegression

# Okabe and Ito's colours, which stay apart for colour-blind eyes; dashes let an overlapped curve be seen.
STYLES = (("#0072B2", "-"), ("#D55E00", "-"), ("#009E73", "--"))


def draw(
    linear: LinearRegression, cancer: BreastCancer, diabetes: Diabetes, classes: DigitClasses, pairs: DigitPairs
) -> Figure:
    """The figure, not attached to any window or global state."""
    figure = Figure(figsize=(13, 8.6), layout=ConstrainedLayoutEngine(wspace=0.06, hspace=0.08))
    FigureCanvasAgg(figure)
    (left, middle, right), (below, *maps) = figure.subplots(2, 3)
    _curves(left, linear.losses, "Linear regression: which optimizer?", "training loss (mean squared error)")
    _curves(middle, cancer.distances, "Breast cancer: which loss?", "mean $(p - y)^2$ in training")
    _curves(right, diabetes.errors, f"Diabetes, {OUTLIERS:.0%} bad targets: which loss?", "held-out mean absolute error")
    _curves(below, _shown(classes), f"Digits, {WRONG:.0%} wrong labels: which loss?", "held-out accuracy")
    for axes in (left, middle):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    right.set_ylim(bottom=0)
    # The start, at chance, would flatten what follows.
    below.set(xscale="linear", ylim=(0.85, 1))
    below.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    for axes, name in zip(maps, ("principal components", "contrastive loss"), strict=True):
        _map(
            axes,
            pairs.places[name],
            pairs.digits,
            f"Digits in the plane: {name}",
            f"{pairs.by_centre[name]:.0%} lie nearest to their own digit's centre",
        )
    return figure


def _curves(axes, curves, title, measure):
    for (name, curve), (colour, dashes) in zip(curves.items(), STYLES, strict=True):
        axes.plot(curve, dashes, color=colour, label=name)
    # Most happens in the first epochs: 0, then powers of ten.
    axes.set_xscale("symlog", linthresh=1)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(title=title, xlabel="epoch", ylabel=measure, xlim=(0, len(curve) - 1))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def _shown(classes):
    """The two losses that differ most under wrong labels, and what right ones would have given."""
    plain, robust = "cross-entropy", "generalized cross-entropy"
    return {
        plain: classes.noisy[plain],
        robust: classes.noisy[robust],
        f"{plain}, clean labels": classes.clean[plain],
    }


def _map(axes, places, digits, title, finding):
    axes.scatter(*places.T, c=digits, cmap="tab10", s=16, linewidths=0, alpha=0.8)
    for digit in np.unique(digits):
        axes.text(
            *np.median(places[digits == digit], axis=0),
            str(digit),
            size="x-large",
            weight="bold",
            ha="center",
            va="center",
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )
    axes.set(title=title, xlabel=finding, xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim")
    axes.spines[:].set_visible(False)
