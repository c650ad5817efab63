"""The demo's picture: a panel of curves for each question, two maps of the digits, and the race of the optimizers."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, MultipleLocator, NullFormatter, PercentFormatter

from .digits import WRONG, DigitClasses, DigitPairs
from .linear import OUTLIERS, BreastCancer, Diabetes, LinearRegression
from .race import EPOCHS, Race

# Okabe and Ito's colours, which stay apart for colour-blind eyes; dashes let an overlapped curve be seen.
STYLES = (("#0072B2", "-"), ("#D55E00", "-"), ("#009E73", "--"))
# The racers' kinds; all others are Adam's kin.
KIN = "Adam and its kin"
KINDS = {
    "gradient descent": ("#0072B2", ("SGD", "SGD, momentum 0.9", "SGD, Nesterov 0.9")),
    "a step length for each element": ("#009E73", ("Adagrad", "Adadelta", "RMSprop", "Rprop", "MADGRAD")),
    KIN: ("#D55E00", ()),
    "signs": ("#CC79A7", ("Lion", "Signum")),
    "Hessian": ("black", ("Sophia",)),
    "schedule-free": ("#56B4E9", ("ScheduleFreeAdamW",)),
}


def draw(
    linear: LinearRegression,
    cancer: BreastCancer,
    diabetes: Diabetes,
    classes: DigitClasses,
    pairs: DigitPairs,
    race: Race,
) -> Figure:
    """The figure, not attached to any window or global state."""
    figure = Figure(figsize=(13, 12.9), layout=ConstrainedLayoutEngine(wspace=0.06, hspace=0.05))
    FigureCanvasAgg(figure)
    above, last = figure.subfigures(2, 1, height_ratios=(5, 3))
    (left, middle, right), (below, *maps) = above.subplots(2, 3)
    fits, knows = last.subplots(1, 2, width_ratios=(2.2, 1))
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
    _race(fits, race)
    _accuracies(knows, race)
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


def _race(axes, race):
    """Training losses, each led from its end to its name, which is in its row of `_accuracies`, beside."""
    bottom, top = min(curve.min() for curve in race.losses.values()) / 1.5, 5.0
    axes.set(yscale="log", ylim=(bottom, top), xlim=(0, EPOCHS), xticks=range(0, EPOCHS + 1, 5))
    kinds = {}
    for row, (name, curve) in enumerate(race.losses.items(), start=1):
        kind, colour = _kind(name)
        (kinds[kind],) = axes.plot(curve, color=colour, linewidth=1.3)
        height = bottom * (top / bottom) ** (row / (len(race.losses) + 1))
        axes.plot(np.array([1, 1.1, 1.12]) * EPOCHS, [curve[-1], height, height], color=colour, linewidth=0.7, clip_on=False)
        axes.text(1.13 * EPOCHS, height, name, color=colour, size="small", va="center")
    axes.set_title("Digits: which optimizer fits the training images best?")
    axes.set(xlabel="epoch", ylabel="training loss (cross-entropy)")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend([kinds[kind] for kind in KINDS], KINDS, frameon=False, loc="lower left")


def _accuracies(axes, race):
    """Held-out accuracy in the rows of the names."""
    for row, (name, share) in enumerate(race.held_out.items(), start=1):
        axes.axhline(row, color="0.9", linewidth=0.8, zorder=0)
        axes.plot(share, row, "o", color=_kind(name)[1])
    axes.set(ylim=(0, len(race.held_out) + 1), yticks=[], xlabel="held-out accuracy at the end")
    axes.set_title("... and which the held-out ones?")
    axes.margins(x=0.1)
    axes.xaxis.set_major_locator(MultipleLocator(0.005))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _kind(name):
    """The kind of an optimizer, and its colour."""
    return next(((kind, colour) for kind, (colour, names) in KINDS.items() if name in names), (KIN, KINDS[KIN][0]))
