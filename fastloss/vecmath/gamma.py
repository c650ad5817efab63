"""The logarithm of the gamma function and its first two derivatives.

Each is a polynomial on an interval of length 1, carried up and down by the recurrence, and Stirling's series beyond it; the
reflection formula turns negative arguments into positive ones.
"""

from math import inf, nan

from ..formula import absolute, fma, log, vector_function, where
from .polynomial import polynomial

# lgamma(2 + d) / d for |d| <= 1/2, relative error 2^-25.7 and 2^-55.6.
_LGAMMA_32 = (
    0.42278432846069336,
    0.32246702909469604,
    -0.06735147535800934,
    0.02058136649429798,
    -0.007401815615594387,
    0.0028802272863686085,
    -0.0010888741817325354,
    0.0005687126540578902,
    -0.0004418593889568001,
)
_LGAMMA_64 = (
    0.42278433509846713,
    0.3224670334241133,
    -0.06735230105319498,
    0.02058080842776615,
    -0.0073855510289978785,
    0.0028905103317881436,
    -0.0011927538987973963,
    0.0005096694974831738,
    -0.0002231550151492555,
    9.94578995411241e-05,
    -4.492338065835332e-05,
    2.050397581450287e-05,
    -9.458043038738023e-06,
    4.391273669034777e-06,
    -1.969721585739558e-06,
    9.058807927767688e-07,
    -5.859758769731874e-07,
    2.913237041829546e-07,
)
# The root of digamma, rounded and the rest; digamma(root + d) / d for 1 <= root + d <= 2, relative error 2^-24.8 and
# 2^-54.0.
_ROOT_32 = (1.4616321325302124, 1.243815006546356e-08)
_ROOT_64 = (1.4616321449683622, 9.549995429965697e-17)
_DIGAMMA_32 = (
    0.9676722288131714,
    -0.44276323914527893,
    0.2584992051124573,
    -0.16393759846687317,
    0.10784357041120529,
    -0.07232292741537094,
    0.04858486354351044,
    -0.031938303261995316,
    0.023380814120173454,
    -0.020646799355745316,
    0.011108052916824818,
)
_DIGAMMA_64 = (
    0.9676722454476212,
    -0.4427631689835915,
    0.2584997609556508,
    -0.1639427054426028,
    0.10782405069138318,
    -0.072199561237782,
    0.048804288149019125,
    -0.03316112728815918,
    0.0225976490356892,
    -0.015424746499228793,
    0.010538769101626643,
    -0.007204810777002016,
    0.00492715017267538,
    -0.003367368463924733,
    0.002301424837244041,
    -0.0015900757104023748,
    0.0011017724862001223,
    -0.0006974746716022292,
    0.0004201900365746775,
    -0.00040109171887840067,
    0.00040204257883125314,
    -0.00017644390421343045,
)
# What Stirling's series leave, in 1 / x^2, from x = 3 (5) up: relative error in the function of 2^-28.4 and 2^-55.6 or less.
# lgamma(x) = (x - 1/2) log(x) - x + log(2 pi) / 2 + P / x; digamma(x) = log(x) - 1 / 2x - P / x^2;
# trigamma(x) = 1 / x + 1 / 2x^2 + P / x^3.
_LGAMMA_TAIL_32 = (0.08333316445350647, -0.002769940299913287, 0.000679279793985188)
_LGAMMA_TAIL_64 = (
    0.08333333333332393,
    -0.0027777777725488525,
    0.0007936497562521878,
    -0.0005951368734019403,
    0.0008362824247154312,
    -0.0017473164316473512,
    0.00338772180132187,
)
_DIGAMMA_TAIL_32 = (0.08333240449428558, -0.00828628521412611, 0.003231818787753582)
_DIGAMMA_TAIL_64 = (
    0.0833333333332286,
    -0.008333333271599986,
    0.003968241175443841,
    -0.00416537355846759,
    0.007503697502843714,
    -0.018780160898092837,
    0.040718628163504196,
)
_TRIGAMMA_TAIL_32 = (0.16666631400585175, -0.03329979628324509, 0.02279973216354847, -0.020427962765097618)
_TRIGAMMA_TAIL_64 = (
    0.16666666666666122,
    -0.03333333332763164,
    0.02380952175229199,
    -0.033332967546494834,
    0.0757203969188149,
    -0.25078625817326994,
    1.0735068802973993,
    -4.663657787481762,
    12.860916554410176,
)
# (sin(pi f) / (pi f) - 1) / f^2 and (cos(pi f) - 1) / f^2 in f^2, |f| <= 1/2, error 2^-26.7 and 2^-55.3 or less.
_SINE_32 = (-1.644934058189392, 0.8117420077323914, -0.19074566662311554, 0.026106370612978935, -0.00221848813816905)
_SINE_64 = (
    -1.6449340668482264,
    0.8117424252833462,
    -0.190751824121675,
    0.026147847807934124,
    -0.00234608091319139,
    0.00014842791598563258,
    -6.972265575125715e-06,
    2.451812801436656e-07,
)
_COSINE_32 = (-4.934802055358887, 4.0587053298950195, -1.335164189338684, 0.2346985638141632, -0.02399088256061077)
_COSINE_64 = (
    -4.934802200544677,
    4.058712126416503,
    -1.3352627688431111,
    0.23533063011851021,
    -0.025806888604792168,
    0.001929555496414052,
    -0.00010456431723122611,
    4.147034331123091e-06,
)


