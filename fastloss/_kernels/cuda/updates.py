"""Update rules on a GPU: the kernel that steps many tensors at once, and the small ones that go before it.

A step is, in order: `measure`, if the gradients' norm is wanted, which sums squares block by block, and `total`, which makes the norm
of them; `advance`, which counts the step and computes in double what depends on its number; and a kernel for each rule and mixture of
dtypes, whose blocks find in a table which part of which tensor is theirs. What the small kernels find the large ones read in the
GPU's memory: the host waits for nothing, and a captured step goes on counting as it is replayed.
"""

from dataclasses import dataclass
from functools import cache

from ...formula.definition import F32, F64
from ...formula.emit import uniform_names, uniforms
from ...formula.python import uniforms_text, variant_text
from . import device, sums
from .device import Kernel, machine
from .storage import STORAGES
from .text import joined

# What a block does of a tensor, in elements: long enough that its look into the table costs nothing.
CHUNK = 128 if device.SIMULATED else 1 << 15
# Of a lane, in doubles: which variant, whether its gradients are turned round, its parameters; and what `advance` makes of them: what
# gradients are multiplied by, the uniforms.
ROOM = 32
# The columns of the table before those of addresses: elements, lane, seed.
FIXED = 3
# What goes with a parameter beside what the rule knows; no argument of a rule has such a name.
REMAINDER, AVERAGE, COPY = "remainder_", "average_", "copy_"
# The sums of squares of a block, each a pair: of vectors of large, middling and small numbers.
SQUARES = 6

# By the precision's name: from where on numbers are large, and by which power of two they are scaled then, so that no square of a
# number is lost; small ones are those below the inverse.
_FAR = {"f32": (50, 80), "f64": (400, 600)}

_DITHER = {
    "mixed": """
def mixed(seed, step):
    h = uint64(seed + uint64(step * uint64(0x9E3779B97F4A7C15)))
    h = uint64((h ^ (h >> uint64(30))) * uint64(0xBF58476D1CE4E5B9))
    h = uint64((h ^ (h >> uint64(27))) * uint64(0x94D049BB133111EB))
    return uint32(h ^ (h >> uint64(31)))
""",
    "noise": """
def noise(index, key):
    h = uint32(uint32(index * uint32(0x9E3779B9)) + key)
    h = uint32((h ^ (h >> uint32(16))) * uint32(0x7FEB352D))
    h = uint32((h ^ (h >> uint32(15))) * uint32(0x846CA68B))
    return uint32(h ^ (h >> uint32(16)))
""",
    "dithered": """
def dithered(x, more):
    u = int64(bits_of_float(x))
    special = (u & int64(0x7F800000)) == int64(0x7F800000)
    chosen = (u + int64(more & uint32(0xFFFF))) & int64(-65536)
    return float_of_bits(int32(u if special else chosen))
""",
}


@cache
def _dither():
    """Rounding to bfloat16 at random, the CPU engine's bits: `half.h` and `sweep.pxi` have the same functions."""
    own = machine(F32)
    return {name: own.compiled(own.define(text, name)) for name, text in _DITHER.items()}


def precision_of(code):
    """What parameters of a code are computed in."""
    return F64 if code == "f64" else F32


class Variant:
    """A variant of an update rule, and its kernels by mixture, each made at its first use."""

    def __init__(self, rule, choice):
        self.rule, self.traced = rule, rule.trace(choice)
        self.name = self.traced.name
        self.uniforms = uniforms(self.traced, list(self.traced.outputs.values()))
        self.kernel = cache(self.kernel)

    def kernel(self, mixture):
        return _Writer(self, mixture).kernel()


@dataclass(frozen=True)
class Mixture:
    """How the arrays of a tensor lie in memory, by their codes; `width` elements are loaded at once."""

    param: str
    grad: str
    states: tuple
    remainder: bool
    average: str | None
    copy: str | None
    dithers: bool
    width: int

    @property
    def precision(self):
        return precision_of(self.param)


