"""Sums of squares that neither overflow nor lose small numbers, and the norm of all gradients that is made of them."""

from functools import cache

from ...formula.definition import F64
from . import sums
from .device import Kernel, machine
from .text import each, joined, loaded
from .update_table import CHUNK

# The sums of squares of a block, each a pair: of vectors of large, middling and small numbers.
SQUARES = 6
_PARTS = ("large", "middle", "small")
# By the precision's name: from where on numbers are large, and by which power of two they are scaled then, so that no square of a
# number is lost; small ones are those below the inverse.
FAR = {"f32": (50, 80), "f64": (400, 600)}


def zeros(name):
    """The statement before the sums of that name."""
    return " = ".join(f"{name}_{part}_{which}" for part in _PARTS for which in ("high", "low")) + " = real(0)"


def plain(name, terms, precision):
    """The statements that add numbers to a sum, whose place is that of the middling squares."""
    pair = f"{name}_middle_high, {name}_middle_low"
    return [f"{pair} = add_to({pair}, {term})" for term in terms]


def squares(name, terms, precision):
    """The statements that add squares to their sum: that of large, of middling or of small numbers, by the largest of the terms.

    A product's rounding goes into the pair too: the sums are as good as in twice the precision.
    """
    far, by = FAR[precision.name]
    most = f"absolute({terms[0]})"
    for term in terms[1:]:
        most = f"greater(absolute({term}), {most})"
    lines = [
        f"most = {most}",
        f"is_large = most >= real({2.0**far!r})",
        f"is_small = most < real({2.0**-far!r})",
        f"scale = where(is_large, real({2.0**-by!r}), where(is_small, real({2.0**by!r}), real(1)))",
    ]
    lines += [
        f"{which} = where(is_large, {name}_large_{which}, where(is_small, {name}_small_{which}, {name}_middle_{which}))"
        for which in ("high", "low")
    ]
    for term in terms:
        lines += [
            f"scaled = {term} * scale",
            "square = rounded(scaled * scaled)",
            "high, low = add_to(high, low + fma(scaled, scaled, -square), square)",
        ]
    for which in ("high", "low"):
        middle = f"{name}_middle_{which}"
        lines += [
            f"{middle} = where(is_large, {middle}, where(is_small, {middle}, {which}))",
            f"{name}_large_{which} = where(is_large, {which}, {name}_large_{which})",
            f"{name}_small_{which} = where(is_small, {which}, {name}_small_{which})",
        ]
    return lines


def folded(name, place):
    """The statements that fold a block's sums and write them to their place."""
    pairs = [f"{name}_{part}_high, {name}_{part}_low" for part in _PARTS]
    lines = [f"{pair} = fold_block({pair})" for pair in pairs]
    numbers = ", ".join(pairs).split(", ")
    return [
        *lines,
        "if cuda.threadIdx.x == 0:",
        *(f"    partials[{SQUARES} * ({place}) + {k}] = {number}" for k, number in enumerate(numbers)),
    ]


_MEASURE = """
def measure(chunks, table, grads, columns, partials):
    row = chunks[2 * cuda.blockIdx.x]
    first = chunks[2 * cuda.blockIdx.x + 1]
    end = table[row * columns]
    if end > first + {chunk}:
        end = first + {chunk}
    grad_at = pointer_{code}(grads[row])
    {zeros}
    for vector in range(cuda.threadIdx.x, (end - first) // {width}, THREADS):
        i = first + vector * {width}
        {vectors}
    for i in range(first + (end - first) // {width} * {width} + cuda.threadIdx.x, end, THREADS):
        {elements}
    {fold}
"""


@cache
def measure(precision, code, width):
    """The kernel that sums the squares of gradients, of each block."""

    def element(load, count):
        terms = [f"x{k}" for k in range(count)]
        return [load, *(f"x{k} = from_{code}(grad_raw{k})" for k in range(count)), *squares("of", terms, precision)]

    text = _MEASURE.format(
        chunk=CHUNK,
        code=code,
        width=width,
        zeros=zeros("of"),
        vectors=joined(element(f"{each('grad', 'raw', width)} = {loaded('grad', width)}", width), 8),
        elements=joined(element("grad_raw0 = grad_at[i]", 1), 8),
        fold=joined(folded("of", "cuda.blockIdx.x"), 4),
    )
    types = ["i64*", "i64*", "i64*", "i64", f"{precision.name}*"]
    return Kernel(precision, "measure", text, types, **sums.functions(precision))


_TOTAL = """
def total(singles, of_singles, doubles, of_doubles, by, second_by, norm, parts):
    large_high = large_low = middle_high = middle_low = small_high = small_low = real(0)
    for k in range(cuda.threadIdx.x, singles, THREADS):
        at = {squares} * k
        middle_high, middle_low = add_to(middle_high, middle_low, real({large32!r}) * one(of_singles, at))
        middle_high, middle_low = add_to(middle_high, middle_low, one(of_singles, at + 2))
        middle_high, middle_low = add_to(middle_high, middle_low, real({small32!r}) * one(of_singles, at + 4))
    for k in range(cuda.threadIdx.x, doubles, THREADS):
        at = {squares} * k
        large_high, large_low = add_to(large_high, large_low, as_one(of_doubles[at], of_doubles[at + 1]))
        middle_high, middle_low = add_to(middle_high, middle_low, as_one(of_doubles[at + 2], of_doubles[at + 3]))
        small_high, small_low = add_to(small_high, small_low, as_one(of_doubles[at + 4], of_doubles[at + 5]))
    large_high, large_low = fold_block(large_high, large_low)
    middle_high, middle_low = fold_block(middle_high, middle_low)
    small_high, small_low = fold_block(small_high, small_low)
    if cuda.threadIdx.x == 0:
        large = as_one(large_high, large_low)
        middle = as_one(middle_high, middle_low)
        small = as_one(small_high, small_low)
        # Small squares do not show beside middling ones, nor these beside large ones, but where they are near.
        down = real({down!r})
        root, unit = sqrt(small), down
        if not (middle == real(0)):
            root, unit = sqrt(middle + small * down * down), real(1)
        if not (large == real(0)):
            root, unit = sqrt(large + middle * down * down), real({up!r})
        norm[0] = by * (root * unit) * second_by
        parts[0] = root
        parts[1] = unit
"""

ONE = """
def one(of_singles, at):
    return as_one(from_f32(of_singles[at]), from_f32(of_singles[at + 1]))
"""


@cache
def total():
    """The kernel that makes the norm of the blocks' sums of squares: times two factors, and as the product of two numbers."""
    own, known = machine(F64), sums.functions(F64)
    one = own.compiled(own.define(ONE, "one", **known))
    by32, by64 = FAR["f32"][1], FAR["f64"][1]
    numbers = {"large32": 4.0**by32, "small32": 4.0**-by32, "up": 2.0**by64, "down": 2.0**-by64}
    text = _TOTAL.format(squares=SQUARES, **numbers)
    return Kernel(F64, "total", text, ["i64", "f32*", "i64", "f64*", "f64", "f64", "f64*", "f64*"], **known, one=one)
