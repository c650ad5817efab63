"""Pointwise losses on a GPU: one kernel loads, computes, weighs, scales, stores and adds up.

`PointwisePlan` makes a `PointwiseKey` of a call's arrays, `pointwise_kernel` writes the kernel for it, and the call launches that.
"""

from dataclasses import dataclass

from ...formula.emit import uniform_names, uniforms
from . import memory, sums, walk
from .device import Kernel, machine
from .plan import LETTERS, VALUE, Plan
from .text import joined

_HEAD = """
def {name}({arguments}):
    {scale}
    high = real(0)
    low = real(0)
    first = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
    step = cuda.gridDim.x * THREADS
"""
_VECTORS = """
    for vector in range(first, count // {width}, step):
        i = vector * {width}
        {loads}
        {work}
        {stores}
    first += count // {width} * {width}
"""
_ELEMENTS = """
    for i in range(first, count, step):
        {offsets}
        {work}
"""
_TAIL = """
    high, low = fold_block(high, low)
    if cuda.threadIdx.x == 0:
        partials[2 * cuda.blockIdx.x] = high
        partials[2 * cuda.blockIdx.x + 1] = low
"""


@dataclass(frozen=True)
class PointwiseKey:
    """What a kernel is written for: the results, how numbers lie in memory, and how elements are found.

    Inputs, weights and outputs by name with their codes in memory. `how` says of each whether its elements lie one after the other
    ("dense"), are all one number ("one") or are found by strides ("steps", over `dims` dimensions). `width` elements are loaded at
    once. The value is a sum unless it is among the outputs. `domains` holds the closed ends that inputs must lie within.
    """

    want: int
    inputs: tuple
    outputs: tuple
    how: tuple
    weights: str | None
    by_weights: bool
    domains: tuple
    width: int
    dims: int


def pointwise_kernel(variant, key, precision):
    """The kernel of a variant for a key."""
    text, own = _KernelText(variant, key, precision), machine(precision)
    scalar = own.compiled(own.define(variant.text(text.roles, text.scalar), text.scalar))
    name = f"{variant.traced.name}_{''.join(letter for bit, letter in LETTERS.items() if key.want & bit)}"
    arguments = text.arguments()
    more = sums.functions(precision) | {text.scalar: scalar}
    return Kernel(precision, name, text.written(name, arguments), arguments.values(), **more)


class _KernelText:
    """The text of one kernel around the scalar function of its formula."""

    def __init__(self, variant, key, precision):
        self.key, self.precision = key, precision
        self.formula, self.traced = variant.formula, variant.traced
        self.roles = [role for bit, letter in LETTERS.items() if key.want & bit for role in self.formula.roles(letter)]
        self.sums = key.want & VALUE and "value" not in dict(key.outputs)
        self.codes = dict(key.inputs) | ({"weights": key.weights} if key.weights else {})
        self.how = dict(key.how)
        # Its own name may be that of a function of fastloss.vecmath, which the text calls.
        self.scalar = f"{self.formula.name}_loss"
        nodes = uniforms(self.traced, list(self.traced.outputs.values()))
        self.uniforms = [f"{name}_given" for name in uniform_names(nodes).values()]

    def arguments(self):
        """The kernel's arguments and their types, in order."""
        key, real = self.key, self.precision.name
        arguments = {"count": "i64"}
        if key.dims:
            arguments |= walk.arguments([name for name, how in key.how if how == "steps"], key.dims)
        arguments |= {f"{name}_in": f"{code}*" for name, code in self.codes.items()}
        arguments |= {f"{role}_out": f"{code}*" for role, code in key.outputs}
        arguments |= {"total_weight": f"{real}*"} if key.by_weights else {"scale": real}
        if self.sums:
            arguments["partials"] = f"{real}*"
        if any(ends for _, ends in key.domains):
            arguments |= {"flags": "i64*"} | {f"slot_{name}": "i64" for name, ends in key.domains if ends}
        return arguments | dict.fromkeys(self.uniforms, real)

    def written(self, name, arguments):
        """The kernel's text."""
        key, width = self.key, self.key.width
        scale = ["pass"]
        if key.by_weights:
            scale = ["weight_sum = as_one(total_weight[0], total_weight[1])"]
            scale.append("scale = where(weight_sum == real(0), real(0), real(1) / weight_sum)")
        head = _HEAD.format(name=name, arguments=", ".join(arguments), scale=joined(scale, 4))
        for single in self.codes:
            if self.how[single] == "one":
                head += f"    {single}_one = from_{self.codes[single]}({single}_in[0])\n"
        body = ""
        dense = [name for name in self.codes if self.how[name] == "dense"]
        if width > 1:
            body += _VECTORS.format(
                width=width,
                loads=joined([self._load(name, width) for name in dense], 8),
                work=joined([line for k in range(width) for line in self._element(k)] + self._add(width), 8),
                stores=joined([self._store(role, code, width) for role, code in key.outputs] or ["pass"], 8),
            )
        steps = walk.offsets([name for name, how in key.how if how == "steps"], key.dims) if key.dims else ["pass"]
        single = [f"{name}_raw0 = {name}_in[{self._place(name)}]" for name in self.codes if self.how[name] != "one"]
        single += self._element(0) + self._add(1)
        single += [f"{role}_out[{self._place(role)}] = to_{code}({role}_0)" for role, code in key.outputs]
        body += _ELEMENTS.format(offsets=joined(steps, 8), work=joined(single, 8))
        return head + body + (_TAIL if self.sums else "")

    def _place(self, name):
        return f"at_{name}" if self.how[name] == "steps" else "i"

    def _load(self, name, width):
        raws = ", ".join(f"{name}_raw{k}" for k in range(width))
        return f"{raws} = vector{width}({name}_in, i)"

    def _element(self, k):
        """The statements for one element of those that were loaded together."""
        of = {name: f"{name}_one" if self.how[name] == "one" else f"{name}_{k}" for name in self.codes}
        lines = [f"{of[n]} = from_{code}({n}_raw{k})" for n, code in self.codes.items() if self.how[n] != "one"]
        for name, ends in self.key.domains:
            if ends:
                low, high, nan_is_outside = ends
                outside = f"({of[name]} < real({low!r})) | ({of[name]} > real({high!r}))"
                lines += [
                    f"if {outside}{f' | ({of[name]} != {of[name]})' if nan_is_outside else ''}:",
                    "    flags[0] = 1",
                    f"    flags[slot_{name}] = i + {k + 1}",
                ]
        results = ", ".join(f"{role}_{k}" for role in self.roles)
        arguments = ", ".join([*(of[name] for name in self.formula.inputs), *self.uniforms])
        lines.append(f"{results} = {self.scalar}({arguments})")
        for role in self.roles:
            this = f"{role}_{k}"
            weighed = f"{this} * {of['weights']}" if self.key.weights else this
            scaled = weighed if role == "value" else f"{weighed} * scale"
            if self.key.weights:
                scaled = f"where({of['weights']} == real(0), real(0), {scaled})"
            if scaled != this:
                lines.append(f"{this} = {scaled}")
        return lines

    def _add(self, width):
        """Add the elements' values, in pairs of pairs, to the thread's sum."""
        if not self.sums:
            return []
        terms = [f"value_{k}" for k in range(width)]
        while len(terms) > 1:
            terms = [f"({a} + {b})" for a, b in zip(terms[::2], terms[1::2], strict=True)]
        return [f"high, low = add_to(high, low, {terms[0]})"]

    def _store(self, role, code, width):
        values = ", ".join(f"to_{code}({role}_{k})" for k in range(width))
        return f"put{width}({role}_out, i, {values})"


