"""Norms of gradients outside of the engine, in double, and such that no power of an element is beyond the doubles."""

import math

import numpy as np

# Elements that are converted at a time: few enough that NumPy's dot stays on one thread.
_CHUNK = 1 << 13
# Below it a sum of squares has lost some of them.
_LEAST = 1e-250
_NORMAL = float(np.finfo(np.float64).tiny)


def norm(several, order=2.0, weights=None):
    """The p-norm of all elements together, each times that of `weights`, for `order` > 0 or infinite.

    NaN where there is one; an element that is infinite gives infinity, and so does a norm beyond the doubles.
    """
    return as_float(*scaled_norm(several, order, weights))


def as_float(significand, exponent):
    """A number and a power of two as one number, infinite where it is beyond the doubles."""
    try:
        return math.ldexp(significand, exponent)
    except OverflowError:
        return math.inf


def scaled_norm(several, order=2.0, weights=None):
    """As `norm`, as a number and a power of two to multiply it by: 0 unless the norm is beyond the normal doubles."""
    operands = [(a,) for a in several] if weights is None else list(zip(several, weights, strict=True))
    with np.errstate(all="ignore"):
        if order == 2:
            total = sum(float(np.dot(chunk, chunk)) for chunk in _products(operands))
            if _LEAST <= total < math.inf or math.isnan(total):
                return math.sqrt(total), 0
        most = float(np.max([np.abs(chunk).max() for chunk in _products(operands)], initial=0.0))
        if most == 0 or not math.isfinite(most) or order == math.inf:
            return most, 0
        unit, exponent = math.frexp(most)
        total = sum(float(((np.abs(chunk) / most) ** order).sum()) for chunk in _products(operands))
        root = np.float64(total) ** (1 / order)
        found = float(most * root)
        if _NORMAL <= found < math.inf:
            return found, 0
        return float(unit * root), exponent


def unit_norms(array):
    """The Euclidean norm of each row, whatever its dimensions, of a shape that broadcasts to the array's; of a vector its norm.

    As numbers and powers of two to multiply them by, 0 unless a norm is beyond the normal doubles.
    """
    if array.ndim < 2:
        significand, exponent = scaled_norm([array])
        return np.full((1,) * array.ndim, significand), np.full((1,) * array.ndim, exponent)
    found, exponents = np.zeros(len(array)), np.zeros(len(array), np.int64)
    at_once = max(1, _CHUNK * len(array) // max(array.size, 1))
    with np.errstate(all="ignore"):
        for start in range(0, len(array) if array.size else 0, at_once):
            rows = array[start : start + at_once].astype(np.float64, order="C").reshape(-1, array[0].size)
            squares = np.einsum("ij,ij->i", rows, rows)
            found[start : start + len(squares)] = np.sqrt(squares)
            for row in np.flatnonzero((squares < _LEAST) | (squares == np.inf)):
                found[start + row], exponents[start + row] = scaled_norm([rows[row]])
    shape = (-1, *(1,) * (array.ndim - 1))
    return found.reshape(shape), exponents.reshape(shape)


def everywhere(number, shape):
    """An array of that shape that holds one number, and takes no memory."""
    return np.broadcast_to(np.float64(number), shape)


def unit_factors(array, weights, part, least):
    """What brings the norm of each of the array's rows to at most a part of that of the weights' row, which is at least `least`.

    As numbers and powers of two to multiply them by, 0 unless a norm is beyond the normal doubles.
    """
    (own, own_exponents), (others, exponents) = unit_norms(array), unit_norms(weights)
    with np.errstate(all="ignore"):
        others, exponents = _larger(others, exponents, least)
        most, exponents = part * others, exponents - own_exponents
        clips = np.ldexp(own, -exponents) > most
        return np.where(clips, most / own, 1.0), np.where(clips, exponents, 0)


def _larger(numbers, exponents, least):
    """Numbers times powers of two, or `least` where that is larger."""
    below = np.ldexp(numbers, exponents) < least
    return np.where(below, least, numbers), np.where(below, 0, exponents)


def is_normal(factors, several):
    """Whether all factors are normal numbers of the dtypes that the arrays are computed in, or 0, infinite or NaN."""
    double = all(array.dtype == np.float64 for array in several)
    sizes = np.abs(factors)
    least, most = np.finfo(np.float64 if double else np.float32).tiny, np.finfo(np.float64 if double else np.float32).max
    return bool(((sizes == 0) | ~np.isfinite(sizes) | ((sizes >= least) & (sizes <= most))).all())


def scaled(array, by, exponent):
    """An array times a number and a power of two, in double: right where the result is in range, whatever the factors."""
    with np.errstate(all="ignore"):
        significands, exponents = np.frexp(array.astype(np.float64))
        by, more = np.frexp(by)
        return np.ldexp(significands * by, exponents + more + exponent)


def _products(operands):
    """Chunks of all elements in double, those of the same place multiplied."""
    for arrays in operands:
        flat = [np.ascontiguousarray(array).reshape(-1) for array in arrays]
        for start in range(0, flat[0].size, _CHUNK):
            chunk = flat[0][start : start + _CHUNK].astype(np.float64)
            for other in flat[1:]:
                chunk *= other[start : start + _CHUNK].astype(np.float64)
            yield chunk
