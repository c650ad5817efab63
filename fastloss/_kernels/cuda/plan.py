"""What calls of all losses have in common on a GPU: arrays taken and checked, results made, weights added up, launches in order."""

import math
import warnings
from functools import cache, cached_property

import numpy as np

from ...formula import graph
from ...formula.definition import F32, F64
from ...formula.emit import uniforms
from ...formula.program import Program
from ...formula.python import uniforms_text
from .. import arrays, interpreted
from . import device, faults, memory, sums, walk
from .storage import STORAGES

VALUE, GRAD, HESS = 1, 2, 4
LETTERS = {VALUE: "v", GRAD: "g", HESS: "h"}


class Variant:
    """A traced variant of a formula, and its kernels by form, each made at its first use."""

    def __init__(self, formula, choice):
        self.formula, self.traced = formula, formula.trace(choice)
        self.kernel = cache(self.kernel)
        self.kept = cache(self.kept)

    @cached_property
    def nodes(self):
        """Everything that the variant computes."""
        return graph.walk(list(self.traced.outputs.values()))

    def kept(self, roles):
        """How many running sums a row formula's kernel keeps for these outputs, and how many outputs lie along a row."""
        program = Program(self.traced, roles)
        return sum(len(here.runs) for here in program.passes), len(program.passes[-1].writes)

    def kernel(self, form, precision):
        return form.kernel(self, precision)

    def numbers(self, vector, length=0):
        """The uniforms for these hyperparameters and a row's length, in double."""
        if not uniforms(self.traced, list(self.traced.outputs.values())):
            return []
        return interpreted.uniforms(uniforms_text(self.traced, "numbers"), "numbers", [*vector, length])


class OnStream:
    """A plan whose calls go onto a stream, the library's present one if that is None; as the CPU engine's plans are called."""

    def __init__(self, plan, stream):
        self._plan, self._stream = plan, stream

    def evaluate(self, want, inputs, sample_weight, reduction, normalizer, value_out, grad_out, hess_out, check, *others):
        return self.prepare(want, inputs, sample_weight, reduction, normalizer, value_out, grad_out, hess_out, check, *others)()

    def prepare(self, want, inputs, sample_weight, reduction, normalizer, value_out, grad_out, hess_out, check, *others):
        outs = value_out, grad_out, hess_out
        return self._plan.prepare(want, inputs, sample_weight, reduction, normalizer, outs, check, self._stream, *others)


class Prepared:
    """A call that was looked at and laid out: calling it launches it again on the same arrays, and returns the same results."""

    def __init__(self, call, results):
        self._number, self._stream, self._launches, self._kind = call.number, call.stream, call.launches, call.kind
        self._kept, self.results = call.kept, results

    def __call__(self):
        faults.raise_reported(self._number)
        with device.on(self._number):
            for kernel, blocks, arguments, shared in self._launches:
                kernel.launch(blocks, device.THREADS, self._stream, arguments, shared)
        self._kind.finish(self._stream)
        return self.results