def _reflect(x, real):
    """The argument right of zero, x or 1 - x, and how far |x| lies from the nearest integer."""
    size, unit = absolute(x), 2.0**real.mantissa
    distance = where(size < unit, size - ((size + unit) - unit), 0)
    return where(x < 0, 1 - x, x), distance


def _sine(f, real):
    """sin(pi f) / pi for |f| <= 1/2"""
    square = f * f
    return fma(f * square, polynomial(square, _SINE_32 if real.f32 else _SINE_64), f)


def _stirling_from(real):
    """Where Stirling's series take over."""
    return 3 if real.f32 else 5


@vector_function
def lgamma(x, real):
    """log|gamma(x)|: d P(d) on [1.5, 2.5], d = x - 2, so that the zeros at 1 and 2 are exact; infinity at the poles.

    Error at most 3.2 ulp of max(1, |lgamma(x)|), 8 ulp of lgamma(x) itself; for x < 0, 40 ulp of max(1, |lgamma(x)|)
    (measured).
    """
    a, f = _reflect(x, real)
    # gamma(x) = gamma(2 + d) * factor, or / factor below 1.5
    below, d, factor = a < 1.5, a - 2, 1.0
    for k in range(2, _stirling_from(real)):
        step = a >= k + 0.5
        d, factor = where(step, a - (k + 1), d), where(step, factor * (a - (k - 1)), factor)
    d, factor = where(below, a - 1, d), where(below, a, factor)
    d, factor = where(a < 0.5, a, d), where(a < 0.5, a * (a + 1), factor)

    large = a >= _stirling_from(real)
    logarithm = log(where(large, a, factor))
    inverse = 1 / a
    tail = polynomial(inverse * inverse, _LGAMMA_TAIL_32 if real.f32 else _LGAMMA_TAIL_64)
    stirling = fma(a - 0.5, logarithm - 1, fma(inverse, tail, 0.41893853320467267))
    middle = fma(d, polynomial(d, _LGAMMA_32 if real.f32 else _LGAMMA_64), where(below, -logarithm, logarithm))
    value = where(large, stirling, middle)
    sine = absolute(_sine(f, real))
    return where(x < 0, where(sine == 0, inf, -log(sine) - value), value)


@vector_function
def digamma(x, real):
    """The derivative of lgamma: d P(d) on [1, 2], d = x - root; -infinity at 0, NaN at the negative integers.

    Error at most 2.5 ulp of max(1, |digamma(x)|), 4.5 ulp of digamma(x) itself; for x < 0, 17 ulp of max(1, |digamma(x)|)
    (measured).
    """
    a, f = _reflect(x, real)
    # digamma(x) = digamma(root + d) + numerator / denominator
    numerator, denominator, base = where(a < 1, -1.0, 0.0), where(a < 1, a, 1.0), where(a < 1, a + 1, a)
    for k in range(2, _stirling_from(real)):
        step, part = a >= k, a - (k - 1)
        numerator = where(step, fma(numerator, part, denominator), numerator)
        denominator = where(step, denominator * part, denominator)
        base = where(step, part, base)

    large = a >= _stirling_from(real)
    quotient = where(large, 1, numerator) / where(large, a, denominator)
    root, root_low = _ROOT_32 if real.f32 else _ROOT_64
    d = (base - root) - root_low
    middle = fma(d, polynomial(d, _DIGAMMA_32 if real.f32 else _DIGAMMA_64), quotient)
    tail = polynomial(quotient * quotient, _DIGAMMA_TAIL_32 if real.f32 else _DIGAMMA_TAIL_64)
    value = where(large, log(a) - quotient * fma(quotient, tail, 0.5), middle)
    square = f * f
    cosine = fma(square, polynomial(square, _COSINE_32 if real.f32 else _COSINE_64), 1)
    reflected = value + where(f == 0, nan, cosine / _sine(f, real))
    return where(x < 0, reflected, value)


@vector_function
def trigamma(x, real):
    """The second derivative of lgamma: Stirling's series, carried up by the recurrence; infinity at the poles.

    Error at most 3.3 ulp, for x < 0 5.2 ulp (measured).
    """
    a, f = _reflect(x, real)
    small = a < _stirling_from(real)
    # The terms 1 / (a + k)^2 of the recurrence; the first stands alone, for its overflow.
    numerator, denominator = 1.0, (a + 1) * (a + 1)
    for k in range(2, _stirling_from(real)):
        square = (a + k) * (a + k)
        numerator, denominator = fma(numerator, square, denominator), denominator * square
    first = 1 / a
    inverse = 1 / where(small, a + _stirling_from(real), a)
    tail = polynomial(inverse * inverse, _TRIGAMMA_TAIL_32 if real.f32 else _TRIGAMMA_TAIL_64)
    series = fma(inverse * inverse, fma(inverse, tail, 0.5), inverse)
    value = where(small, first * first + (numerator / denominator + series), series)
    cosecant = 1 / _sine(f, real)
    return where(x < 0, cosecant * cosecant - value, value)
