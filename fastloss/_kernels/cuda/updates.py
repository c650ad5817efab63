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
from ...formula.python import variant_text
from . import device, squares, sums
from .device import Kernel, machine
from .storage import STORAGES
from .text import each, joined, loaded, stored
from .update_table import CHUNK, FACTORS, FIXED, ROOM

# The first arguments of the kernels that go over tensors: chunks, table, gradients, counts.
_TABLE = ["i64*"] * 4
# What goes with a parameter beside what the rule knows; no argument of a rule has such a name.
REMAINDER, AVERAGE, COPY = "remainder_", "average_", "copy_"


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


class RuleVariant:
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
        vectors = [f"{each(n, 'raw', width)} = {loaded(n, width)}" for n in read]
        vectors += [line for k in range(width) for line in self._seen(k, list(folds))]
        single = [f"{n}_raw0 = {n}_at[i]" for n in read] + self._seen(0, list(folds))
        for role, is_square in folds.items():
            add = squares.squares if is_square else squares.plain
            vectors += add(role, [f"{role}_{k}" for k in range(width)], self.mixture.precision)
            single += add(role, [f"{role}_0"], self.mixture.precision)
        fold = [line for k, role in enumerate(folds) for line in squares.folded(role, f"{len(folds)} * cuda.blockIdx.x + {k}")]
        text = _HEAD.replace("limit, ema_weight)", "limit, partials)").format(
            name=name,
            columns=FIXED + len(self.written),
            chunk=CHUNK,
            room=ROOM,
            width=width,
            head=joined([*self._head(dithers=False), *map(squares.zeros, folds)], 4),
            vectors=joined(vectors, 8),
            elements=joined(single, 8),
        )
        return text + "    " + joined(fold, 4)

    def _text(self, name):
        width, read = self.mixture.width, self.codes | self.beside
        vectors = [f"{each(n, 'raw', width)} = {loaded(n, width)}" for n in read]
        vectors += [line for k in range(width) for line in self._element(k)]
        vectors += [stored(n, width) for n in self.written]
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
