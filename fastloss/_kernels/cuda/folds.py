"""Folds of what the threads that share a row have found: every thread of the group gets the same result.

Between blocks' threads by warp shuffles; Numba's simulator has none, there by shared memory.
"""

from functools import cache

from . import device, sums
from .device import machine

# A warp's threads.
WARP = 4 if device.SIMULATED else 32

_ALONE = {
    "fold_pair": """
def fold_pair(high, low):
    return high, low
""",
    "fold_largest": """
def fold_largest(most):
    return most
""",
}
_BY_WARP = {
    "warp_total": """
def warp_total(high, low):
    step = 16
    while step > 0:
        above = cuda.shfl_xor_sync(0xffffffff, high, step)
        below = cuda.shfl_xor_sync(0xffffffff, low, step)
        high, low = add_to(high, low, above)
        low += below
        step //= 2
    # The two sides of an addition round alike, what is left over may not: all are to go on with the same.
    return cuda.shfl_sync(0xffffffff, high, 0), cuda.shfl_sync(0xffffffff, low, 0)
""",
    "warp_largest": """
def warp_largest(most):
    step = 16
    while step > 0:
        most = maximum(most, cuda.shfl_xor_sync(0xffffffff, most, step))
        step //= 2
    return most
""",
}
_OF_WARP = {
    "fold_pair": """
def fold_pair(high, low):
    return warp_total(high, low)
""",
    "fold_largest": """
def fold_largest(most):
    return warp_largest(most)
""",
}
_OF_BLOCK = {
    "fold_pair": """
def fold_pair(high, low):
    heap = cuda.shared.array(PAIRS, real)
    high, low = warp_total(high, low)
    warp = cuda.threadIdx.x // 32
    cuda.syncthreads()
    if cuda.threadIdx.x % 32 == 0:
        heap[2 * warp] = high
        heap[2 * warp + 1] = low
    cuda.syncthreads()
    high = heap[0]
    low = heap[1]
    for k in range(1, THREADS // 32):
        high, low = add_to(high, low, heap[2 * k])
        low += heap[2 * k + 1]
    return high, low
""",
    "fold_largest": """
def fold_largest(most):
    heap = cuda.shared.array(THREADS, real)
    most = warp_largest(most)
    cuda.syncthreads()
    if cuda.threadIdx.x % 32 == 0:
        heap[cuda.threadIdx.x // 32] = most
    cuda.syncthreads()
    most = heap[0]
    for k in range(1, THREADS // 32):
        most = maximum(most, heap[k])
    return most
""",
}
_SHARED = {
    "fold_pair": """
def fold_pair(high, low):
    heap = cuda.shared.array(PAIRS, real)
    t = cuda.threadIdx.x
    cuda.syncthreads()
    heap[2 * t] = high
    heap[2 * t + 1] = low
    cuda.syncthreads()
    first = t // LANES * LANES
    high = heap[2 * first]
    low = heap[2 * first + 1]
    for k in range(first + 1, first + LANES):
        high, low = add_to(high, low, heap[2 * k])
        low += heap[2 * k + 1]
    return high, low
""",
    "fold_largest": """
def fold_largest(most):
    heap = cuda.shared.array(THREADS, real)
    t = cuda.threadIdx.x
    cuda.syncthreads()
    heap[t] = most
    cuda.syncthreads()
    first = t // LANES * LANES
    most = heap[first]
    for k in range(first + 1, first + LANES):
        most = maximum(most, heap[k])
    return most
""",
}
# What the other threads of a group have added up, on one side.
_RUNS = {
    name: f"""
def {name}(high, low):
    heap = cuda.shared.array(PAIRS, real)
    t = cuda.threadIdx.x
    cuda.syncthreads()
    heap[2 * t] = high
    heap[2 * t + 1] = low
    cuda.syncthreads()
    first = t // LANES * LANES
    high = real(0)
    low = real(0)
    for k in range({stretch}):
        high, low = add_to(high, low, heap[2 * k])
        low += heap[2 * k + 1]
    return high, low
"""
    for name, stretch in (("sums_before", "first, t"), ("sums_after", "t + 1, first + LANES"))
}
_TOTAL = {
    "fold_total": """
def fold_total(high, low):
    high, low = fold_pair(high, low)
    return as_one(high, low)
"""
}
_LISTED = {
    "listed": """
def listed(labels, at, step, length, j):
    k = 0
    while k < length:
        label = int64(labels[at + k * step])
        if label == j:
            return 1
        if label < 0:
            return 0
        k += 1
    return 0
"""
}


def texts(lanes):
    """The functions for groups of so many threads."""
    own = _ALONE if lanes == 1 else _SHARED if device.SIMULATED else _BY_WARP | (_OF_WARP if lanes == WARP else _OF_BLOCK)
    return own | _TOTAL | _RUNS | _LISTED


@cache
def functions(precision, lanes):
    """These and those of all sums, compiled."""
    own = machine(precision)
    made = sums.functions(precision) | {"LANES": lanes, "GROUPS": device.THREADS // lanes}
    for name, text in texts(lanes).items():
        made[name] = own.compiled(own.define(text, name, **made))
    return made
