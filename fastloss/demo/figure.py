"""The demo's curves, one panel for each experiment."""

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, NullFormatter

from .linear import OUTLIERS, BreastCancer, Diabetes, LinearRegression

# Okabe and Ito's colours, which stay apart for colour-blind eyes; dashes let an overlapped curve be seen.
STYLES = (("#0072B2", "-"), ("#D55E00", "-"), ("#009E73", "--"))


def draw(linear: LinearRegression, cancer: BreastCancer, diabetes: Diabetes) -> Figure:
    """The figure, not attached to any window or global state."""
    figure = Figure(figsize=(13, 4.2), layout=ConstrainedLayoutEngine(wspace=0.06))
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    _curves(left, linear.losses, "Linear regression: which optimizer?", "training loss (mean squared error)")
    _curves(middle, cancer.distances, "Breast cancer: which loss?", "mean $(p - y)^2$ in training")
    _curves(right, diabetes.errors, f"Diabetes, {OUTLIERS:.0%} bad targets: which loss?", "held-out mean absolute error")
    for axes in (left, middle):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    right.set_ylim(bottom=0)
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