_HEAD = """
def {name}(chunks, table, grads, tally, uniforms, limit, approach):
    row = chunks[2 * cuda.blockIdx.x]
    first = chunks[2 * cuda.blockIdx.x + 1]
    own = row * {columns}
    end = table[own]
    if end > first + {chunk}:
        end = first + {chunk}
    if tally[1] != 0:
        end = first
    lane = table[own + 1] * {room}
    factor = uniforms[lane]
    {head}
    for vector in range(cuda.threadIdx.x, (end - first) // {width}, THREADS):
        i = first + vector * {width}
        {vectors}
    for i in range(first + (end - first) // {width} * {width} + cuda.threadIdx.x, end, THREADS):
        {elements}
"""


class _Writer:
    """The text of the kernel of a variant and mixture."""

    def __init__(self, variant, mixture):
        self.variant, self.mixture, traced = variant, mixture, variant.traced
        states = [name for name in traced.outputs if name != "param"]
        self.codes = {"param": mixture.param, "grad": mixture.grad, **dict(zip(states, mixture.states, strict=True))}
        beside = {REMAINDER: mixture.param if mixture.remainder else None, AVERAGE: mixture.average}
        self.beside = {name: code for name, code in beside.items() if code}
        self.written = {name: code for name, code in self.codes.items() if name != "grad"} | self.beside
        self.written |= {COPY: mixture.copy} if mixture.copy else {}
        self.uniforms = [f"of_{n}" for n in uniform_names(variant.uniforms).values()]
        self.scalar = f"{variant.rule.name}_rule"

    def kernel(self):
        mixture, own = self.mixture, machine(self.mixture.precision)
        traced, real = self.variant.traced, mixture.precision.name
        text = variant_text(traced, list(traced.outputs), self.scalar, self.variant.rule.source)
        scalar = own.compiled(own.define(text, self.scalar))
        name = f"{self.variant.name}_step"
        more = {"THREADS": device.THREADS, self.scalar: scalar} | (_dither() if mixture.dithers else {})
        types = ["i64*", "i64*", "i64*", "i64*", f"{real}*", real, real]
        return Kernel(mixture.precision, name, self._text(name), types, **more)

    def _text(self, name):
        width, read = self.mixture.width, self.codes | self.beside
        vectors = [f"{_each(n, 'raw', width)} = {_loaded(n, width)}" for n in read]
        vectors += [line for k in range(width) for line in self._element(k)]
        vectors += [_stored(n, width) for n in self.written]
        single = [f"{n}_raw0 = {n}_at[i]" for n in read]
        single += self._element(0)
        single += [f"{n}_at[i] = {n}_new0" for n in self.written]
        return _HEAD.format(
            name=name,
            columns=FIXED + len(self.written),
            chunk=CHUNK,
            room=ROOM,
            width=width,
            head=joined(self._head(), 4),
            vectors=joined(vectors, 8),
            elements=joined(single, 8),
        )

    def _head(self):
        """What is the same for all elements: where the arrays begin, the uniforms."""
        lines = [f"grad_at = pointer_{self.codes['grad']}(grads[row])"]
        lines += [f"{n}_at = pointer_{code}(table[own + {FIXED + k}])" for k, (n, code) in enumerate(self.written.items())]
        lines += [f"{n} = uniforms[lane + {1 + k}]" for k, n in enumerate(self.uniforms)]
        return [*lines, "key = mixed(uint64(table[own + 2]), uint64(tally[0]))"] if self.mixture.dithers else lines

    def _element(self, k):
        """The statements for one element, in the CPU engine's order: scale and clip, the rule, average, round, copy."""
        param, grad = f"param_{k}", f"grad_{k}"
        lines = [f"{n}_{k} = from_{code}({n}_raw{k})" for n, code in (self.codes | self.beside).items()]
        lines += [
            f"{grad} = rounded({grad} * factor)",
            f"{grad} = where({grad} > limit, limit, {grad})",
            f"{grad} = where({grad} < -limit, -limit, {grad})",
        ]
        if self.mixture.remainder:
            lines.append(f"{param} = {param} + {REMAINDER}_{k}")
        outputs = [f"{n}_{k}" for n in self.variant.traced.outputs]
        arguments = ", ".join([*(f"{n}_{k}" for n in self.variant.traced.inputs), *self.uniforms])
        lines.append(f"{', '.join(outputs)} = {self.scalar}({arguments})")
        if self.mixture.average:
            lines.append(f"{AVERAGE}_{k} = {AVERAGE}_{k} + rounded(approach * ({param} - {AVERAGE}_{k}))")
        if self.mixture.dithers:
            lines.append(f"{param} = dithered({param}, noise(uint32(i + {k}), key))")
        kept = {COPY: param, REMAINDER: f"{param} - from_{self.codes['param']}(param_new{k})"}
        lines += [f"{n}_new{k} = to_{code}({kept.get(n, f'{n}_{k}')})" for n, code in self.written.items()]
        return lines


