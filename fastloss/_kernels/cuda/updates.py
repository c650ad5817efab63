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
# Of a bucket, in doubles: which variant, whether its gradients' sign is turned, its parameters; and what `advance` makes of them: the
# two factors of what gradients are multiplied by, the second of which is 1 where one number of the dtype will do; the uniforms.
ROOM = 32
FACTORS = 2
# The columns of the table before those of addresses: elements, where its uniforms are, seed, lane, which of the chunks is its first.
FIXED = 5
_PARTS = ("large", "middle", "small")
# The first arguments of the kernels that go over tensors: chunks, table, gradients, counts.
_TABLE = ["i64*"] * 4
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
        # What a rule that looks at a tensor as a whole sums: by role, whether it is squares. The uniforms are the tensor's own then.
        layout = rule.layout(self.traced)
        self.is_whole = layout is not None
        self.folds = dict(zip(self.traced.folds, layout["squares"], strict=True)) if layout else {}
        self.outputs = [role for role in self.traced.outputs if role not in self.folds]
        self.uniforms = uniforms(self.traced, list(self.traced.outputs.values()))
        self.kernel, self.fold = cache(self.kernel), cache(self.fold)

    def kernel(self, mixture):
        return _Writer(self, mixture).kernel()

    def fold(self, mixture):
        """The kernel that sums what the rule looks at a tensor for, block by block."""
        return _Writer(self, mixture).fold()


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
def {name}(chunks, table, grads, tally, uniforms, limit, ema_weight):
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
    second_factor = uniforms[lane + 1]
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
        self.variant, self.mixture = variant, mixture
        states = [name for name in variant.outputs if name != "param"]
        self.codes = {"param": mixture.param, "grad": mixture.grad, **dict(zip(states, mixture.states, strict=True))}
        beside = {REMAINDER: mixture.param if mixture.remainder else None, AVERAGE: mixture.average}
        self.beside = {name: code for name, code in beside.items() if code}
        self.written = {name: code for name, code in self.codes.items() if name != "grad"} | self.beside
        self.written |= {COPY: mixture.copy} if mixture.copy else {}
        self.uniforms = [f"of_{n}" for n in uniform_names(variant.uniforms).values()]
        self.scalar = f"{variant.rule.name}_rule"

    def kernel(self):
        mixture, real = self.mixture, self.mixture.precision.name
        name, scalar = f"{self.variant.name}_step", self._scalar(self.variant.outputs)
        more = {"THREADS": device.THREADS, self.scalar: scalar} | (_dither() if mixture.dithers else {})
        return Kernel(mixture.precision, name, self._text(name), [*_TABLE, f"{real}*", real, real], **more)

    def fold(self):
        precision, folds = self.mixture.precision, self.variant.folds
        name, scalar = f"{self.variant.name}_fold", self._scalar(list(folds))
        more = {**sums.functions(precision), self.scalar: scalar}
        text = self._fold_text(name)
        return Kernel(precision, name, text, [*_TABLE, f"{precision.name}*", precision.name, f"{precision.name}*"], **more)

    def _scalar(self, roles):
        """The rule as a function of one element."""
        own = machine(self.mixture.precision)
        text = variant_text(self.variant.traced, roles, self.scalar, self.variant.rule.source)
        return own.compiled(own.define(text, self.scalar))

    def _fold_text(self, name):
        width, read = self.mixture.width, self.codes | self.beside
        folds = self.variant.folds
        vectors = [f"{_each(n, 'raw', width)} = {_loaded(n, width)}" for n in read]
        vectors += [line for k in range(width) for line in self._seen(k, list(folds))]
        single = [f"{n}_raw0 = {n}_at[i]" for n in read] + self._seen(0, list(folds))
        for role, is_square in folds.items():
            add = _squares if is_square else _plain
            vectors += add(role, [f"{role}_{k}" for k in range(width)], self.mixture.precision)
            single += add(role, [f"{role}_0"], self.mixture.precision)
        fold = [line for k, role in enumerate(folds) for line in _folded(role, f"{len(folds)} * cuda.blockIdx.x + {k}")]
        text = _HEAD.replace("limit, ema_weight)", "limit, partials)").format(
            name=name,
            columns=FIXED + len(self.written),
            chunk=CHUNK,
            room=ROOM,
            width=width,
            head=joined([*self._head(dithers=False), *map(_zeros, folds)], 4),
            vectors=joined(vectors, 8),
            elements=joined(single, 8),
        )
        return text + "    " + joined(fold, 4)

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

    def _head(self, dithers=True):
        """What is the same for all elements: where the arrays begin, the uniforms."""
        lines = [f"grad_at = pointer_{self.codes['grad']}(grads[row])"]
        lines += [f"{n}_at = pointer_{code}(table[own + {FIXED + k}])" for k, (n, code) in enumerate(self.written.items())]
        lines += [f"{n} = uniforms[lane + {FACTORS + k}]" for k, n in enumerate(self.uniforms)]
        return [*lines, "key = mixed(uint64(table[own + 2]), uint64(tally[0]))"] if self.mixture.dithers and dithers else lines

    def _element(self, k):
        """The statements for one element, in the CPU engine's order: scale and clip, the rule, average, round, copy."""
        param, lines = f"param_{k}", self._seen(k, self.variant.outputs)
        if self.mixture.average:
            lines.append(f"{AVERAGE}_{k} = {AVERAGE}_{k} + rounded(ema_weight * ({param} - {AVERAGE}_{k}))")
        if self.mixture.dithers:
            lines.append(f"{param} = dithered({param}, noise(uint32(i + {k}), key))")
        kept = {COPY: param, REMAINDER: f"{param} - from_{self.codes['param']}(param_new{k})"}
        lines += [f"{n}_new{k} = to_{code}({kept.get(n, f'{n}_{k}')})" for n, code in self.written.items()]
        return lines

    def _seen(self, k, roles):
        """What the rule makes of an element, and of its gradient scaled and clipped."""
        param, grad = f"param_{k}", f"grad_{k}"
        lines = [f"{n}_{k} = from_{code}({n}_raw{k})" for n, code in (self.codes | self.beside).items()]
        lines += [
            f"{grad} = rounded(rounded({grad} * factor) * second_factor)",
            f"{grad} = where({grad} > limit, limit, {grad})",
            f"{grad} = where({grad} < -limit, -limit, {grad})",
        ]
        if self.mixture.remainder:
            lines.append(f"{param} = {param} + {REMAINDER}_{k}")
        outputs = [f"{n}_{k}" for n in roles]
        arguments = ", ".join([*(f"{n}_{k}" for n in self.variant.traced.inputs), *self.uniforms])
        return [*lines, f"{', '.join(outputs)} = {self.scalar}({arguments})"]


