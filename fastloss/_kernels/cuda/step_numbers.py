"""The kernels that compute in double what the elements of a step share: `advance` for all tensors, `whole` for each by itself."""

from functools import cache

from ...formula.definition import F64
from ...formula.python import uniforms_text
from . import sums
from .device import Kernel, machine
from .squares import FAR, ONE, SQUARES
from .text import joined
from .update_table import CHUNK, FACTORS, ROOM

_ADVANCE = """
def advance(lanes, numbers, tally, by, second_by, measures, skips, max_norm, norm, parts, skipped, singles, doubles):
    step = tally[0] + 1
    left_out = 0
    first, second = by, second_by
    if measures != 0:
        found = norm[0]
        if (skips != 0) & (parts[0] - parts[0] != parts[0] - parts[0]):
            left_out = 1
        if found > max_norm:
            first, second = by * (max_norm / found), second_by
            if (second_by != real(1)) | (first < real({least64!r})):
                first, second = max_norm / parts[0], real(1) / parts[1]
    # In float32, where the product is no normal number of it: two that are.
    first32, second32 = first * second, real(1)
    if (first32 != real(0)) & (first32 < real({least32!r})):
        first32, second32 = first32 * real({up32!r}), real({down32!r})
    elif first32 > real({most32!r}):
        first32, second32 = first32 * real({down32!r}), real({up32!r})
        if first32 > real({most32!r}):
            first32 = real({most32!r})
    cuda.syncthreads()
    if cuda.threadIdx.x == 0:
        tally[1] = left_out
        tally[0] = step - left_out
        if skips != 0:
            skipped[0] = left_out
    for lane in range(cuda.threadIdx.x, lanes, cuda.blockDim.x):
        at = lane * {room}
        singles[at] = to_f32(numbers[at + 1] * first32)
        doubles[at] = numbers[at + 1] * first
        singles[at + 1] = to_f32(second32)
        doubles[at + 1] = second
        {variants}
"""


# The smallest normal numbers, float32's largest, and powers of two that move a number beyond it to among them.
_RANGES = {
    "least64": 2.0**-1022,
    "least32": 2.0**-126,
    "most32": 2.0**128 - 2.0**104,
    "up32": 2.0**120,
    "down32": 2.0**-120,
}


@cache
def advance(variants):
    """The kernel that counts a step and computes each lane's numbers, of the variants given."""
    own, fills, lines = machine(F64), {}, []
    for k, variant in enumerate(variants):
        name = f"fill{k}"
        fills[name] = own.compiled(own.define(uniforms_text(variant.traced, name), name))
        given = ", ".join([_given(variant, "at"), *["real(0)"] * (1 + len(variant.folds))])
        names = [f"u{u}" for u in range(len(variant.uniforms))]
        if names:
            lines += [f"if numbers[at] == real({k}):", f"    {', '.join(names)}, = {name}({given})"]
            for u, one in enumerate(names):
                lines += [f"    singles[at + {FACTORS + u}] = to_f32({one})", f"    doubles[at + {FACTORS + u}] = {one}"]
    text = _ADVANCE.format(room=ROOM, variants=joined(lines or ["pass"], 8), **_RANGES)
    types = ["i64", "f64*", "i64*", "f64", "f64", "i64", "i64", "f64", "f64*", "f64*", "i64*", "f32*", "f64*"]
    return Kernel(F64, "advance", text, types, **fills)


_WHOLE = """
def whole(table, columns, numbers, tally, has_sums, partials, singles, doubles):
    own = cuda.blockIdx.x * columns
    at = table[own + 3] * {room}
    place = table[own + 1] * {room}
    chunks = (table[own] + {chunk} - 1) // {chunk}
    if has_sums == 0:
        chunks = 0
    step = tally[0]
    {sums}
    if cuda.threadIdx.x == 0:
        for k in range({factors}):
            singles[place + k] = singles[at + k]
            doubles[place + k] = doubles[at + k]
        {uniforms}
"""
_SUM = """
high = low = real(0)
for k in range(cuda.threadIdx.x, chunks, THREADS):
    from_here = {squares} * ({count} * (table[own + 4] + k) + {f})
    high, low = add_to(high, low, one(partials, from_here) * real({up!r}) * real({up!r}))
    high, low = add_to(high, low, one(partials, from_here + 2))
    high, low = add_to(high, low, one(partials, from_here + 4) * real({down!r}) * real({down!r}))
high, low = fold_block(high, low)
sum_{f} = as_one(high, low)
"""


@cache
def whole(variant, precision):
    """The kernel that gives each tensor that a rule looks at as a whole numbers of its own: of what was summed, and before without."""
    own, known, code = machine(F64), sums.functions(F64), precision.name
    one = own.compiled(own.define(ONE.replace("f32", code), "one", **known))
    fill = own.compiled(own.define(uniforms_text(variant.traced, "fill"), "fill"))
    up, count = 2.0 ** FAR[code][1], len(variant.folds)
    lines = [
        line
        for f in range(count)
        for line in _SUM.format(squares=SQUARES, count=count, f=f, up=up, down=1 / up).strip().splitlines()
    ]
    names = [f"u{u}" for u in range(len(variant.uniforms))]
    given = ", ".join([_given(variant, "at"), "to_float(table[own])", *(f"sum_{f}" for f in range(count))])
    found = [f"{', '.join(names)}, = fill({given})"]
    for u, name in enumerate(names):
        found += [f"singles[place + {FACTORS + u}] = to_f32({name})", f"doubles[place + {FACTORS + u}] = {name}"]
    text = _WHOLE.format(room=ROOM, factors=FACTORS, chunk=CHUNK, sums=joined(lines or ["pass"], 4), uniforms=joined(found, 8))
    types = ["i64*", "i64", "f64*", "i64*", "i64", f"{code}*", "f32*", "f64*"]
    return Kernel(F64, "whole", text, types, **known, one=one, fill=fill)


def _given(variant, at):
    """The arguments of the function that makes uniforms: the step's number, the lane's hyperparameters."""
    return ", ".join(["to_float(step)", *(f"numbers[{at} + {2 + p}]" for p in range(1, len(variant.traced.parameters)))])
