"""Powers, through a logarithm of one and a half times the precision."""

from math import inf, nan

from ..formula import absolute, bits, fma, from_bits, vector_function, where
from .exponential import magic, two_chains
from .logarithmic import exponent_bits, from_exponent

# 3 atanh(s) / s = 3 + s^2 + s^4 Q(s^2) for |s| <= (sqrt(2) - 1) / (sqrt(2) + 1), relative error 2^-36.8 and 2^-66.3.
_LOG_32 = (0.6000022888183594, 0.42820659279823303, 0.3512871265411377)
_LOG_64 = (
    0.600000000000034,
    0.42857142855142516,
    0.3333333378129245,
    0.2727267641522717,
    0.230801426967642,
    0.19885061389112185,
    0.1979610291939781,
)
# 2 / (3 log 2): rounded, and as a leading half and the rest.
_SCALE_32 = (0.9617967009544373, 0.961669921875, 0.00012677205086220056)
_SCALE_64 = (0.9617966939259756, 0.9617966860532761, 7.872699542894897e-09)
# (2^f - 1) / f for |f| <= 0.7, relative error in 2^f of 2^-28.1 and 2^-56.6.
_EXP2_32 = (
    0.6931471824645996,
    0.24022652208805084,
    0.055504098534584045,
    0.009617814794182777,
    0.0013333644019439816,
    0.00015523777983617038,
    1.5301262465072796e-05,
)
_EXP2_64 = (
    0.6931471805599452,
    0.2402265069591006,
    0.055504108664827946,
    0.009618129107634005,
    0.0013333558145531101,
    0.00015403530386186038,
    1.5252734356942806e-05,
    1.3215490423768217e-06,
    1.017791883358251e-07,
    7.054115958027537e-09,
    4.469916858464822e-10,
    2.6342040865270853e-11,
)


def _leading_half(x, real):
    """x without the lower half of its mantissa: products of two such numbers are exact."""
    return from_bits(bits(x) & -(1 << (real.mantissa + 2) // 2))


def _log2(x, real):
    """log2(x) for finite x > 0 as a leading half and the rest, relative error about 2^-32 (2^-63).

    x = 2^n m with sqrt(1/2) <= m < sqrt(2), and log2(m) = 2 atanh(s) / ln 2 with s = (m - 1) / (m + 1). What follows 3 + s^2
    is below 2^-12 of it: only s and 3 + s^2 are held in two parts. The leading halves depend on each other alone, so that the
    rests are not waited for.
    """
    lift = real.mantissa + 1
    subnormal = x < 2.0 ** (1 - real.bias)
    normal = where(subnormal, x * 2.0**lift, x)
    exponent = exponent_bits(normal, real)
    n = from_exponent(exponent, where(subnormal, -lift, 0.0), real)
    m = from_bits(bits(normal) - exponent)
    f, d = m - 1, m + 1
    inverse = 1 / d
    s = f * inverse
    s_high, d_high = _leading_half(s, real), _leading_half(d, real)
    s_low = ((f - s_high * d_high) - s_high * (m - (d_high - 1))) * inverse
    square, square_high = s * s, s_high * s_high
    tail = fma(s_low, s_high + s, square * square * two_chains(square, _LOG_32 if real.f32 else _LOG_64))
    t_high = _leading_half(3 + square_high, real)
    t_low = tail + (square_high - (t_high - 3))
    product = s_high * t_high
    product_high = _leading_half(product, real)
    product_low = fma(s, t_low, fma(s_low, t_high, product - product_high))
    scale, scale_high, scale_low = _SCALE_32 if real.f32 else _SCALE_64
    log = product_high * scale_high
    high = _leading_half(n + log, real)
    return high, fma(product_low, scale, fma(product_high, scale_low, log - (high - n)))


@vector_function
def power(x, y, real):
    """x^y = 2^(y log2|x|), with C's rules for signs, zeros, infinities and NaN. Error at most 1.5 (1.7) ulp (measured).

    The logarithm and its product with y are held in two parts; 2^z = 2^n (1 + f P(f)) with |f| < 0.7, P of degree 6 (11).
    2^n is multiplied in two halves, so that a subnormal result is rounded once.
    """
    limit = 2.0 * real.bias
    size, unit = absolute(x), 2.0**real.mantissa
    high, low = _log2(size, real)
    y_high = _leading_half(y, real)
    z_low = fma(y, low, (y - y_high) * high)
    # An estimate of z finds n, and decides far out and for 0, infinity and NaN, where z_high + z_low may be inf - inf.
    z = y * where(size == 0, -inf, where(size < inf, high, size))
    # The sum rounds z to n and leaves n + 2 bias in the lowest bits of its pattern.
    shifted = z + (magic(real) + limit)
    f = (y_high * high - (shifted - (magic(real) + limit))) + z_low
    i = bits(shifted)
    pattern = (i & -2) << (real.mantissa - 1)
    half, other_half = from_bits(pattern), from_bits(pattern + ((i & 1) << real.mantissa))
    first, *rest = _EXP2_32 if real.f32 else _EXP2_64
    value = fma(half * f, fma(f, two_chains(f, rest), first), half) * other_half
    value = where(absolute(z) <= limit, value, where(z < 0, 0, z * inf))
    value = where((size == 1) | (y == 0), 1, value)
    # y less a multiple of 2 is 0 for even, 1 for odd y; all beyond 2 unit are even.
    size_y = absolute(y)
    size_y = where(size_y > 2 * unit, 2 * unit, size_y)
    rest = absolute(size_y - ((size_y + 2 * unit) - 2 * unit))
    odd = rest == 1
    value = from_bits(bits(value) | where(odd, bits(x) - bits(size), 0))  # the sign of x
    return where((x >= 0) | odd | (rest == 0) | (size == inf), value, nan)