class PointwisePlan(Plan):
    """One call's hyperparameters, bound to a variant of the formula."""

    def launch(self, call):
        """Lay out the kernel for a call's arrays."""
        first = call.inputs[0]
        arrays = dict(
            zip([*self.formula.inputs, *(["weights"] if call.weights else []), *call.outputs], call.arrays(), strict=True)
        )
        strides = {name: memory.broadcast(array, first.shape) for name, array in arrays.items()}
        shape, steps = memory.collapsed(first.shape, list(strides.values()))
        steps = dict(zip(arrays, steps, strict=True))
        how = {name: _how(of) for name, of in steps.items()}
        if "steps" in how.values():
            # What is not dense is walked over by strides, and so is all with it.
            how = {name: "one" if one == "one" and name not in call.outputs else "steps" for name, one in how.items()}
        walked = [name for name, one in how.items() if one == "steps"]
        width = 1 if walked else _width(first, arrays, how)
        key = PointwiseKey(
            call.want,
            tuple((name, arrays[name].code) for name in self.formula.inputs),
            tuple((role, array.code) for role, array in call.outputs.items()),
            tuple(how.items()),
            call.weights.code if call.weights else None,
            call.by_weights,
            tuple(self.domains(call)),
            width,
            len(shape) if walked else 0,
        )
        walks = walk.values(shape, [steps[name] for name in walked]) if walked else []
        arguments = [call.count, *walks, *(array.address for array in arrays.values())]
        arguments.append(call.total_weight if call.by_weights else call.scale)
        blocks = call.blocks(width)
        if call.sums:
            arguments.append(call.partials(blocks))
        if any(ends for _, ends in key.domains):
            arguments += [call.flags, *(self.slot(name) for name, ends in key.domains if ends)]
        kernel = self.variant.kernel(pointwise_kernel, key, call.precision)
        call.add(kernel, blocks, [*arguments, *self.numbers(call.precision)])


def _how(steps):
    """How elements of these strides lie."""
    if all(step == 0 for step in steps):
        return "one"
    return "dense" if steps == [1] else "steps"


def _width(first, arrays, how):
    """How many elements are loaded at once: 16 bytes of the first input, if all arrays begin where such loads may."""
    width = 16 // first.itemsize
    dense = [array for name, array in arrays.items() if how[name] == "dense"]
    aligned = all(array.address % min(16, width * array.itemsize) == 0 for array in dense)
    return width if aligned and how[next(iter(how))] == "dense" else 1
