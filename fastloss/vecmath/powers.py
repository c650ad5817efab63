"""Powers, through a logarithm of one and a half times the precision."""

from ..formula import absolute, bits, fma, from_bits, vector_function, where
from .polynomial import polynomial

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
# (2^f - 1) / f for |f| <= 1/2, relative error in 2^f of 2^-27.5 and 2^-55.5.
_EXP2_32 = (
    0.6931472420692444,
    0.24022655189037323,
    0.055502720177173615,
    0.009617085568606853,
    0.001341804163530469,
    0.00015817536041140556,
)
_EXP2_64 = (
    0.6931471805599457,
    0.240226506959101,
    0.05550410866478788,
    0.009618129107605658,
    0.001333355815396512,
    0.00015403530443889397,
    1.5252726941198947e-05,
    1.3215441237304715e-06,
    1.0180810436693001e-07,
    7.072861970731828e-09,
    4.0565970168138147e-10,
)


def _leading_half(x, real):
    """x without the lower half of its mantissa: products of two such numbers are exact."""
    return from_bits(bits(x) & -(1 << (real.mantissa + 2) // 2))


def _log2(x, real):
    """log2(x) for finite x > 0 as a leading half and the rest, relative error about 2^-32 (2^-63).

    x = 2^n m, 1/sqrt(2) <= m < sqrt(2); log2(m) = 2 atanh(s) / log(2), s = (m - 1) / (m + 1). The factors of s^3 and higher
    terms stay below 2^-12, so s and 3 + s^2 alone are held in two parts.
    """
    ulps = real.mantissa + 1
    subnormal = x < 2.0 ** (1 - real.bias)
    pattern = bits(where(subnormal, x * 2.0**ulps, x))
    # The exponent counts from 1/sqrt(2) up; added to the pattern of 1.5 * 2^mantissa it becomes a float.
    n = (pattern - ((real.bias << real.mantissa) - (0x4AFB0D << real.mantissa - 23))) >> real.mantissa
    m = from_bits(pattern - (n << real.mantissa))
    magic = 1.5 * 2.0**real.mantissa
    n = from_bits(n + ((real.mantissa + real.bias << real.mantissa) + (1 << real.mantissa - 1))) - where(
        subnormal, magic + ulps, magic
    )
    f, d = m - 1, m + 1
    inverse = 1 / d
    s = f * inverse
    s_high, d_high = _leading_half(s, real), _leading_half(d, real)
    s_low = ((f - s_high * d_high) - s_high * (m - (d_high - 1))) * inverse
    square, square_high = s * s, s_high * s_high
    tail = fma(s_low, s_high + s, square * square * polynomial(square, _LOG_32 if real.f32 else _LOG_64))
    t_high = _leading_half(3 + (square_high + tail), real)
    t_low = tail - ((t_high - 3) - square_high)
    product = s_high * t_high
    product_low = fma(s_low, t_high, s * t_low)
    product_high = _leading_half(product + product_low, real)
    product_low = product_low - (product_high - product)
    scale, scale_high, scale_low = _SCALE_32 if real.f32 else _SCALE_64
    log = product_high * scale_high
    log_low = fma(product_high, scale_low, product_low * scale)
    high = _leading_half(n + (log + log_low), real)
    return high, log_low - ((high - n) - log)


@vector_function
def power(x, y, real):
    """x^y = 2^(y log2|x|), with C's rules for signs, zeros, infinities and NaN. Error at most 1.4 ulp (measured).

    The logarithm and its product with y are held in two parts; 2^z = 2^n 2^f, |f| <= 1/2, a polynomial of degree 6 (11). The
    scaling by 2^n takes two steps, so that subnormal results are rounded once.
    """
    mantissa, limit = real.mantissa, 2.0 * real.bias
    size, unit = absolute(x), 2.0**mantissa
    high, low = _log2(size, real)
    y_high = _leading_half(y, real)
    z_high = y_high * high
    z_low = fma(y - y_high, high, y * low)
    # Adding 1.5 * 2^mantissa + 2 bias rounds to an integer and leaves it, biased twice, in the pattern's lower bits.
    magic = 1.5 * unit + limit
    shifted = (z_high + z_low) + magic
    f = (z_high - (shifted - magic)) + z_low
    n = bits(shifted)
    half = (n & -2) << (mantissa - 1)
    other_half = half + ((n & 1) << mantissa)
    value = fma(f, polynomial(f, _EXP2_32 if real.f32 else _EXP2_64), 1) * from_bits(half) * from_bits(other_half)

    # Far out, and for 0, infinity and NaN, an estimate of z decides: there the products above may be inf - inf.
    infinity = float("inf")
    z = y * where(size == 0, -infinity, where(size < infinity, high, size))
    value = where(absolute(z) <= limit, value, where(z < 0, 0, z * infinity))
    value = where((size == 1) | (y == 0), 1, value)
    # y less a multiple of 2 is 0 for even, 1 for odd y; all beyond 2 unit are even.
    size_y = absolute(y)
    size_y = where(size_y > 2 * unit, 2 * unit, size_y)
    rest = absolute(size_y - ((size_y + 2 * unit) - 2 * unit))
    odd = rest == 1
    value = from_bits(bits(value) | where(odd, bits(x) - bits(size), 0))  # the sign of x
    return where((x >= 0) | odd | (rest == 0) | (size == infinity), value, float("nan"))
