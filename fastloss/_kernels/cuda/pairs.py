"""Pair losses on a GPU: rows, the columns that all share, and a row kernel, block by block; products by the arrays' own library.

Everything is queued on one stream, and the host waits for nothing. Blocks are summed without a divisor; that of a mean is computed
before them, on the GPU, and the results are divided at the end, so that gradients in half precision do not vanish. Similarities
are products (`dot`) only: the others, and losses of one column per row, are computed on the CPU.
"""

import math
from contextlib import nullcontext

from ...formula import PROBABILITIES
from .. import arrays
from ..cpu import blocks
from . import device, memory, sums
from .calls import Call, CallLayout, RelativeAddress
from .plan import GRAD, VALUE, stream_of
from .products import library_of
from .rows import count_weights

# Scratch memory for the similarities of a block, in bytes; if not even one row fits, that of one row. Each block reads the columns and
# adds to their gradient: it must be large enough for this to cost less than the products.
SCRATCH = 256 << 20
_NUMBERS = ("f32", "f64", "f16", "bf16")


class PairPlan:
    """One variant of a pair formula with its hyperparameters, as the CPU's: `kernel` is the plan of its row kernels."""

    def __init__(self, formula, there, kernel, row_names, ignore_index=None, stream=None):
        self.formula, self.who, self.there, self.kernel = formula, formula.name, there, kernel
        self.row_names = tuple(name for name in row_names if name != PROBABILITIES)
        self.ignore_index, self.stream = ignore_index, None if stream is None else stream_of(stream)

    def evaluate(self, want, inputs, sample_weight, reduction, normalizer, value_out, grad_out, hess_out, check):
        reduction = blocks.check_call(self.who, want, reduction, normalizer)
        if reduction == "none" and not want & VALUE:
            reduction = "sum"  # it has the same gradients
        given = {name: memory.take(self.who, name, value) for name, value in zip(self.there, inputs, strict=True)}
        if sample_weight is not None:
            given["sample_weight"] = memory.take(self.who, "sample_weight", sample_weight)
        self._check(given)
        first = given[self.there[0]]
        normalizer = self._normalizer(normalizer, first)
        stream = nullcontext() if self.stream is None else first.library.on(first.device, self.stream)
        library = library_of(self.who, self.there[0], first)
        with device.on(first.device), stream, library.no_gradients():
            outputs = _Outputs(self.who, given, library)
            rows = _Rows(self, given, library, "none" if reduction == "none" else "sum", check)
            gradients = None
            if want & GRAD:
                gradients = outputs.gradients([n for n in self.formula.differentiable if n in given], grad_out)
            value = of_rows = None
            if reduction == "none":
                value, of_rows = outputs.rows("value_out", value_out, first.shape[:-1], first.code, 0)
            elif value_out is not None:
                value = outputs.take("value_out", value_out, (), first.code)
            total = rows.run(of_rows, outputs.inside, self._divisor(rows, reduction, normalizer))
            if reduction != "none" and value is not None:
                value[...] = total
            outputs.finish()
        return tuple(result for result, bit in ((total if value is None else value, VALUE), (gradients, GRAD)) if want & bit)

    def _check(self, given):
        """Whether shapes, dtypes and places of the inputs agree."""
        who, domains, lengths = self.who, self.formula.input_domains, {}
        first_name, first = next(iter(given.items()))
        for name, array in given.items():
            if array.device != first.device:
                raise ValueError(f"{who}: {name} must be on GPU {first.device}, as {first_name}, got GPU {array.device}")
            if array.library is not first.library:
                raise TypeError(
                    f"{who}: {name} must be of {first.library.name}, as {first_name}, got {type(array.owner).__name__}"
                )
            if not hasattr(domains.get(name), "check_shape"):
                continue
            if array.code not in _NUMBERS:
                raise TypeError(f"{who}: {name} must be a floating-point array, got dtype {array.code}: convert it first")
            if array.code != first.code:
                raise TypeError(f"{who}: {name} must have {first_name}'s dtype {first.code}, got {array.code}")
            domains[name].check_shape(who, name, array.shape, lengths)
        lead, classes = first.shape[:-1], given[self.formula.shared[0]].shape[0]
        if "class_weight" in given and given["class_weight"].shape != (classes,):
            shape = given["class_weight"].shape
            raise ValueError(f"{who}: class_weight must have one number for each of the {classes} classes, got shape {shape}")
        name = self.formula.label
        self.is_soft = given[name].code[0] not in "iu"
        if self.is_soft and len(given[name].shape) != len(first.shape):
            raise TypeError(f"{who}: {name} must hold whole numbers, got dtype {given[name].code}")
        shapes = {name: (*lead, classes) if self.is_soft else lead, "sample_weight": lead}
        for name, shape in shapes.items():
            if name in given and memory.broadcast(given[name], shape) is None:
                raise ValueError(f"{who}: {name} must broadcast to the rows' shape {shape}, got {given[name].shape}")
        label = given[self.formula.label].shape
        if not self.is_soft and label != lead[len(lead) - len(label) :]:
            raise ValueError(
                f"{who}: {self.formula.label} must hold one label for each row, in their shape {lead}, got {label}"
            )

    def _normalizer(self, normalizer, first):
        if normalizer is None or (isinstance(normalizer, str) and normalizer == "samples"):
            return normalizer
        normalizer = arrays.check_normalizer(self.who, normalizer)
        arrays.check_divisor(self.who, normalizer, normalizer, first)
        return normalizer

    def _divisor(self, rows, reduction, normalizer):
        """What the sum is divided by, None where it is not: a number, or on the GPU what the rows count."""
        if reduction != "mean":
            return None
        if normalizer is None and (rows.weights is not None or not self.is_soft):
            return rows.total_weight()
        return float(rows.count) if normalizer in (None, "samples") else normalizer


