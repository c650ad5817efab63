"""A loss along a direction: what a line search asks for."""

from typing import Any, NamedTuple

from .._kernels import arrays
from .._kernels.cpu import engine
from .loss import Loss, bound


class LinePoint(NamedTuple):
    """The loss at a point of a line, and its first and second derivative by the step."""

    value: float
    slope: float
    curvature: float


def line_search(
    loss: Loss,
    *inputs: Any,
    direction: Any,
    step: float = 0.0,
    sample_weight: Any = None,
    reduction: str = "mean",
    normalizer: Any = None,
    check: bool = True,
    **parameters: Any,
) -> LinePoint:
    """Value, slope and curvature of a pointwise loss at ``pred + step * direction``, in one pass and without a temporary array.

    With ``eta = X @ w`` and ``direction = X @ d`` at hand, the search along ``d`` needs `X` no more.

    Parameters
    ----------
    loss : Loss
        A loss of single elements.
    *inputs : array_like
        The loss's inputs: the first is where the line begins.
    direction : array_like
        Of the first input's shape, or what broadcasts to it; floating.
    step : float
        How many times `direction` is added.
    sample_weight, normalizer, check
        As in a call of the loss.
    reduction : {"mean", "sum"}
        As in a call of the loss.
    **parameters
        The loss's hyperparameters.

    Returns
    -------
    LinePoint
        ``value``, ``slope`` and ``curvature``: Python floats.

    Raises
    ------
    ValueError, TypeError
        As a call of the loss; also where the moved first input leaves its domain.

    Examples
    --------
    >>> import fastloss as fl
    >>> pred, target, direction = [0.0, 1.0], [1.0, 3.0], [1.0, 1.0]
    >>> fl.line_search(fl.squared_error, pred, target, direction=direction, step=1.0)
    LinePoint(value=0.5, slope=-1.0, curvature=2.0)
    """
    plan = bound("line_search", loss, parameters)
    step = arrays.as_number(plan.who, "step", step)
    return LinePoint(*engine.along(plan, inputs, direction, step, sample_weight, reduction, normalizer, check))
