"""Sine, cosine and arctangent."""

from math import nan

from ..formula import absolute, bits, fma, vector_function, where
from .exponential import magic, with_sign_of
from .polynomial import polynomial

# (atan(t) / t - 1) / t^2 in t^2, 0 <= t <= 1, relative error in atan of 2^-28.3 and 2^-54.9.
_ATAN_32 = (
    -0.33333298563957214,
    0.1999852955341339,
    -0.1426401287317276,
    0.10950840264558792,
    -0.08399101346731186,
    0.05787625163793564,
    -0.0310901440680027,
    0.010864038951694965,
    -0.0017815544269979,
)
_ATAN_64 = (
    -0.3333333333333186,
    0.19999999999755136,
    -0.1428571427133558,
    0.11111110678683243,
    -0.09090901233397099,
    0.07692212902182519,
    -0.06665860113431546,
    0.05877306267193402,
    -0.052392264840538286,
    0.046739286835917916,
    -0.04092587590635844,
    0.034066879985248405,
    -0.02582549545963019,
    0.01697666290281782,
    -0.009183484344419122,
    0.0038553697564230466,
    -0.0011638401912039743,
    0.00022296848596256458,
    -2.0252789953593423e-05,
)
# pi/2, rounded and the rest.
_RIGHT_ANGLE_32 = (1.5707963705062866, -4.371138828673793e-08)
_RIGHT_ANGLE_64 = (1.5707963267948966, 6.123233995736766e-17)

# pi/2 in chunks: products of all but the last with integers of 10 (20) bits are exact.
_CHUNKS_32 = (1.5706787109375, 0.00011761486530303955, 9.918039722833782e-10, 2.896016759734721e-13, 5.721188916458728e-18)
_CHUNKS_64 = (1.5707963267341256, 6.077100506303966e-11, 2.0222662487111665e-21, 8.4784276603689e-32)
# (sin(r) / r - 1) / r^2 and (cos(r) - 1 + r^2 / 2) / r^4 in r^2, relative error of sin and cos 2^-26.8 (2^-58) or less;
# |r| <= 0.87 (pi/4), as n is not always the nearest integer in float32.
_SIN_32 = (-0.1666664481163025, 0.008331584744155407, -0.00019442902703303844)
_COS_32 = (0.041666626930236816, -0.001388648641295731, 2.434673842799384e-05)
_SIN_64 = (
    -0.16666666666666632,
    0.008333333333322453,
    -0.00019841269829810144,
    2.75573136857636e-06,
    -2.5050756327937553e-08,
    1.5896653718999468e-10,
)
_COS_64 = (
    0.041666666666666595,
    -0.001388888888887331,
    2.480158728896844e-05,
    -2.755731420453375e-07,
    2.0875703404506285e-09,
    -1.1358633934848642e-11,
)


@vector_function
def atan(x, real):
    """atan(x) = pi/2 - atan(1/x) beyond 1; a polynomial of degree 19 (39). Error at most 1.6 ulp (measured)."""
    size = absolute(x)
    steep = size > 1
    t = where(steep, -1 / size, size)
    square = t * t
    right, right_low = _RIGHT_ANGLE_32 if real.f32 else _RIGHT_ANGLE_64
    # Horner's rule: the even and the odd part of these alternating terms would cancel.
    inner = polynomial(square, _ATAN_32 if real.f32 else _ATAN_64)
    tail = fma(t * square, inner, where(steep, right_low, 0))
    return with_sign_of(x, where(steep, right + t, t) + tail)


def _subtract(high, low, terms):
    """high + low - terms, the terms in falling order; each new high is exact but for what goes into low."""
    for term in terms:
        difference = high - term
        low = low + ((high - difference) - term)
        high = difference
    return high, low


def _reduce(x, real):
    """x - n pi/2 in two parts, and n in the lower bits of an integer; NaN where n is beyond 2^(mantissa - 1)."""
    quarters = x * 0.6366197723675814
    shifted = quarters + magic(real)
    n = shifted - magic(real)
    if real.f32:
        # n in two parts of 10 bits each
        coarse = 1024.0 * magic(real)
        many = (n + coarse) - coarse
        few = n - many
        first, second, third, fourth, fifth = _CHUNKS_32
        high = ((x - many * first) - few * first) - many * second
        terms = (few * second, many * third, few * third, many * fourth, few * fourth, n * fifth)
    else:
        first, *rest = _CHUNKS_64
        high = x - n * first
        terms = [n * chunk for chunk in rest]
    high, low = _subtract(high, 0.0, terms)
    r = high + low
    known = absolute(quarters) < 2.0 ** (real.mantissa - 1)
    return where(known, r, nan), (high - r) + low, bits(shifted)


def _sin(r, low, real):
    """sin(r + low) for |r| <= pi/4"""
    square = r * r
    return r + fma(r * square, polynomial(square, _SIN_32 if real.f32 else _SIN_64), low)


def _cos(r, low, real):
    """cos(r + low) for |r| <= pi/4"""
    square = r * r
    half = 0.5 * square
    top = 1 - half
    tail = fma(square * square, polynomial(square, _COS_32 if real.f32 else _COS_64), -r * low)
    return top + (((1 - top) - half) + tail)


def _turned(x, real, quarters):
    """sin(x + quarters pi/2)"""
    r, low, n = _reduce(x, real)
    n = n + quarters
    value = where((n & 1) == 0, _sin(r, low, real), _cos(r, low, real))
    return where((n & 2) == 0, value, -value)


@vector_function
def sin(x, real):
    """sin(x): x less a multiple of pi/2 in two parts, then polynomials of degree 7 (13) and 8 (14).

    Error at most 1.1 ulp for |x| <= 2^20 (measured); the result of a slightly different x up to 2^22 (2^51), NaN beyond.
    """
    return _turned(x, real, 0)


@vector_function
def cos(x, real):
    """cos(x), as sin(x + pi/2): see sin."""
    return _turned(x, real, 1)