def _each(name, what, width):
    return ", ".join(f"{name}_{what}{k}" for k in range(width))


def _loaded(name, width):
    return f"vector{width}({name}_at, i)" if width > 1 else f"{name}_at[i]"


def _stored(name, width):
    values = _each(name, "new", width)
    return f"put{width}({name}_at, i, {values})" if width > 1 else f"{name}_at[i] = {values}"


_MEASURE = """
def measure(chunks, table, grads, columns, partials):
    row = chunks[2 * cuda.blockIdx.x]
    first = chunks[2 * cuda.blockIdx.x + 1]
    end = table[row * columns]
    if end > first + {chunk}:
        end = first + {chunk}
    grad = pointer_{code}(grads[row])
    large_high = large_low = middle_high = middle_low = small_high = small_low = real(0)
    for vector in range(cuda.threadIdx.x, (end - first) // {width}, THREADS):
        i = first + vector * {width}
        {vectors}
    for i in range(first + (end - first) // {width} * {width} + cuda.threadIdx.x, end, THREADS):
        {elements}
    {fold}
"""


@cache
def measure(precision, code, width):
    """The kernel that sums the squares of gradients, of each block the large, the middling and the small ones.

    A product's rounding goes into the pair too: the sums are as good as in twice the precision.
    """
    far, by = _FAR[precision.name]

    def element(loads, count):
        most = "x0_"
        for k in range(1, count):
            most = f"greater(absolute(x{k}), {most})"
        return [
            *loads,
            *(f"x{k} = from_{code}(raw{k})" for k in range(count)),
            "x0_ = absolute(x0)",
            f"most = {most}",
            f"is_large = most >= real({2.0**far!r})",
            f"is_small = most < real({2.0**-far!r})",
            f"scale = where(is_large, real({2.0**-by!r}), where(is_small, real({2.0**by!r}), real(1)))",
            "high = where(is_large, large_high, where(is_small, small_high, middle_high))",
            "low = where(is_large, large_low, where(is_small, small_low, middle_low))",
            *(
                line
                for k in range(count)
                for line in (
                    f"x{k} = x{k} * scale",
                    f"square{k} = rounded(x{k} * x{k})",
                    f"high, low = add_to(high, low + fma(x{k}, x{k}, -square{k}), square{k})",
                )
            ),
            *(
                line
                for part in ("high", "low")
                for line in (
                    f"middle_{part} = where(is_large, middle_{part}, where(is_small, middle_{part}, {part}))",
                    f"large_{part} = where(is_large, {part}, large_{part})",
                    f"small_{part} = where(is_small, {part}, small_{part})",
                )
            ),
        ]

    raws = ", ".join(f"raw{k}" for k in range(width))
    loads = [f"{raws} = vector{width}(grad, i)" if width > 1 else "raw0 = grad[i]"]
    fold = [f"{part}_high, {part}_low = fold_block({part}_high, {part}_low)" for part in ("large", "middle", "small")]
    names = [f"{part}_{which}" for part in ("large", "middle", "small") for which in ("high", "low")]
    fold += ["if cuda.threadIdx.x == 0:"]
    fold += [f"    partials[{SQUARES} * cuda.blockIdx.x + {k}] = {n}" for k, n in enumerate(names)]
    text = _MEASURE.format(
        chunk=CHUNK,
        code=code,
        width=width,
        vectors=joined(element(loads, width), 8),
        elements=joined(element(["raw0 = grad[i]"], 1), 8),
        fold=joined(fold, 4),
    )
    types = ["i64*", "i64*", "i64*", "i64", f"{precision.name}*"]
    return Kernel(precision, "measure", text, types, **sums.functions(precision))


