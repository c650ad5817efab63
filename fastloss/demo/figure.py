"""The demo's curves, one panel for each experiment."""

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .experiments import BreastCancer, Diabetes, LinearRegression

# Okabe and Ito's colours, which stay apart for colour-blind eyes.
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"


def draw(linear: LinearRegression, cancer: BreastCancer, diabetes: Diabetes) -> Figure:
    """The figure, not attached to any window or global state."""
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    _curves(left, linear.losses, "Linear regression", "training loss (mean squared error)")
    _curves(middle, cancer.distances, "Breast cancer", "mean $(p - y)^2$ in training")
    _curves(right, diabetes.errors, "Diabetes with slipped decimal points", "held-out mean absolute error")
    return figure


def _curves(axes, curves, title, measure):
    for (name, curve), colour in zip(curves.items(), (BLUE, ORANGE, GREEN), strict=True):
        axes.plot(curve, color=colour, label=name)
    axes.set(title=title, xlabel="epoch", ylabel=measure, yscale="log")
    axes.legend()
