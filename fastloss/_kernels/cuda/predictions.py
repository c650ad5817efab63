"""Which element of each row is the largest, and how many rows have it where their label says."""

from functools import cache

from . import device, sums, walk
from .device import THREADS, Kernel
from .text import joined

_BEATS = """
def beats(x, j, best, at):
    if x != x:
        return best == best or j < at
    return x > best or (x == best and j < at)
"""
# The first largest element of a row, or the first NaN, as one thread has found it and as all of the block have.
_ROW = """
def first_largest({arguments}):
    t = cuda.threadIdx.x
    lane = t % LANES
    high = real(0)
    low = real(0)
    for i in range(cuda.blockIdx.x * GROUPS + t // LANES, rows, cuda.gridDim.x * GROUPS):
        {offsets}
        best = real(-inf)
        at = length
        for j in range(lane, length, LANES):
            x = from_{code}(x_at[at_x + j * along])
            if beats(x, j, best, at):
                best = x
                at = j
        {fold}
        if lane == 0:
            {store}
    high, low = fold_block(high, low)
    if t == 0:
        partials[2 * cuda.blockIdx.x] = high
        partials[2 * cuda.blockIdx.x + 1] = low
"""
_FOLD = [
    "cuda.syncthreads()",
    "heap[t] = best",
    "places[t] = at",
    "step = THREADS // 2",
    "while step > 0:",
    "    cuda.syncthreads()",
    "    if t < step and beats(heap[t + step], places[t + step], heap[t], places[t]):",
    "        heap[t] = heap[t + step]",
    "        places[t] = places[t + step]",
    "    step //= 2",
    "cuda.syncthreads()",
    "at = places[0]",
]


@cache
def first_largest(precision, code, label, weights, dims, lanes):
    """The kernel, by the codes of rows, labels and weights (None where there are none)."""
    real, names = precision.name, ["x", "predicted"]
    names += [name for name, there in (("label", label), ("weights", weights)) if there]
    arguments = {"rows": "i64", "length": "i64"} | walk.arguments(names, dims) | {"along": "i64"}
    codes = {"x": code, "predicted": "i64", "label": label, "weights": weights}
    arguments |= {f"{name}_at": f"{codes[name]}*" for name in names} | {"ignored": "i64", "partials": f"{real}*"}
    right = [f"label = label_{label}(label_at[at_label])"] if label else []
    right += [f"weight = from_{weights}(weights_at[at_weights])" if weights else "weight = real(1)"] if label else []
    if label:
        right += [
            "if label == at and label != ignored and not weight == real(0):",
            "    high, low = add_to(high, low, real(1))",
        ]
    text = _ROW.format(
        arguments=", ".join(arguments),
        offsets=joined(walk.offsets(names, dims), 8),
        code=code,
        fold=joined(_FOLD if lanes > 1 else ["pass"], 8),
        store=joined(["predicted_at[at_predicted] = at", *right], 12),
    )
    if lanes > 1:
        shared = "    heap = cuda.shared.array(THREADS, real)\n    places = cuda.shared.array(THREADS, int64)\n"
        text = text.replace("    lane = t % LANES\n", shared + "    lane = t % LANES\n")
    own = device.machine(precision)
    more = sums.functions(precision) | {
        "LANES": lanes,
        "GROUPS": THREADS // lanes,
        "beats": own.compiled(own.define(_BEATS, "beats")),
    }
    return Kernel(precision, "first_largest", text, arguments.values(), **more)
