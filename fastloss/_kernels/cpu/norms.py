"""Norms of gradients outside of the engine, in double, and such that no power of an element is beyond the doubles."""

import math

import numpy as np

# Elements that are converted at a time: few enough that NumPy's dot stays on one thread.
_CHUNK = 1 << 13
# Below it a sum of squares has lost some of them.
_LEAST = 1e-250


def norm(several, order=2.0, weights=None):
    """The p-norm of all elements together, each times that of `weights`, for `order` > 0 or infinite.

    NaN where there is one; an element that is infinite gives infinity.
    """
    operands = [(a,) for a in several] if weights is None else list(zip(several, weights, strict=True))
    with np.errstate(all="ignore"):
        if order == 2:
            total = sum(float(np.dot(chunk, chunk)) for chunk in _products(operands))
            if _LEAST <= total < math.inf or math.isnan(total):
                return math.sqrt(total)
        most = float(np.max([np.abs(chunk).max() for chunk in _products(operands)], initial=0.0))
        if most == 0 or not math.isfinite(most) or order == math.inf:
            return most
        total = sum(float(((np.abs(chunk) / most) ** order).sum()) for chunk in _products(operands))
        return float(most * np.float64(total) ** (1 / order))


def unit_norms(array):
    """The Euclidean norm of each row, whatever its dimensions, of a shape that broadcasts to the array's; of a vector its norm."""
    if array.ndim < 2:
        return np.full((1,) * array.ndim, norm([array]))
    norms = np.zeros(len(array))
    at_once = max(1, _CHUNK * len(array) // max(array.size, 1))
    with np.errstate(all="ignore"):
        for start in range(0, len(array) if array.size else 0, at_once):
            rows = array[start : start + at_once].astype(np.float64, order="C").reshape(-1, array[0].size)
            squares = np.einsum("ij,ij->i", rows, rows)
            norms[start : start + len(squares)] = np.sqrt(squares)
            beyond = (squares < _LEAST) | (squares == np.inf)
            if beyond.any():
                most = np.abs(rows[beyond]).max(axis=1)
                unit = np.where((most > 0) & np.isfinite(most), most, 1.0)
                rows = rows[beyond] / unit[:, None]
                norms[start : start + len(squares)][beyond] = unit * np.sqrt(np.einsum("ij,ij->i", rows, rows))
    return norms.reshape(-1, *(1,) * (array.ndim - 1))


def everywhere(number, shape):
    """An array of that shape that holds one number, and takes no memory."""
    return np.broadcast_to(np.float64(number), shape)


def unit_factors(array, weights, part, least):
    """What brings the norm of each of the array's rows to at most a part of that of the weights' row, which is at least `least`."""
    own, others = unit_norms(array), unit_norms(weights)
    with np.errstate(all="ignore"):
        most = part * np.maximum(others, least)
        return np.broadcast_to(np.where(own > most, most / own, 1.0), array.shape)


def _products(operands):
    """Chunks of all elements in double, those of the same place multiplied."""
    for arrays in operands:
        flat = [np.ascontiguousarray(array).reshape(-1) for array in arrays]
        for start in range(0, flat[0].size, _CHUNK):
            chunk = flat[0][start : start + _CHUNK].astype(np.float64)
            for other in flat[1:]:
                chunk *= other[start : start + _CHUNK].astype(np.float64)
            yield chunk
