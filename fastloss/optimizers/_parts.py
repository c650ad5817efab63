"""What several rules are made of."""

from ..formula import sign, where
from ..formula.rows import length, total


def average(past, now, beta):
    """The fading mean: `beta` of the past, the rest of what is now."""
    return beta * past + (1 - beta) * now


def ratio(a, b):
    """a / b, but 0 where the denominator is or underflows to 0: what has no scale moves nothing."""
    return where(b == 0, 0, a / b)


def cautious_move(move, direction, grad):
    """The moves that do not go against the gradient, and how much longer they are for those that rest: Liang et al. (2024).

    `direction` has the sign of `move`.
    """
    # Not direction * grad: it underflows.
    rests = sign(direction) * grad <= 0
    return where(rests, 0, move), length(grad) / (total(where(rests, 0, 1)) + 1)
