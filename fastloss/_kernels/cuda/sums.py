"""Sums that are the same from run to run, and exact nearly: every thread adds in pairs of numbers, the sum and what it rounded off.

A block folds its threads' pairs in a tree and writes one; a second launch folds those and makes the result.
"""

from functools import cache

from . import device, walk
from .device import Kernel, machine
from .text import joined

# The text of functions that kernels call; each pair is `high, low`.
FUNCTIONS = {
    "add_to": """
def add_to(high, low, x):
    total = high + x
    back = total - high
    return total, low + ((high - (total - back)) + (x - back))
""",
    "fold_block": """
def fold_block(high, low):
    heap = cuda.shared.array(PAIRS, real)
    t = cuda.threadIdx.x
    heap[t] = high
    heap[THREADS + t] = low
    step = THREADS // 2
    while step > 0:
        cuda.syncthreads()
        if t < step:
            above, below = add_to(heap[t], heap[THREADS + t], heap[t + step])
            heap[t] = above
            heap[THREADS + t] = below + heap[THREADS + t + step]
        step //= 2
    cuda.syncthreads()
    return heap[0], heap[THREADS]
""",
    # What is left of an infinite sum is no number.
    "as_one": """
def as_one(high, low):
    return where(high - high == high - high, high + low, high)
""",
}


@cache
def functions(precision):
    """The functions above, compiled."""
    own, made = machine(precision), {"THREADS": device.THREADS, "PAIRS": 2 * device.THREADS}
    for name, text in FUNCTIONS.items():
        made[name] = own.compiled(own.define(text, name, **made))
    return made


_FINISH = """
def finish(count, partials, divisor, weights, result):
    high = real(0)
    low = real(0)
    for k in range(cuda.threadIdx.x, count, THREADS):
        high, low = add_to(high, low, partials[2 * k])
        low += partials[2 * k + 1]
    high, low = fold_block(high, low)
    if cuda.threadIdx.x == 0:
        total = as_one(high, low)
        {divide}
        result[0] = to_{code}(total)
"""


@cache
def finish(precision, code, divides):
    """The kernel that makes a result of partial sums: divided by a number, or ("weights") by a sum that lies in memory as a pair."""
    divide = {
        "number": "total = total / divisor",
        "weights": "total = total / as_one(weights[0], weights[1])",
        "pair": "result[1] = low",
    }[divides]
    text = _FINISH.format(divide=divide, code=code)
    if divides == "pair":
        text = text.replace("total = as_one(high, low)", "total = high")
    real = precision.name
    return Kernel(precision, "finish", text, ["i64", f"{real}*", real, f"{real}*", f"{code}*"], **functions(precision))


_WEIGHTS = """
def sum_weights({arguments}):
    high = real(0)
    low = real(0)
    for i in range(cuda.blockIdx.x * THREADS + cuda.threadIdx.x, count, cuda.gridDim.x * THREADS):
        {offsets}
        high, low = add_to(high, low, from_{code}(weights[at_weights]))
    high, low = fold_block(high, low)
    if cuda.threadIdx.x == 0:
        partials[2 * cuda.blockIdx.x] = high
        partials[2 * cuda.blockIdx.x + 1] = low
"""


@cache
def sum_weights(precision, code, dims):
    """The kernel that adds up weights of so many dimensions."""
    real = precision.name
    steps = walk.arguments(["weights"], dims)
    arguments = {"count": "i64", **steps, "weights": f"{code}*", "partials": f"{real}*"}
    offsets = "\n        ".join(walk.offsets(["weights"], dims))
    text = _WEIGHTS.format(code=code, arguments=", ".join(arguments), offsets=offsets)
    return Kernel(precision, "sum_weights", text, arguments.values(), **functions(precision))


_SUM_ROWS = """
def sum_rows({arguments}):
    lane = cuda.threadIdx.x % LANES
    for i in range(cuda.blockIdx.x * GROUPS + cuda.threadIdx.x // LANES, count, cuda.gridDim.x * GROUPS):
        {offsets}
        high = real(0)
        low = real(0)
        for k in range(lane, terms, LANES):
            high, low = add_to(high, low, full[i * terms + k])
        {fold}
        if lane == 0:
            result[at_result] = to_{code}(as_one(high, low))
"""


@cache
def sum_rows(precision, code, dims, lanes):
    """The kernel that adds up so many neighbours for each element of a result, by one thread or by a block."""
    steps = walk.arguments(["result"], dims)
    arguments = {"count": "i64", "terms": "i64", **steps, "full": f"{precision.name}*", "result": f"{code}*"}
    # What a block shares is written again for the next element.
    fold = ["cuda.syncthreads()", "high, low = fold_block(high, low)"] if lanes > 1 else ["pass"]
    text = _SUM_ROWS.format(
        arguments=", ".join(arguments), offsets=joined(walk.offsets(["result"], dims), 8), fold=joined(fold, 8), code=code
    )
    more = functions(precision) | {"LANES": lanes, "GROUPS": device.THREADS // lanes}
    return Kernel(precision, "sum_rows", text, arguments.values(), **more)