def _each(name, what, width):
    return ", ".join(f"{name}_{what}{k}" for k in range(width))


def _loaded(name, width):
    return f"vector{width}({name}_at, i)" if width > 1 else f"{name}_at[i]"


def _stored(name, width):
    values = _each(name, "new", width)
    return f"put{width}({name}_at, i, {values})" if width > 1 else f"{name}_at[i] = {values}"


# --- sums of squares ---------------------------------------------------------------------------------------------------------


def _zeros(name):
    """The statement before the sums of that name."""
    return " = ".join(f"{name}_{part}_{which}" for part in _PARTS for which in ("high", "low")) + " = real(0)"


def _plain(name, terms, precision):
    """The statements that add numbers to a sum, whose place is that of the middling squares."""
    pair = f"{name}_middle_high, {name}_middle_low"
    return [f"{pair} = add_to({pair}, {term})" for term in terms]


def _squares(name, terms, precision):
    """The statements that add squares to their sum: that of large, of middling or of small numbers, by the largest of the terms.

    A product's rounding goes into the pair too: the sums are as good as in twice the precision.
    """
    far, by = _FAR[precision.name]
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


def _folded(name, place):
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
        return [load, *(f"x{k} = from_{code}(grad_raw{k})" for k in range(count)), *_squares("of", terms, precision)]

    text = _MEASURE.format(
        chunk=CHUNK,
        code=code,
        width=width,
        zeros=_zeros("of"),
        vectors=joined(element(f"{_each('grad', 'raw', width)} = {_loaded('grad', width)}", width), 8),
        elements=joined(element("grad_raw0 = grad_at[i]", 1), 8),
        fold=joined(_folded("of", "cuda.blockIdx.x"), 4),
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

_ONE = """
def one(of_singles, at):
    return as_one(from_f32(of_singles[at]), from_f32(of_singles[at + 1]))
"""


@cache
def total():
    """The kernel that makes the norm of the blocks' sums of squares: times two factors, and as the product of two numbers."""
    own, known = machine(F64), sums.functions(F64)
    one = own.compiled(own.define(_ONE, "one", **known))
    by32, by64 = _FAR["f32"][1], _FAR["f64"][1]
    numbers = {"large32": 4.0**by32, "small32": 4.0**-by32, "up": 2.0**by64, "down": 2.0**-by64}
    text = _TOTAL.format(squares=SQUARES, **numbers)
    return Kernel(F64, "total", text, ["i64", "f32*", "i64", "f64*", "f64", "f64", "f64*", "f64*"], **known, one=one)


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
    one = own.compiled(own.define(_ONE.replace("f32", code), "one", **known))
    fill = own.compiled(own.define(uniforms_text(variant.traced, "fill"), "fill"))
    up, count = 2.0 ** _FAR[code][1], len(variant.folds)
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
