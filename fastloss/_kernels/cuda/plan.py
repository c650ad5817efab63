"""What calls of all losses have in common on a GPU: arrays taken and checked, results named, laid out once for arrays of a form."""

import math

from ...formula import graph
from ...formula.definition import F32
from ...formula.emit import uniforms
from ...formula.lazy import lazy
from ...formula.python import uniforms_text, variant_text
from .. import arrays, request
from ..jit import interpreted
from . import async_errors, device, memory
from .calls import Call, CallLayout, RelativeAddress
from .storage import STORAGES

VALUE, GRAD, HESS = 1, 2, 4
MOST_LAYOUTS = 64
LETTERS = {VALUE: "v", GRAD: "g", HESS: "h"}


class FormulaVariant:
    """A traced variant of a formula, and the kernels that were made of it."""

    def __init__(self, formula, choice):
        self.formula, self.traced = formula, formula.trace(choice)
        self._kernels = {}

    @lazy
    def nodes(self):
        """Everything that the variant computes."""
        return graph.walk(list(self.traced.outputs.values()))

    def kernel(self, write, key, precision):
        """The kernel for a key, written by `write(variant, key, precision)` when first asked for."""
        kernel = self._kernels.get((key, precision))
        if kernel is None:
            kernel = self._kernels[key, precision] = write(self, key, precision)
        return kernel

    def text(self, roles, name):
        """The scalar function of these outputs."""
        return variant_text(self.traced, roles, name, self.formula.source)

    def numbers(self, vector, length=0):
        """The uniforms for these hyperparameters and a row's length, in double."""
        if not uniforms(self.traced, list(self.traced.outputs.values())):
            return []
        return interpreted.uniforms(uniforms_text(self.traced, "numbers"), "numbers", [*vector, length])


class OnStream:
    """A plan whose calls go onto a stream, the library's present one if that is None; as the CPU engine's plans are called."""

    def __init__(self, plan, stream):
        self._plan, self._stream = plan, None if stream is None else stream_of(stream)

    def evaluate(self, want, inputs, sample_weight, reduction, normalizer, value_out, grad_out, hess_out, check, *others):
        results = self.prepare(
            want, inputs, sample_weight, reduction, normalizer, value_out, grad_out, hess_out, check, *others
        )()
        return (*(result for result in results[:3] if result is not None), *results[3:])

    def prepare(self, want, inputs, sample_weight, reduction, normalizer, value_out, grad_out, hess_out, check, *others):
        outs = value_out, grad_out, hess_out
        return self._plan.prepare(want, inputs, sample_weight, reduction, normalizer, outs, check, self._stream, *others)


