"""What several rules are made of."""

from ..formula import where


def average(past, now, beta):
    """The fading mean: `beta` of the past, the rest of what is now."""
    return beta * past + (1 - beta) * now


def ratio(a, b):
    """a / b, but 0 where the denominator is or underflows to 0: what has no scale moves nothing."""
    return where(b == 0, 0, a / b)