_TOTAL = """
def total(singles, of_singles, doubles, of_doubles, by, norm):
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
        found = sqrt(small) * down
        if not (middle == real(0)):
            found = sqrt(middle + small * down * down)
        if not (large == real(0)):
            found = sqrt(large + middle * down * down) * real({up!r})
        norm[0] = by * found
"""

_ONE = """
def one(of_singles, at):
    return as_one(from_f32(of_singles[at]), from_f32(of_singles[at + 1]))
"""


@cache
def total():
    """The kernel that makes the norm of the blocks' sums of squares, `by` times."""
    own, known = machine(F64), sums.functions(F64)
    one = own.compiled(own.define(_ONE, "one", **known))
    by32, by64 = _FAR["f32"][1], _FAR["f64"][1]
    numbers = {"large32": 4.0**by32, "small32": 4.0**-by32, "up": 2.0**by64, "down": 2.0**-by64}
    text = _TOTAL.format(squares=SQUARES, **numbers)
    return Kernel(F64, "total", text, ["i64", "f32*", "i64", "f64*", "f64", "f64*"], **known, one=one)


_ADVANCE = """
def advance(lanes, numbers, tally, by, measures, skips, max_norm, norm, skipped, singles, doubles):
    step = tally[0] + 1
    left_out = 0
    clip = real(1)
    if measures != 0:
        found = norm[0]
        if (skips != 0) & (found - found != found - found):
            left_out = 1
        if found > max_norm:
            clip = max_norm / found
    cuda.syncthreads()
    if cuda.threadIdx.x == 0:
        tally[1] = left_out
        tally[0] = step - left_out
        if skips != 0:
            skipped[0] = left_out
    for lane in range(cuda.threadIdx.x, lanes, cuda.blockDim.x):
        at = lane * {room}
        factor = numbers[at + 1] * by * clip
        singles[at] = to_f32(factor)
        doubles[at] = factor
        {variants}
"""


@cache
def advance(variants):
    """The kernel that counts a step and computes each lane's numbers, of the variants given."""
    own, fills, lines = machine(F64), {}, []
    for k, variant in enumerate(variants):
        traced, name = variant.traced, f"fill{k}"
        fills[name] = own.compiled(own.define(uniforms_text(traced, name), name))
        given = ", ".join(["to_float(step)", *(f"numbers[at + {2 + p}]" for p in range(1, len(traced.parameters))), "real(0)"])
        names = [f"u{u}" for u in range(len(variant.uniforms))]
        if names:
            lines += [f"if numbers[at] == real({k}):", f"    {', '.join(names)}, = {name}({given})"]
            for u, one in enumerate(names):
                lines += [f"    singles[at + {1 + u}] = to_f32({one})", f"    doubles[at + {1 + u}] = {one}"]
    text = _ADVANCE.format(room=ROOM, variants=joined(lines or ["pass"], 8))
    types = ["i64", "f64*", "i64*", "f64", "i64", "i64", "f64", "f64*", "i64*", "f32*", "f64*"]
    return Kernel(F64, "advance", text, types, **fills)


_CONVERT = """
def convert(count, source, target):
    for i in range(cuda.blockIdx.x * THREADS + cuda.threadIdx.x, count, cuda.gridDim.x * THREADS):
        target[i] = to_{target}(from_{source}(source[i]))
"""


@cache
def convert(source, target):
    """The kernel that copies an array into one of another dtype."""
    precision = F64 if "f64" in (source, target) else F32
    text = _CONVERT.format(source=source, target=target)
    return Kernel(precision, "convert", text, ["i64", f"{source}*", f"{target}*"], THREADS=device.THREADS)


def width_of(code, arrays):
    """How many elements are loaded at once: 16 bytes of a parameter, where all arrays begin at places for such loads."""
    width = 16 // STORAGES[code].itemsize
    return width if all(array.address % min(16, width * array.itemsize) == 0 for array in arrays) else 1
