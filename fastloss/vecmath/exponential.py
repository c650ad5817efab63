"""The exponential and what is made of it: exp, expm1, tanh, sigmoid.

x = n ln 2 + r with |r| <= ln(2) / 2, and e^r = 1 + r + r^2 P(r); P and the other polynomials are minimax fits of our own. n comes
from adding a number so large that its unit is 1: then n, plus whatever whole number was added with it, stands in the lowest bits,
and shifted to the exponent's place they are a power of two. No integer is converted and none shifted right, for which SSE and AVX2
have no instruction in 64 bits.
"""

import math

from ..formula import absolute, bits, fma, from_bits, vector_function, where
from .polynomial import polynomial

LOG2_E = 1.4426950408889634
# ln 2 in two parts; the first has so few bits that its product with any exponent is exact.
LN_2_32 = (0.693145751953125, 1.428606765330187e-06)
LN_2_64 = (0.6931471805598903, 5.497923018708371e-14)
# (e^r - 1 - r) / r^2 for |r| <= 0.34675, error 2^-28.2 and 2^-57.4 of e^r.
_EXP_32 = (0.4999999403953552, 0.1666652113199234, 0.04166826233267784, 0.00836867094039917, 0.001382089452818036)
_EXP_64 = (
    0.5,
    0.16666666666666433,
    0.04166666666660374,
    0.00833333333350039,
    0.0013888888926893597,
    0.00019841269465807056,
    2.4801508547795047e-05,
    2.7557640877083633e-06,
    2.7625245133118067e-07,
    2.4978497459924937e-08,
)
# (tanh(x) - x) / x^3 in x^2 for |x| <= 0.55, error 2^-29.7 and 2^-55.5 of tanh(x).
_TANH_32 = (-0.33333316445350647, 0.13332544267177582, -0.0538475476205349, 0.02105071395635605, -0.0062428489327430725)
_TANH_64 = (
    -0.3333333333333231,
    0.13333333333168249,
    -0.053968253875854695,
    0.021869485969422592,
    -0.008863194431365937,
    0.003591719105603492,
    -0.0014532137985475686,
    0.0005791281352287062,
    -0.00021028771173842818,
    5.1011196119189536e-05,
)


def magic(real):
    """The number whose unit is 1, with room for a sum of either sign."""
    return 1.5 * 2.0**real.mantissa


def magic_bits(real):
    """Its pattern: a small integer added to it is added to the number."""
    return ((real.bias + real.mantissa) << real.mantissa) + (1 << (real.mantissa - 1))


def two_chains(x, coefficients):
    """A polynomial as its even and its odd part: two chains of half the length, where one would wait for itself."""
    square = x * x
    return fma(x, polynomial(square, coefficients[1::2]), polynomial(square, coefficients[::2]))


def _power_of_2(i, real):
    """2^(j - bias) for the j in the lowest bits of i."""
    return from_bits(i << real.mantissa)


def _reduce(x, offset, real, largest=None):
    """x = n ln 2 + high - low; returns an integer that ends in the bits of n + offset, n, high (exact) and low."""
    i = bits(fma(x, LOG2_E, magic(real) + offset))
    if largest is not None:
        limit = magic_bits(real) + offset + largest
        i = where(i > limit, limit, i)
    n = from_bits(i) - (magic(real) + offset)
    first, second = LN_2_32 if real.f32 else LN_2_64
    return i, n, fma(n, -first, x), n * second


def _curvature(r, real):
    """(e^r - 1 - r) / r^2."""
    return polynomial(r, _EXP_32) if real.f32 else two_chains(r, _EXP_64)


@vector_function
def exp(x, real):
    """e^x: 2^n (1 + r + r^2 P(r)), P of degree 4 (f64: 9); within 0.93 ulp.

    2^n is multiplied in two halves, so that a subnormal result is rounded once. Above the range n stays at its largest and P
    carries the result to infinity.
    """
    i, n, high, low = _reduce(x, 2 * real.bias, real, largest=real.bias + 1)
    half = bits(fma(n, 0.5, magic(real) + real.bias))
    r = high - low
    # low joins the smallest term: r's own rounding error then does not count.
    fraction = 1.0 + (high + fma(r * r, _curvature(r, real), -low))
    value = fraction * _power_of_2(half, real) * _power_of_2(i - half, real)
    return where(x < (-104.0 if real.f32 else -746.0), 0.0, value)


