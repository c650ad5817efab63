"""Polynomials, unrolled while a formula is traced."""

from ..formula import fma


def polynomial(x, coefficients):
    """c0 + c1 x + c2 x^2 + ..., by Horner's rule."""
    *rest, result = coefficients
    for coefficient in reversed(rest):
        result = fma(result, x, coefficient)
    return result
