"""Row losses on a GPU: a call's arrays as rows, and the launches for them."""

import math
from dataclasses import replace
from functools import cache
from typing import NamedTuple

from ...formula.program import Program
from .. import arrays
from . import async_errors, device, folds, memory, predictions, sums, walk
from .device import THREADS, Kernel
from .plan import GRAD, HESS, Plan
from .row_access import RowKey
from .row_kernels import row_kernel
from .row_passes import stages

HVP = 8
_KINDS_OF_NUMBERS = ("label", "number")

# What a block of several that share a row has of it at least.
_SHARE = 8 if device.SIMULATED else 8192

_COUNT = """
def count_rows({arguments}):
    high = real(0)
    low = real(0)
    for i in range(cuda.blockIdx.x * THREADS + cuda.threadIdx.x, rows, cuda.gridDim.x * THREADS):
        {body}
        high, low = add_to(high, low, weight)
    high, low = fold_block(high, low)
    if cuda.threadIdx.x == 0:
        partials[2 * cuda.blockIdx.x] = high
        partials[2 * cuda.blockIdx.x + 1] = low
"""


@cache
def count_rows(precision, label, weights, class_weight, dims):
    """The kernel that adds up the rows' weights, by the codes of what there is of labels, weights and weights of classes."""
    real, names = precision.name, [name for name, code in (("label", label), ("weights", weights)) if code]
    arguments = {"rows": "i64"} | walk.arguments(names, dims)
    body = walk.offsets(names, dims)
    body.append(f"weight = from_{weights}(weights[at_weights])" if weights else "weight = real(1)")
    if label:
        arguments |= {"label": f"{label}*", "ignored": "i64", "length": "i64"}
        body += [f"named = label_{label}(label[at_label])", "inside = (named != ignored) & (named >= 0) & (named < length)"]
        body.append("weight = where(inside, weight, real(0))")
    if class_weight:
        arguments |= {"class_weight": f"{class_weight}*", "step": "i64"}
        body.append(f"weight = weight * from_{class_weight}(class_weight[(named if inside else int64(0)) * step])")
    if weights:
        arguments["weights"] = f"{weights}*"
    arguments["partials"] = f"{real}*"
    text = _COUNT.format(arguments=", ".join(arguments), body="\n        ".join(body))
    return Kernel(precision, "count_rows", text, arguments.values(), **sums.functions(precision))


def count_weights(call, shape, label, class_weight, ignore_index, length):
    """Lay out what adds up the weights of rows of a shape: those of the call, of the labels' classes, or both."""
    several = {"label": label, "weights": call.weights}
    several = {name: array for name, array in several.items() if array is not None}
    spans, steps = memory.collapsed(shape, [memory.broadcast(array, shape) for array in several.values()])
    codes = [array and array.code for array in (label, call.weights, class_weight)]
    arguments = walk.values(spans, steps)
    if label:
        arguments += [label.address, ignore_index, length]
    if class_weight:
        arguments += [class_weight.address, class_weight.strides[0]]
    if call.weights:
        arguments.append(call.weights.address)
    call.add_pair(count_rows(call.precision, *codes, len(spans)), math.prod(shape), arguments)