class Call:
    """One call while it is laid out."""

    def __init__(self, want, inputs, stream):
        first = inputs[0]
        self.want, self.inputs, self.kind = want, inputs, first.kind
        self.number, self.stream = first.device, first.kind.stream(first) if stream is None else _stream(stream)
        self.precision = F64 if first.code == "f64" else F32
        self.outputs, self.weights, self.by_weights = {}, None, False
        self.scale, self.total_weight, self.sums = 1.0, None, False
        self.launches, self.kept = [], []
        self.count = first.size

    def arrays(self):
        return [*self.inputs, *([self.weights] if self.weights else []), *self.outputs.values()]

    @property
    def flags(self):
        return faults.page(self.number).address

    def add(self, kernel, blocks, arguments, shared=0):
        self.launches.append((kernel, blocks, arguments, shared))

    def blocks(self, width, count=None):
        """So many blocks for so many elements, never more than are at work at once."""
        count = self.count if count is None else count
        return max(1, min(-(-count // (width * device.THREADS)), device.blocks_at_once(self.number)))

    def scratch(self, count, code=None):
        """The address of new memory for so many numbers."""
        array = self.kind.new(self.inputs[0], (count,), code or self.precision.name)
        self.kept.append(array.owner)
        return array.address

    def partials(self, blocks):
        """Memory for a pair of each block; the last one's count is what is to be folded."""
        self.folded, self.pairs = blocks, self.scratch(2 * blocks)
        return self.pairs

    def sum_weights(self, shape):
        """Lay out the sum of the weights as they are seen from a shape."""
        shape, (steps,) = memory.collapsed(shape, [memory.broadcast(self.weights, shape)])
        kernel = sums.sum_weights(self.precision, self.weights.code, len(shape))
        self.add_pair(kernel, math.prod(shape), [*walk.values(shape, [steps]), self.weights.address])

    def add_pair(self, kernel, count, arguments):
        """Lay out a kernel that adds up what a mean divides by, and what makes one pair of the blocks' sums."""
        blocks = self.blocks(1, count)
        pairs, self.total_weight = self.scratch(2 * blocks), self.scratch(2)
        self.add(kernel, blocks, [count, *arguments, pairs])
        self.add(sums.finish(self.precision, self.precision.name, "pair"), 1, [blocks, pairs, 1.0, pairs, self.total_weight])

    def finish(self, divisor, result):
        """Launch what makes the value of the blocks' sums."""
        divides = "weights" if self.by_weights else "number"
        kernel = sums.finish(self.precision, result.code, divides)
        self.add(kernel, 1, [self.folded, self.pairs, divisor, self.total_weight or self.pairs, result.address])


class Plan:
    """A loss with its hyperparameters; `launch(call)`, of each shape of formula, lays out what computes it."""

    def __init__(self, who, variant, vector, domains):
        self.who, self.variant, self.formula, self.vector = who, variant, variant.formula, vector
        self._domains, self._slots, self._numbers = domains, {}, {}
        self.names = self.formula.inputs

    def prepare(self, want, inputs, sample_weight, reduction, normalizer, outs, check, stream, others=()):
        """Look at a call's arrays and lay it out. `outs` are the arrays to write into: of the value, gradient and Hessian, or None."""
        taken = [memory.take(self.who, name, x) for name, x in zip(self.names, inputs, strict=True)]
        self.check_first(taken[0])
        for name, array in zip(self.names[1:], taken[1:], strict=True):
            if array.device != taken[0].device:
                raise ValueError(
                    f"{self.who}: {name} must be on GPU {taken[0].device}, as {self.names[0]}, got GPU {array.device}"
                )
            self.check_input(name, array, taken[0])
        call = Call(want, taken, stream)
        call.checks = check
        with device.on(call.number):
            self._take_weights(call, sample_weight)
            divisor = self._divisor(call, reduction, normalizer)
            results = self._results(call, reduction, outs)
            if others:
                results = (*results, self.others(call, others))
            self.launch(call)
            if call.sums:
                call.finish(divisor, call.value)
        return Prepared(call, results)

    def numbers(self, precision, length=0):
        """The uniforms, which the precision must be able to hold."""
        key = precision, length
        if key not in self._numbers:
            numbers = self.variant.numbers(self.vector, length)
            if precision is F32:
                self._check_single(numbers)
            self._numbers[key] = numbers
        return self._numbers[key]

    def slot(self, name):
        """Where kernels report what is not in an input's domain."""
        if name not in self._slots:
            domain = arrays.WEIGHTS if name == "weights" else self._domains[name]
            what = f"{self.who}: {'sample_weight' if name == 'weights' else name} must be {domain}"
            self._slots[name] = faults.slot(
                lambda index: ValueError(f"{what}, got another number at index {index} (an earlier call)")
            )
        return self._slots[name]

    def domains(self, call):
        """(input, its closed ends or None) for the kernel to look at."""
        domains = [(name, self._domains.get(name) if call.checks else None) for name in self.names]
        if call.weights:
            domains.append(("weights", arrays.WEIGHTS))
        for name, domain in domains:
            ends = domain and (domain.ends32 if call.precision is F32 else domain.ends64)
            yield name, ends and (*ends, domain.nan_is_outside)

    def check_first(self, first):
        """Whether the first input is what gradients can be of."""
        if first.code not in ("f32", "f64", "f16", "bf16"):
            raise TypeError(
                f"{self.who}: {self.names[0]} must be a floating-point array, got dtype {STORAGES[first.code].raw}: convert it first"
            )

    def check_input(self, name, array, first):
        """Whether an input agrees with the first one in shape, and in dtype where it has a gradient."""
        if name in self.formula.differentiable:
            if array.shape != first.shape:
                raise ValueError(
                    f"{self.who}: {name} must have {self.names[0]}'s shape {first.shape} to receive a gradient, got {array.shape}"
                )
            if array.code != first.code:
                raise TypeError(f"{self.who}: {name} must have {self.names[0]}'s dtype {first.code}, got {array.code}")
        elif memory.broadcast(array, first.shape) is None:
            raise arrays.shape_error(self.who, name, array.shape, self.names[0], first.shape)

    def _take_weights(self, call, given):
        if given is None:
            return
        shape = self.weight_shape(call)
        call.weights = memory.take(self.who, "sample_weight", given)
        if memory.broadcast(call.weights, shape) is None:
            raise self.weight_error("sample_weight", call.weights, shape)

    def weight_shape(self, call):
        return call.inputs[0].shape

    def weight_error(self, name, array, shape):
        """What is said of an array that does not broadcast to the weights' shape."""
        return arrays.shape_error(self.who, name, array.shape, self.names[0], shape)

    def counts_by_weight(self, call):
        """Whether what a mean divides by is added up on the GPU."""
        return call.weights is not None

    def add_up_weights(self, call):
        """Lay out what adds it up."""
        call.sum_weights(self.weight_shape(call))

    def _divisor(self, call, reduction, normalizer):
        """What the sum is divided by; by how much gradients are scaled goes into the call."""
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f"{self.who}: reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
        if normalizer is not None and reduction != "mean":
            raise ValueError(f"{self.who}: normalizer goes with reduction='mean', got reduction={reduction!r}")
        call.by_weights = reduction == "mean" and normalizer is None and self.counts_by_weight(call)
        if reduction == "mean" and normalizer in (None, "samples") and call.want & VALUE and 0 in self.weight_shape(call):
            said = "the mean of nothing is nan (no elements, or all weights are zero)"
            warnings.warn(f"{self.who}: {said}", RuntimeWarning, stacklevel=6)
        if call.by_weights:
            self.add_up_weights(call)
        if reduction != "mean" or call.by_weights:
            return 1.0
        divisor = float(math.prod(self.weight_shape(call)))
        if normalizer is not None and normalizer != "samples":
            divisor = arrays.check_normalizer(self.who, normalizer)
        call.scale = 1 / divisor if divisor else 0.0
        return divisor

    def _results(self, call, reduction, outs):
        """What the caller gets: (value, gradient, Hessian), None where not asked for; the call is told where to write."""
        first = call.inputs[0]
        value_out, grad_out, hess_out = outs
        value = grads = hesses = None
        if call.want & VALUE:
            call.sums = reduction != "none"
            shape = () if call.sums else self.weight_shape(call)
            code = first.code if value_out is not None or not call.sums else call.precision.name
            call.value = self._output(call, "value_out", value_out, shape, code)
            value = call.value.owner
            if not call.sums:
                call.outputs["value"] = call.value
        if call.want & GRAD:
            grads = self._each(call, "grad", grad_out)
        if call.want & HESS:
            hesses = self._each(call, "hess", hess_out)
        self._check_apart(call)
        return value, grads, hesses

    def _each(self, call, kind, out, names=None):
        """An output for each differentiable input; a tuple if there are several."""
        names = self.formula.differentiable if names is None else names
        several = len(names) > 1
        if several and out is not None and (not isinstance(out, tuple | list) or len(out) != len(names)):
            raise TypeError(f"{self.who}: {kind}_out must be {len(names)} arrays, one for each of {', '.join(names)}")
        outs = out if several and out is not None else [out] * len(names)
        for k, (name, one) in enumerate(zip(names, outs, strict=True)):
            title = f"{kind}_out[{k}]" if several else f"{kind}_out"
            like = call.inputs[self.names.index(name)]
            call.outputs[f"{kind}_{name}"] = self._output(call, title, one, like.shape, like.code)
        owners = tuple(call.outputs[f"{kind}_{name}"].owner for name in names)
        return owners if several else owners[0]

    def _output(self, call, title, given, shape, code):
        """A new array, or the caller's, which must be of that shape and dtype."""
        first = call.inputs[0]
        if given is None:
            return call.kind.new(first, shape, code)
        array = memory.take(self.who, title, given)
        if array.shape != tuple(shape):
            raise ValueError(f"{self.who}: {title} must have shape {tuple(shape)}, got {array.shape}")
        if array.code != code:
            raise ValueError(f"{self.who}: {title} must have dtype {code}, got {array.code}")
        array.kind.check_writeable(self.who, title, given)
        if _overlaps_itself(array):
            raise arrays.overlap_error(self.who, title, "itself")
        return array

    def _check_apart(self, call):
        """An output may be an input, element for element; it may not otherwise share memory with one, or with another output."""
        outputs, inputs = list(call.outputs.items()), list(zip(self.names, call.inputs, strict=True))
        if call.weights:
            inputs.append(("sample_weight", call.weights))
        for k, (role, array) in enumerate(outputs):
            for name, other in [*inputs, *outputs[:k]]:
                if other.size and array.size and _overlap(array, other):
                    same = (array.address, array.shape, array.strides) == (other.address, other.shape, other.strides)
                    if not same or name in call.outputs or array.code != other.code:
                        raise arrays.overlap_error(self.who, f"the output for {role}", name)

    def _check_single(self, numbers):
        for number in numbers:
            with np.errstate(all="ignore"):
                held = float(np.float32(number))
            if (held == 0) != (number == 0) or (held - held != 0) != (number - number != 0):
                raise ValueError(
                    f"{self.who}: hyperparameters, and what the formula makes of them, must be within float32's range "
                    f"for a float32 input, got {number:g}"
                )


def _stream(given):
    """A stream's address: a whole number, or an object of a library that has one."""
    if isinstance(given, int):
        return given
    for name in ("cuda_stream", "ptr", "handle"):
        found = getattr(given, name, None)
        if found is not None:
            return int(getattr(found, "value", found) or 0)
    if hasattr(given, "__cuda_stream__"):
        return given.__cuda_stream__()[1]
    raise TypeError(f"stream must be a CUDA stream or its address, got {type(given).__name__}")


def _overlap(a, b):
    (low, high), (other_low, other_high) = a.extent(), b.extent()
    return low < other_high and other_low < high


def _overlaps_itself(array):
    if array.size == 0:
        return False
    reach = 1
    for step, n in sorted((abs(step), n) for step, n in zip(array.strides, array.shape, strict=True) if n > 1):
        if step < reach:
            return True
        reach += (n - 1) * step
    return False
