"""The small functions: choices and combinations of others."""

from ..formula import absolute, fma, log, log1p, softplus, sqrt, vector_function, where
from .polynomial import polynomial


@vector_function
def sign(x, real):
    """-1, 0 or 1; NaN for NaN."""
    return where(x > 0, 1, where(x < 0, -1, x))


@vector_function
def maximum(a, b, real):
    """The larger one; NaN if either is."""
    return where(a < b, b, where(b == b, a, b))


@vector_function
def minimum(a, b, real):
    """The smaller one; NaN if either is."""
    return where(a > b, b, where(b == b, a, b))


@vector_function
def out_of_range(square, real):
    """Whether a sum of squares was computed without what overflow or underflow takes: 0; 1 if too large, 2 if too small."""
    least, most = (2.0**-90, 2.0**120) if real.f32 else (2.0**-900, 2.0**1000)
    return where(square > most, 1.0, where(square < least, 2.0, 0.0))


@vector_function
def range_scale(code, real):
    """What numbers are to be scaled by before they are squared, for what `out_of_range` says: even powers of two.

    So that the cube of the sum's root is in range too, if it is not among the largest.
    """
    down, up = (2.0**-100, 2.0**84) if real.f32 else (2.0**-800, 2.0**730)
    return where(code == 1.0, down, where(code == 2.0, up, 1.0))


@vector_function
def sqrt1pm1(x, real):
    """sqrt(1 + x) - 1, without the cancellation at small x; within 2.3 ulp."""
    root = sqrt(1 + x)
    return where(x < 1e4, x / (1 + root), root - 1)


# 2 (atanh(s) / s - 1) / s^2 in s^2, |s| <= 1/3, relative error 2^-26.4 and 2^-52.7 of a term below 1/12 of the sum.
_ATANH_32 = (0.6666666732052742, 0.3999970633192972, 0.28592357994302836, 0.21706575800880373, 0.2322432922402335)
_ATANH_64 = (
    0.6666666666666666,
    0.40000000000014585,
    0.2857142856710876,
    0.22222222717427864,
    0.18181789436132859,
    0.15385570064958623,
    0.13314144209654935,
    0.12001072809590713,
    0.08800738486144674,
    0.1616404561194353,
)


@vector_function
def log1pmx(x, real):
    """log(1 + x) - x = 2 atanh(s) - x = s (s^2 (2/3 + 2/5 s^2 + ...) - x) with s = x / (2 + x) for -1/2 <= x <= 1; within 3 ulp."""
    s = x / (2 + x)
    square = s * s
    near = s * (square * polynomial(square, _ATANH_32 if real.f32 else _ATANH_64) - x)
    far = where(x < float("inf"), log1p(x), 0) - x
    return where((x >= -0.5) & (x <= 1), near, far)


@vector_function
def xlogy(x, y, real):
    """x log(y), 0 where x is 0."""
    return where(x == 0, where(y == y, 0, y), x * log(y))


@vector_function
def logaddexp(a, b, real):
    """log(e^a + e^b), from the larger one up; within 3.5 ulp of the largest of the three."""
    larger = where(a < b, b, a)
    gap = absolute(a - b)
    # Equal infinities have a gap of NaN; the sum is that infinity.
    return where(a == b, a + 0.6931471805599453, where(gap == gap, larger + softplus(-gap), a + b))


# (log(cosh(x)) / x^2 - 1/2) / x^2 in x^2 for |x| <= 1, relative error in log(cosh(x)) of 2^-27.0 and 2^-55.1.
_LOG_COSH_32 = (
    -0.08333331346511841,
    0.022221611812710762,
    -0.006740545388311148,
    0.0021632034331560135,
    -0.0006820051930844784,
    0.0001779796730261296,
    -2.610361116239801e-05,
)
_LOG_COSH_64 = (
    -0.08333333333333193,
    0.022222222222093347,
    -0.006746031741864025,
    0.002186948785289064,
    -0.0007386022941753414,
    0.00025657634326526084,
    -9.097120954149266e-05,
    3.272217793476525e-05,
    -1.1827964910203095e-05,
    4.192874886017219e-06,
    -1.3773467623749924e-06,
    3.7819144750561274e-07,
    -7.347363093964399e-08,
    7.252327541133576e-09,
)
# log 2, rounded and the rest.
_LOG_2_32 = (0.6931471824645996, -1.904654299957768e-09)
_LOG_2_64 = (0.6931471805599453, 2.3190468138462996e-17)


@vector_function
def log_cosh(x, real):
    """log(cosh(x)): x^2 / 2 + x^4 P(x^2) for |x| < 1, else |x| - log 2 + log(1 + e^-2|x|); within 2 ulp."""
    size = absolute(x)
    square = x * x
    near = fma(square * square, polynomial(square, _LOG_COSH_32 if real.f32 else _LOG_COSH_64), 0.5 * square)
    log_2, rest = _LOG_2_32 if real.f32 else _LOG_2_64
    return where(size < 1, near, (size - log_2) + (softplus(-2 * size) - rest))
