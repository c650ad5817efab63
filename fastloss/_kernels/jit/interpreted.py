"""The machine that runs emitted Python as it stands, on NumPy's scalars: slow, and bit for bit what the kernels compute.

For what is computed once per call, and under Numba's simulator of a GPU.
"""

from functools import cache

import numpy as np

from ...formula.definition import F64
from .machines import Machine

_SPLIT = 2.0**27 + 1


def _fma_of_floats(a, b, c):
    # The product is exact in double; the sum is rounded twice, which shows once in some 2^29.
    return np.float32(np.float64(a) * np.float64(b) + np.float64(c))


def _fma_of_doubles(a, b, c):
    """a * b + c from the rounded product and its error, by Dekker and Knuth."""
    product = a * b
    if not 2.0**-900 < abs(product) < 2.0**900 or max(abs(a), abs(b), abs(c)) > 2.0**900:
        return product + c
    (a1, a2), (b1, b2) = _halves(a), _halves(b)
    rest = a2 * b2 - (((product - a1 * b1) - a2 * b1) - a1 * b2)
    total = product + c
    back = total - product
    return total + (((product - (total - back)) + (c - back)) + rest)


def _halves(x):
    wide = _SPLIT * x
    high = wide - (wide - x)
    return high, x - high


def _operations(real, whole, fma):
    """The operations on scalars of one precision; choices are made by the whole numbers too."""
    mask = (1 << 8 * np.dtype(whole).itemsize) - 1
    sign = (mask >> 1) + 1

    def wrapped(i):
        """The whole number in so many bits."""
        return whole(((int(i) & mask) ^ sign) - sign)

    return {
        "real": real,
        "whole": wrapped,
        "where": lambda condition, a, b: a if condition else b,
        "fma": fma,
        "lesser": lambda a, b: a if a < b else b,
        "greater": lambda a, b: a if a > b else b,
        "absolute": abs,
        "sqrt": np.sqrt,
        "bits": lambda x: real(x).view(whole),
        "from_bits": lambda i: wrapped(i).view(real),
        "to_float": real,
        "rounded": lambda x: x,
    }


@cache
def interpreted(precision):
    """The machine of a precision."""
    kinds = (np.float32, np.int32, _fma_of_floats) if precision.f32 else (np.float64, np.int64, _fma_of_doubles)
    return Machine(precision, _operations(*kinds))


def uniforms(text, name, parameters):
    """What a `formula.python.uniforms_text` gives for these parameters, in double."""
    function = interpreted(F64).define(text, name)
    with np.errstate(all="ignore"):
        return [float(value) for value in function(*(np.float64(p) for p in parameters))]