@vector_function
def scaled_exp(scale, x, real):
    """scale e^x, as exp: only the product need be in range; within 1.5 ulp.

    A subnormal scale is made normal and n as much smaller. 2^n is multiplied in two parts, the smaller, floor(n / 2), first: what
    overflows before the larger has overflown, for n within twice the exponents of the type.
    """
    i, n, high, low = _reduce(x, 2 * real.bias, real, largest=2 * real.bias)
    is_small = absolute(scale) < 2.0 ** (1 - real.bias)
    half = bits(fma(n - where(is_small, float(real.mantissa), 0.0), 0.5, -0.25) + (magic(real) + real.bias))
    rest = where(is_small, i - real.mantissa, i) - half
    r = high - low
    scaled = scale * where(is_small, 2.0**real.mantissa, 1.0) * _power_of_2(half, real)
    # Added to the scale, the smaller term is rounded where it is small; infinity is not to meet its negative.
    value = fma(scaled, high + fma(r * r, _curvature(r, real), -low), scaled)
    value = where((absolute(scaled) == math.inf) & (x == x), scaled, value) * _power_of_2(rest, real)
    least = where(is_small, -104.0, -174.0) if real.f32 else where(is_small, -746.0, -1416.0)
    gone = (x < least) & (scale == scale)
    return where((scale == 0.0) | gone, 0.0, value)


@vector_function
def exp_nonpositive(x, real):
    """e^x for x <= 0, as exp but cheaper; within 1.3 ulp.

    There is no overflow, so 2^n times a constant is a normal number and one half. The reduced argument's own rounding counts.
    """
    least, shift = -104.0 if real.f32 else -746.0, real.bias // 2
    i, _, high, low = _reduce(where(x < least, least, x), real.bias + shift, real)
    r = high - low
    return fma(r, fma(r, _curvature(r, real), 1.0), 1.0) * _power_of_2(i, real) * 2.0**-shift


@vector_function
def expm1(x, real):
    """e^x - 1: 2 (2^(n-1) (r + r^2 P(r)) + (2^(n-1) - 1/2)), P of degree 4 (f64: 9); within 1.66 ulp."""
    i, _, high, low = _reduce(x, real.bias - 1, real, largest=real.bias + 1)
    r = high - low
    scale = _power_of_2(i, real)
    scaled = scale * r
    # The sum of the first two terms loses nothing where it cancels; the halves keep n = bias + 1 in range.
    value = 2.0 * fma(scaled * r, _curvature(r, real), (scale - 0.5) + scaled)
    value = where(x < (-18.0 if real.f32 else -40.0), -1.0, value)
    # Halving would cost a subnormal x its last bit, and -0 its sign.
    return where(absolute(x) < 2.0**-real.mantissa, x, value)


@vector_function
def tanh(x, real):
    """x + x^3 P(x^2), P of degree 4 (f64: 9), for |x| < 0.55, else 1 - 2 e / (1 + e) with e = e^-2|x|; within 1.53 ulp."""
    size = absolute(x)
    square = size * size
    inner = polynomial(square, _TANH_32) if real.f32 else two_chains(square, _TANH_64)
    e = exp_nonpositive(-2.0 * size)
    value = where(size < 0.55, fma(size * square, inner, size), 1.0 - 2.0 * e / (1.0 + e))
    return with_sign_of(x, value)


def with_sign_of(x, value):
    """The value, which has no sign or x's, with the sign of x: of -0 too."""
    return from_bits(bits(value) | (bits(x) - bits(absolute(x))))


@vector_function
def sigmoid(x, real):
    """1 / (1 + e^-x): a - a e / (1 + e) with e = e^-|x| and a = 1 or, below 0, e; within 1.87 ulp.

    Below 0 that is e less a part of itself, which errs less than the quotient e / (1 + e).
    """
    e = exp_nonpositive(-absolute(x))
    limit = where(x < 0.0, e, 1.0)
    return fma(-limit, e / (1.0 + e), limit)
