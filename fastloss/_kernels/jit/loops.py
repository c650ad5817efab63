"""What functions of whole arrays call inside `@njit` code: checks, scratch memory, sums in lanes."""

import numpy as np
from numba import njit, types
from numba.core.errors import TypingError
from numba.extending import overload

from .machine import OPTIONS

TILE = 1024
LANES = 64


def checker(who):
    """A function `check(name, array, count)` that raises the house's errors."""
    message = f"{who}: arrays must have one length"

    def stub(name, array, count):
        raise NotImplementedError

    @overload(stub)
    def check(name, array, count):
        if not isinstance(array, types.Array) or array.ndim != 1:
            raise TypingError(f"{who}: arrays must have one dimension, got {array}")

        def look(name, array, count):
            if array.size != count:
                raise ValueError(message)

        return look

    return stub


def scratch(array):
    """Memory for a tile of values, and for the lanes of their sum."""
    raise NotImplementedError


@overload(scratch)
def _make_scratch(array):
    dtype = np.float32 if array.dtype == types.float32 else np.float64
    return lambda array: (np.empty(TILE, dtype), np.empty(LANES))  # in double: float32's could overflow


def real_like(tile, number):
    """The number in the precision of the tile."""
    raise NotImplementedError


@overload(real_like)
def _make_real(tile, number):
    real = tile.dtype
    return lambda tile, number: real(number)


@njit(**OPTIONS)
def add_up(tile, lanes, count):
    """The sum of a tile's first numbers, side by side."""
    lanes[:] = 0
    whole = count - count % LANES
    for start in range(0, whole, LANES):
        for lane in range(LANES):
            lanes[lane] += tile[start + lane]
    total = 0.0
    for lane in range(LANES):
        total += lanes[lane]
    for k in range(whole, count):
        total += tile[k]
    return total
