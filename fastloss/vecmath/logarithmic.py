"""The logarithm and what is made of it: log, log1p, softplus, log_sigmoid.

An argument is 2^n (1 + f) with sqrt(1/2) <= 1 + f < sqrt(2), and log(1 + f) = 2 atanh(s) with s = f / (2 + f), of which the part
beyond f is taken: f - s (f - s^2 P(s^2)). The division is cheaper than the polynomial in f of three times the degree.
"""

from math import inf, sqrt

from ..formula import absolute, bits, exp_nonpositive, fma, from_bits, to_float, vector_function, where
from .exponential import LN_2_32, LN_2_64, magic, magic_bits, two_chains, with_sign_of
from .polynomial import polynomial

# 2 (atanh(s) - s) / s^3 in s^2 for |s| <= 3 - sqrt(8), error 2^-30.2 and 2^-59.5 of 2 atanh(s).
_ATANH_32 = (0.6666677594184875, 0.3997758626937866, 0.29870694875717163)
_ATANH_64 = (
    0.6666666666666734,
    0.3999999999941704,
    0.28571428741894417,
    0.2222219862140045,
    0.181835619194633,
    0.15314109989098101,
    0.14795373623116795,
)
# The same for |s| <= 1/3, error 2^-27.7 and 2^-59.4.
_WIDE_ATANH_32 = (0.666664183139801, 0.40021437406539917, 0.280030220746994, 0.28006818890571594)
_WIDE_ATANH_64 = (
    0.6666666666666631,
    0.400000000001559,
    0.2857142854801267,
    0.2222222396056353,
    0.18181744223303756,
    0.1538655407889325,
    0.133010438264338,
    0.12105579821089511,
    0.0834210901551625,
    0.1701521731712877,
)


def exponent_bits(x, real):
    """n, in the exponent's place, for x = 2^n (1 + f)."""
    root = ((real.bias - 1) << real.mantissa) + int((sqrt(2) - 1) * 2**real.mantissa)
    return (bits(x) - root) & -(1 << real.mantissa)


def from_exponent(exponent, start, real):
    """start + n as a number; 64 bits have no instruction for it before AVX-512."""
    if real.f32:
        return to_float(exponent) * 2.0**-real.mantissa + start
    return from_bits((exponent >> real.mantissa) + magic_bits(real)) - (magic(real) - start)


def _log(n, f, real):
    """n ln 2 + log(1 + f)."""
    first, second = LN_2_32 if real.f32 else LN_2_64
    s = f / (2.0 + f)
    square = s * s
    beyond = fma(-square, polynomial(square, _ATANH_32 if real.f32 else _ATANH_64), f)
    return fma(n, first, f + fma(-s, beyond, n * second))


def _with_edges(x, value, pole):
    """The value between the pole, where it is -inf, and inf; NaN below and for NaN."""
    return where((x > pole) & (x < inf), value, where(x == pole, -inf, fma(x, inf, inf)))


@vector_function
def log(x, real):
    """log(x): n ln 2 + f - s (f - s^2 P(s^2)), P of degree 2 (f64: 6); within 0.96 ulp."""
    lift = real.mantissa + 2
    subnormal = x < 2.0 ** (1 - real.bias)
    normal = where(subnormal, x * 2.0**lift, x)
    exponent = exponent_bits(normal, real)
    n = from_exponent(exponent, where(subnormal, -lift, 0.0), real)
    f = from_bits(bits(normal) - exponent) - 1.0
    return _with_edges(x, _log(n, f, real), 0.0)


@vector_function
def log1p(x, real):
    """log(1 + x), as log, with n from 1 + x and f = 2^-n x + (2^-n - 1), rounded once; within 1.54 ulp."""
    exponent = exponent_bits(1.0 + x, real)
    # 4 * 2^-n: 2^-n itself is subnormal for the largest n.
    scale = from_bits(((real.bias + 2) << real.mantissa) - exponent)
    f = from_bits(bits(x) - exponent) + fma(0.25, scale, -1.0)
    return with_sign_of(x, _with_edges(x, _log(from_exponent(exponent, 0.0, real), f, real), -1.0))


@vector_function
def softplus(x, real):
    """log(1 + e^x): max(x, 0) + log(1 + e), e = e^-|x|, from one atanh polynomial of degree 3 (f64: 9); within 1.89 ulp."""
    e = exp_nonpositive(-absolute(x))
    denominator = 2.0 + e
    s = e / denominator
    square = s * s
    inner = polynomial(square, _WIDE_ATANH_32) if real.f32 else two_chains(square, _WIDE_ATANH_64)
    # What the denominator was rounded by would be the largest error but that of e.
    rounding = (denominator - 2.0) - e
    # From the smallest term to the largest; what max(x, 0) is added to needs the fewest digits.
    return fma(-s, e, fma(square, fma(s, inner, -rounding), where(x > 0.0, x, 0.0))) + e


@vector_function
def log_sigmoid(x, real):
    """log(1 / (1 + e^-x)) = -softplus(-x); within 1.89 ulp."""
    return -softplus(-x)