class RowPlan(Plan):
    """One call's hyperparameters and options. `kinds` says of each input that is there what it holds, as the CPU engine's plan has it."""

    def __init__(self, who, variant, vector, domains, names, kinds, axis, ignore_index):
        super().__init__(who, variant, vector, domains)
        self.names, self.kinds, self.axis, self.ignore_index = names, kinds, axis, ignore_index
        self._label = next((n for n, kind in kinds.items() if kind == "label"), None)
        self._lists = next((n for n, kind in kinds.items() if kind == "labels"), None)

    # --- what is given ------------------------------------------------------------------------------------------------------

    def _axis(self, first):
        return self.axis + len(first.shape) if self.axis < 0 else self.axis

    def _length(self, call):
        return call.inputs[0].shape[self._axis(call.inputs[0])]

    def weight_shape(self, call):
        return _without(call.inputs[0].shape, self._axis(call.inputs[0]))

    def weight_error(self, name, array, shape):
        return ValueError(f"{self.who}: {name} must broadcast to the rows' shape {shape}, got {array.shape}")

    def check_first(self, first):
        super().check_first(first)
        dims = len(first.shape)
        if not -dims <= self.axis < dims:
            raise ValueError(f"{self.who}: axis must be a dimension of {self.names[0]}, which has {dims}, got {self.axis}")
        if first.shape[self._axis(first)] == 0:
            raise ValueError(
                f"{self.who}: {self.names[0]} must have at least one element along axis {self._axis(first)}, got shape {first.shape}"
            )

    def check_input(self, name, array, first):
        kind, shape = self.kinds[name], _without(first.shape, self._axis(first))
        if kind in ("label", "labels") and array.code[0] not in "iu":
            raise TypeError(f"{self.who}: {name} must hold whole numbers, got dtype {array.code}")
        if kind == "class weight":
            length = first.shape[self._axis(first)]
            if array.shape != (length,):
                raise ValueError(
                    f"{self.who}: {name} must have one number for each of the {length} classes, got shape {array.shape}"
                )
        elif kind in _KINDS_OF_NUMBERS:
            if memory.broadcast(array, shape) is None:
                raise self.weight_error(name, array, shape)
            if kind == "label" and array.shape != shape[len(shape) - array.ndim :]:
                raise ValueError(
                    f"{self.who}: {name} must hold one label for each row, in their shape {shape}, got {array.shape}"
                )
        elif kind == "labels" and array.shape != first.shape:
            raise arrays.shape_error(self.who, name, array.shape, self.names[0], first.shape)
        else:
            super().check_input(name, array, first)

    def domains(self, call):
        yield from super().domains(call)
        if self._label:
            yield self._label, True
        if self._lists:
            yield self._lists, True

    def slot(self, name):
        if name in (self._label, self._lists) and name not in self._slots:
            what = "a class" if name == self._label else "a class, or -1 at the list's end"
            text = f"{self.who}: {name} must be {what}"
            self._slots[name] = async_errors.slot(
                lambda index: ValueError(f"{text}, got another number in row {index} (an earlier call)")
            )
        return super().slot(name)

    # --- what is divided by -------------------------------------------------------------------------------------------------

    def counts_by_weight(self, call):
        return call.weights is not None or self._label is not None

    def add_up_weights(self, call):
        given = dict(zip(self.names, call.inputs, strict=True))
        label, class_weight = given.get(self._label), given.get("class_weight") if self._label else None
        count_weights(call, self.weight_shape(call), label, class_weight, self.ignore_index, self._length(call))

    # --- launches -----------------------------------------------------------------------------------------------------------

    def _results(self, call, reduction, outs):
        if call.want & HVP:
            call.outputs = {}
            result = self._each(call, "hvp", "grad_out", outs[1], self.formula.differentiable[:1])
            return None, result, None
        return super()._results(call, reduction, outs)

    def others(self, call, names):
        """Arrays for what is wanted of the rows besides, by name."""
        known = [*self.variant.traced.others, "predicted", *(["correct"] if self._label else [])]
        for name in names:
            if name not in known:
                raise ValueError(
                    f"{self.who}: outputs besides the value and its derivatives must be among {', '.join(known)}, got {name!r}"
                )
            if name in self.variant.traced.others:
                call.outputs[name] = self._output(call, name, self.weight_shape(call), call.inputs[0].code)
        found = {name: call.outputs[name].owner for name in names if name in call.outputs}
        if not {"predicted", "correct"}.isdisjoint(names):
            found |= self._predict(call)
        return {name: found[name] for name in names}

    def _predict(self, call):
        """Lay out what finds each row's first largest element, and counts those that are the label's."""
        first, axis, shape = call.inputs[0], self._axis(call.inputs[0]), self.weight_shape(call)
        predicted, correct = (call.result(of, "i64") for of in (shape, ()))
        label = dict(zip(self.names, call.inputs, strict=True)).get(self._label)
        beside = [array for array in (label, call.weights if label else None) if array is not None]
        steps = [_without(first.strides, axis), *(memory.broadcast(array, shape) for array in (predicted, *beside))]
        spans, steps = memory.collapsed(shape, steps)
        rows, length = math.prod(shape), self._length(call)
        lanes = 1 if length <= folds.WARP else THREADS
        codes = first.code, label and label.code, call.weights.code if label and call.weights else None
        blocks = max(1, min(-(-rows // (THREADS // lanes)), device.blocks_at_once(call.number)))
        pairs = call.scratch(2 * blocks)
        arguments = [rows, length, *walk.values(spans, steps), first.strides[axis]]
        arguments += [array.address for array in (first, predicted, *beside)]
        kernel = predictions.first_largest(call.precision, *codes, len(spans), lanes)
        call.add(kernel, blocks, [*arguments, self.ignore_index, pairs])
        finish = sums.finish(call.precision, "i64", "number")
        call.add(finish, 1, [blocks, pairs, 1.0, pairs, correct.address])
        return {"predicted": predicted.owner, "correct": correct.owner}

    def launch(self, call):
        first, axis = call.inputs[0], self._axis(call.inputs[0])
        shape, length = self.weight_shape(call), self._length(call)
        given = dict(zip(self.names, call.inputs, strict=True))
        if call.weights:
            given["weights"] = call.weights
        given |= call.outputs
        placed = {name: self._placed(name, array, first.shape, axis, shape) for name, array in given.items()}
        spans, steps = memory.collapsed(shape, [rows for rows, _ in placed.values()])
        along = {name: step for name, (_, step) in placed.items() if step is not None}
        dense = all(step == 1 for step in along.values())
        lanes = self._lanes(length)
        letters = "p" if call.want & HVP else "vgh" if call.want & HESS else "vg" if call.want & GRAD else "v"
        key = RowKey(
            self.formula.roles(letters),
            call.sums,
            tuple((name, array.code, name in along) for name, array in given.items()),
            call.weights is not None,
            call.by_weights,
            tuple(self.domains(call)),
            lanes,
            self._width(first, given, dict(zip(given, steps, strict=True)), along, lanes) if dense else 1,
            dense,
            len(spans),
        )
        before = [math.prod(shape), length, *walk.values(spans, steps), *([] if dense else along.values())]
        before += [array.address for array in given.values()]
        before += [call.scratch(max(1, first.size)) for _ in range(self._scratches(key))]
        after = [call.total_weight if call.by_weights else call.scale]
        rows, most = math.prod(shape), device.blocks_at_once(call.number)
        segments = self._segments(key, rows, length, most)
        blocks = max(1, min(rows * segments if segments > 1 else -(-rows // (THREADS // lanes)), most))
        if call.sums:
            after.append(call.partials(blocks))
        if self._label:
            after.append(self.ignore_index)
        if any(ends for _, ends in key.domains):
            after += [call.flags, *(self.slot(name) for name, ends in key.domains if ends)]
        after += self.numbers(call.precision, length)
        if segments == 1:
            call.add(self.variant.kernel(row_kernel, key, call.precision), blocks, before + after)
            return
        # A row's blocks leave their folds in memory, for the next pass's kernel to put together.
        parts = [call.scratch(2 * rows * segments) for _ in range(_memory(self.variant, key.roles).folds)]
        for stage in _memory(self.variant, key.roles).stages:
            kernel = self.variant.kernel(row_kernel, replace(key, stage=stage), call.precision)
            call.add(kernel, blocks, [*before, segments, *parts, *after])

    def _segments(self, key, rows, length, most):
        """How many blocks share a row: several where rows alone are too few to keep the GPU busy."""
        if key.lanes != THREADS or rows * 4 > most or length < 2 * _SHARE or not _memory(self.variant, key.roles).stages:
            return 1
        return min(most // rows, length // _SHARE)

    def _placed(self, name, array, whole, axis, shape):
        """An array's strides from row to row, and its step along a row; None where it has one number for each."""
        kind = self.kinds.get(name, "row" if name.startswith(("grad_", "hess_", "hvp_", "label_")) else "number")
        if kind == "class weight":
            return (0,) * len(shape), array.strides[0]
        if kind in _KINDS_OF_NUMBERS:
            return memory.broadcast(array, shape), None
        strides = memory.broadcast(array, whole)
        return _without(strides, axis), strides[axis]

    def _lanes(self, length):
        """How many threads go along a row."""
        if length <= folds.WARP:
            return 1
        # Where rows take turns of their own, those of a block must not wait for each other.
        alone = self._lists or any(node.op == "iterate" for node in self.variant.nodes)
        return THREADS if alone or length > folds.WARP**2 else folds.WARP

    def _width(self, first, given, steps, along, lanes):
        """How many elements are loaded at once: 16 bytes of the first input, if every row begins where such loads may."""
        width = 16 // first.itemsize
        if lanes == 1 or self._lists:
            return 1
        for name in along:
            array, unit = given[name], min(16, width * given[name].itemsize)
            if array.address % unit or any(step * array.itemsize % unit for step in steps[name]):
                return 1
        return width

    def _scratches(self, key):
        """How many arrays of the first input's size the kernel keeps elements in."""
        kept = _memory(self.variant, key.roles)
        return kept.runs + (kept.outputs if self._lists else 0)


class RowMemory(NamedTuple):
    """What kernels for some outputs keep in memory: running sums, folds of parts of a row, outputs; and their stages."""

    runs: int
    folds: int
    outputs: int
    stages: tuple


@cache
def _memory(variant, roles):
    program = Program(variant.traced, roles)
    runs, folds_of_parts = (sum(len(getattr(here, kind)) for here in program.passes) for kind in ("runs", "folds"))
    return RowMemory(runs, folds_of_parts, len(program.passes[-1].writes), () if variant.formula.has_lists else stages(program))


def _without(several, axis):
    return (*several[:axis], *several[axis + 1 :])