class _Rows:
    """What is given of each row, and the blocks."""

    def __init__(self, plan, given, library, reduction, check):
        self.plan, self.given, self.library, self.reduction, self.check = plan, given, library, reduction, check
        formula, first = plan.formula, given[plan.there[0]]
        self.lead = first.shape[:-1]
        self.count, self.classes, self.features = math.prod(self.lead), given[formula.shared[0]].shape[0], first.shape[-1]
        self.x = library.rows(first.owner, first.shape, self.lead)
        self.weight, bias = (given[n].owner if n in given else None for n in formula.shared)
        self.bias = None if bias is None else library.wide(bias)
        shape = (*self.lead, self.classes) if plan.is_soft else self.lead
        self.target = library.rows(given[formula.label].owner, shape, self.lead)
        self.weights = library.rows(given["sample_weight"].owner, self.lead, self.lead) if "sample_weight" in given else None
        # Of rows that do not count nothing is to come through the products: 0 times infinity is NaN.
        self.counts = None if plan.is_soft else self.target != plan.ignore_index
        if self.weights is not None:
            self.counts = self.weights != 0 if self.counts is None else self.counts & (self.weights != 0)

    def total_weight(self):
        """What the rows count in a mean, as a 0-d array."""
        names = [n for n in (self.plan.formula.label, "sample_weight", "class_weight") if n in self.given]
        names = [n for n in names if n == "sample_weight" or not self.plan.is_soft]
        given = [self.given[self.plan.there[0]], *(self.given[n] for n in names)]
        placed = [array._replace(address=RelativeAddress(array.address, k)) for k, array in enumerate(given)]
        by_name = dict(zip(names, placed[1:], strict=True))
        call = Call(VALUE, placed, 1, True)
        label, call.weights = by_name.get(self.plan.formula.label), by_name.get("sample_weight")
        count_weights(call, self.lead, label, by_name.get("class_weight"), self.plan.ignore_index, self.classes)
        result, pair = call.result((), call.precision.name), call.total_weight
        call.add(sums.finish(call.precision, result.code, "number"), 1, [1, pair, 1.0, pair, result.address])
        return CallLayout(call, result.owner).bound(given, None)()

    def run(self, values, gradients, divisor):
        """All blocks: the sum of their values by the divisor, or each row's in `values`; the gradients, if there are any."""
        library, total = self.library, None
        size = blocks.even_size(self.count, SCRATCH // (self.classes * library.bytes_of_logit))
        logits = library.empty((size, self.classes), library.real)
        inverse = None if divisor is None else library.inverse(divisor)
        by_x, *of_shared = gradients or [None]
        for start, stop in blocks.spans(self.count, size):
            part = slice(start, stop)
            x = self.x[part] if self.counts is None else library.kept(self.x[part], self.counts[part])
            value, slope = self._block(x, logits[: stop - start], part, of_shared if gradients else None)
            if values is not None:
                values[part] = value
            else:
                total = value if total is None else total + value
            if slope is not None:
                slope = slope if inverse is None else slope * inverse
                by_x[part] = slope if self.counts is None else library.kept(slope, self.counts[part])
        for k in range(len(of_shared) if inverse is not None else 0):
            of_shared[k] *= inverse
        if total is None:
            total = library.zeros((), library.real)
        if divisor is None:
            return total
        return total * math.nan if isinstance(divisor, float) and divisor == 0 else total / divisor

    def _block(self, x, logits, part, of_shared):
        """The block's value, and the gradient of x; those of what rows share are added to `of_shared`."""
        library = self.library
        parts = library.parts(self.classes, self.features, SCRATCH // 2)
        for some in parts:
            library.multiply(x, self.weight[some].T, logits[:, some])
        if self.bias is not None:
            logits += self.bias
        value = self._by_rows(logits, part, with_gradient=of_shared is not None)
        if of_shared is None:
            return value, None
        slope, by_logits = library.zeros((len(x), self.features), library.real), library.factor(logits)
        for some in parts:
            library.accumulate(slope, by_logits[:, some], self.weight[some])
            library.accumulate(of_shared[0][some], by_logits[:, some].T, x)
        if self.bias is not None:
            of_shared[1] += logits.sum(0)
        return value, slope

    def _by_rows(self, logits, part, with_gradient):
        """The row kernel's value; the gradient of the similarities is written over them."""
        label, inputs = self.plan.formula.label, [logits]
        inputs += [self.target[part] if n == label else self.given[n].owner for n in self.plan.row_names[1:]]
        weights = None if self.weights is None else self.weights[part]
        want, out = (VALUE | GRAD, logits) if with_gradient else (VALUE, None)
        return self.plan.kernel.evaluate(want, tuple(inputs), weights, self.reduction, None, None, out, None, self.check)[0]


class _Outputs:
    """The arrays that results go into: given ones, checked, or new ones. `inside` is what the blocks write gradients into."""

    def __init__(self, who, given, library):
        self.who, self.given, self.library = who, given, library
        self.inside, self._copies, self._taken = [], [], {}

    def gradients(self, names, given):
        if given is None:
            given = (None,) * len(names)
        elif not isinstance(given, tuple | list) or len(given) != len(names):
            raise TypeError(f"{self.who}: grad_out must be {len(names)} arrays, one for each of {', '.join(names)}")
        results, first = [], next(iter(self.given))
        for k, (name, out) in enumerate(zip(names, given, strict=True)):
            like, title = self.given[name], f"grad_out[{k}]"
            if name == first:
                # Each block's is rounded as it is written.
                result, inside = self.rows(title, out, like.shape, like.code, 1, like)
            else:
                result = inside = self.take(title, out, like.shape, like.code)
                if like.code != self.library.code:
                    inside = self.library.empty(like.shape, self.library.real)
                    self._copies.append((result, inside))
                inside[...] = 0
            self.inside.append(inside)
            results.append(result)
        return tuple(results)

    def rows(self, title, out, shape, code, dims, may_be=None):
        """An array, and it with its leading dimensions as one."""
        result = self.take(title, out, shape, code, may_be)
        lead = shape[: len(shape) - dims]
        if len(lead) == 1:
            return result, result
        shape = (math.prod(lead), *shape[len(lead) :])
        array = memory.take(self.who, title, result)
        if array.strides == memory.contiguous(array.shape):
            return result, result.reshape(shape)
        self._copies.append((result, self.library.empty(shape, result.dtype)))
        return self._copies[-1]

    def take(self, title, out, shape, code, may_be=None):
        """The caller's array, if it is one to write into, or a new one."""
        like = next(iter(self.given.values()))
        if out is None:
            return memory.made(like, shape, code).owner
        array = memory.take(self.who, title, out)
        if array.shape != tuple(shape):
            raise ValueError(f"{self.who}: {title} must have shape {tuple(shape)}, got {array.shape}")
        if array.code not in ((code, self.library.code) if title == "value_out" else (code,)):
            raise ValueError(f"{self.who}: {title} must have dtype {code}, got {array.code}")
        if array.overlaps_itself():
            raise arrays.overlap_error(self.who, title, "itself")
        for name, other in {**self.given, **self._taken}.items():
            is_same = other is may_be and (array.address, array.strides) == (other.address, other.strides)
            if not is_same and array.shares_memory(other):
                raise arrays.overlap_error(self.who, title, name)
        self._taken[title] = array
        return out

    def finish(self):
        for result, inside in self._copies:
            result[...] = inside.reshape(result.shape)