class Plan:
    """A loss with its hyperparameters; `launch(call)`, of each shape of formula, lays out what computes it."""

    def __init__(self, who, variant, vector, domains):
        self.who, self.variant, self.formula, self.vector = who, variant, variant.formula, vector
        self._domains, self._slots, self._numbers, self._layouts = domains, {}, {}, {}
        self.names = self.formula.inputs

    def prepare(self, want, inputs, sample_weight, reduction, normalizer, outs, check, stream, others=()):
        """Look at a call's arrays and lay it out. `outs` are the arrays to write into: of the value, gradient and Hessian, or None."""
        if normalizer is not None or type(reduction) is not str or reduction not in request.REDUCTIONS:
            reduction, normalizer = self._check_reduction(reduction, normalizer)
        who, names = self.who, self.names
        given = [memory.take(who, name, x) for name, x in zip(names, inputs, strict=True)]
        if sample_weight is not None:
            given.append(memory.take(who, "sample_weight", sample_weight))
        before = len(given)
        titles = ()
        if outs[0] is not None or outs[1] is not None or outs[2] is not None:
            named = list(_named(outs, len(self.formula.differentiable) > 1))
            titles = tuple(title for title, _ in named)
            for title, out in named:
                given.append(memory.take(who, title, out))
                given[-1].library.check_writeable(who, title, out)
        key = want, reduction, normalizer, bool(check), others, titles, before, tuple([array.form() for array in given])
        layout = self._layouts.get(key)
        if layout is None:
            layout = self._lay_out(want, given, before, reduction, normalizer, outs, titles, check, others)
            if len(self._layouts) >= MOST_LAYOUTS:
                self._layouts.clear()
            self._layouts[key] = layout
        if layout.is_of_nothing:
            request.warn_empty_mean(self.who)
        if titles:
            self._check_apart([*names, "sample_weight"][:before], titles, given)
        with device.on(layout.number):
            return layout.bound(given, stream)

    def _lay_out(self, want, given, before, reduction, normalizer, outs, titles, check, others):
        placed = [array._replace(owner=k, address=RelativeAddress(array.address, k)) for k, array in enumerate(given)]
        call = Call(want, placed, len(self.names), check)
        self.check_first(call.inputs[0])
        for name, array in zip(self.names[1:], call.inputs[1:], strict=True):
            self._check_device(name, array, call)
            self.check_input(name, array, call.inputs[0])
        if before > len(self.names):
            self._take_weights(call, placed[before - 1])
        call.outs = dict(zip(titles, placed[before:], strict=True))
        for title, array in call.outs.items():
            self._check_device(title, array, call)
        with device.on(call.number):
            divisor = self._divisor(call, reduction, normalizer)
            results = self._results(call, reduction, outs)
            if others:
                results = (*results, self.others(call, others))
            self.launch(call)
            call.reduce_expanded()
            if call.sums:
                call.finish(divisor, call.value)
        return CallLayout(call, results)

    def _check_device(self, name, array, call):
        if array.device != call.number:
            raise ValueError(f"{self.who}: {name} must be on GPU {call.number}, as {self.names[0]}, got GPU {array.device}")

    def numbers(self, precision, length=0):
        """The uniforms, which the precision must be able to hold."""
        key = precision, length
        if key not in self._numbers:
            numbers = self.variant.numbers(self.vector, length)
            if precision is F32:
                request.check_single(self.who, numbers)
            self._numbers[key] = numbers
        return self._numbers[key]

    def slot(self, name):
        """Where kernels report what is not in an input's domain."""
        if name not in self._slots:
            domain = arrays.WEIGHTS if name == "weights" else self._domains[name]
            what = f"{self.who}: {'sample_weight' if name == 'weights' else name} must be {domain}"
            self._slots[name] = async_errors.slot(
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
        """Whether an input broadcasts to the first one, and has its dtype where it has a gradient."""
        if memory.broadcast(array, first.shape) is None:
            raise arrays.shape_error(self.who, name, array.shape, self.names[0], first.shape)
        if name in self.formula.differentiable and array.code != first.code:
            raise TypeError(f"{self.who}: {name} must have {self.names[0]}'s dtype {first.code}, got {array.code}")

    def _take_weights(self, call, given):
        shape, call.weights = self.weight_shape(call), given
        self._check_device("sample_weight", given, call)
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

    def _check_reduction(self, reduction, normalizer):
        """The reduction as a plain string, and the normalizer, as a number unless it is None or "samples"."""
        reduction = request.check_reduction(self.who, reduction, normalizer)
        is_number = normalizer is not None and not (isinstance(normalizer, str) and normalizer == "samples")
        return reduction, arrays.check_normalizer(self.who, normalizer) if is_number else normalizer

    def _divisor(self, call, reduction, normalizer):
        """What the sum is divided by; by how much gradients are scaled goes into the call."""
        call.by_weights = reduction == "mean" and normalizer is None and self.counts_by_weight(call)
        nothing = reduction == "mean" and normalizer in (None, "samples") and 0 in self.weight_shape(call)
        call.is_of_nothing = bool(nothing and call.want & VALUE)
        if call.by_weights:
            self.add_up_weights(call)
        if reduction != "mean" or call.by_weights:
            return 1.0
        divisor = float(math.prod(self.weight_shape(call)))
        if normalizer is not None and normalizer != "samples":
            divisor = normalizer
        call.scale = 1 / divisor if divisor else 0.0
        return divisor

    def _results(self, call, reduction, outs):
        """The numbers of what the caller gets: (value, gradient, Hessian), None where not asked for; the call is told where to write."""
        first = call.inputs[0]
        value_out, grad_out, hess_out = outs
        value = grads = hesses = None
        if call.want & VALUE:
            call.sums = reduction != "none"
            shape = () if call.sums else self.weight_shape(call)
            code = first.code if value_out is not None or not call.sums else call.precision.name
            call.value = self._output(call, "value_out", shape, code)
            value = call.value.owner
            if not call.sums:
                call.outputs["value"] = call.value
        if call.want & GRAD:
            grads = self._each(call, "grad", "grad_out", grad_out)
        if call.want & HESS:
            hesses = self._each(call, "hess", "hess_out", hess_out)
        return value, grads, hesses

    def _each(self, call, kind, title, out, names=None):
        """An output for each differentiable input; a tuple if there are several."""
        names = self.formula.differentiable if names is None else names
        several = len(names) > 1
        if out is not None and isinstance(out, tuple | list) != several:
            wanted = f"{len(names)} arrays, one for each of {', '.join(names)}" if several else "a CUDA array"
            raise TypeError(f"{self.who}: {title} must be {wanted}, got {type(out).__name__}")
        if several and out is not None and len(out) != len(names):
            raise TypeError(
                f"{self.who}: {title} must be {len(names)} arrays, one for each of {', '.join(names)}, got {len(out)}"
            )
        owners = []
        for k, name in enumerate(names):
            like = call.inputs[self.names.index(name)]
            result = self._output(call, f"{title}[{k}]" if several else title, like.shape, like.code)
            call.outputs[f"{kind}_{name}"] = result if like.shape == call.inputs[0].shape else call.expanded(result)
            owners.append(result.owner)
        return tuple(owners) if several else owners[0]

    def _output(self, call, title, shape, code):
        """A new array, or the caller's, which must be of that shape and dtype."""
        array = call.outs.get(title)
        if array is None:
            return call.result(shape, code)
        if array.shape != tuple(shape):
            raise ValueError(f"{self.who}: {title} must have shape {tuple(shape)}, got {array.shape}")
        if array.code != code:
            raise ValueError(f"{self.who}: {title} must have dtype {code}, got {array.code}")
        if array.overlaps_itself():
            raise arrays.overlap_error(self.who, title, "itself")
        return array

    def _check_apart(self, names, titles, given):
        """An output may be an input, element for element; it may not otherwise share memory with one, or with another output."""
        extents = [array.extent() for array in given]
        for k in range(len(names), len(given)):
            low, high = extents[k]
            for other in range(k):
                other_low, other_high = extents[other]
                if low < other_high and other_low < high and given[k].size and given[other].size:
                    same = given[k].address == given[other].address and given[k].form() == given[other].form()
                    if not same or other >= len(names):
                        raise arrays.overlap_error(self.who, titles[k - len(names)], [*names, *titles][other])


def _named(outs, several):
    """(title, array) of each array to write into; `several` says whether each output is an array for each of several inputs."""
    for title, out in zip(("value_out", "grad_out", "hess_out"), outs, strict=True):
        if several and isinstance(out, tuple | list):
            yield from ((f"{title}[{k}]", one) for k, one in enumerate(out) if one is not None)
        elif out is not None:
            yield title, out


def stream_of(given):
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
