"""The tensors of an optimizer on a GPU: looked at once, stepped by a few launches on its library's present stream."""

import bisect
import itertools
import math
import sys

import numpy as np

from .. import arrays
from . import device, memory, squares, step_numbers, updates
from .squares import SQUARES
from .storage import STORAGES
from .update_table import CHUNK, FIXED, ROOM
from .updates import AVERAGE, COPY, REMAINDER, Mixture

# Layouts that are kept: of gradients that change their dtypes or alignment from step to step.
_MOST_LAYOUTS = 8
_COLUMNS = {"remainder": REMAINDER, "average": AVERAGE, "copy": COPY}


def _inverse(scale):
    """The inverse of a scale, as a product of two normal numbers: of one and 1 where it is one itself."""
    if sys.float_info.min <= 1 / scale <= sys.float_info.max:
        return 1 / scale, 1.0
    significand, exponent = math.frexp(scale)
    return math.ldexp(1 / significand, -exponent // 2), math.ldexp(1.0, -exponent - -exponent // 2)


class Tensor:
    """One parameter, what is rewritten with it, and the lane whose numbers it takes."""

    def __init__(self, lane, name, param, states, beside):
        self.lane, self.name, self.param, self.states = lane, name, param, states
        self.seed = beside.get("seed")
        self.beside = {_COLUMNS[place]: array for place, array in beside.items() if place != "seed"}

    def written(self):
        """All arrays, in the order of the table's columns."""
        return [self.param, *self.states, *(self.beside[n] for n in (REMAINDER, AVERAGE, COPY) if n in self.beside)]

    def mixture(self, grad):
        """How its arrays lie in memory."""
        code = {name: array.code for name, array in self.beside.items()}
        return Mixture(
            self.param.code,
            grad.code,
            tuple(state.code for state in self.states),
            REMAINDER in code,
            code.get(AVERAGE),
            code.get(COPY),
            self.seed is not None,
            updates.width_of(self.param.code, [*self.written(), grad]),
        )


class Upload:
    """Numbers in a GPU's memory that the host writes now and then."""

    def __init__(self, like, count, code):
        self.array = memory.made(like, (count,), code)
        self._pinned = device.pinned(count, STORAGES[code].dtype)
        self._held = None

    def write(self, values, stream, captures):
        """Copy them onto the GPU if they are others than before."""
        held = values.tobytes()
        if held == self._held:
            return
        if captures:
            # Copied when the graph is replayed, from memory that stays.
            self._pinned[: len(values)] = values
            device.put(self.array.address, self._pinned[: len(values)], stream)
            self._held = None
        else:
            device.put(self.array.address, values, stream)
            self._held = held


class Family:
    """Tensors that one kernel steps: their part of the table."""

    def __init__(self, variant, mixture, members, tensors, lanes):
        self.variant, self.mixture, self.members = variant, mixture, members
        self.columns = FIXED + len(tensors[members[0]].written())
        rows, chunks = [], []
        for row, k in enumerate(members):
            tensor = tensors[k]
            seed = np.uint64(tensor.seed or 0).view(np.int64)
            place = lanes + k if variant.is_whole else tensor.lane
            rows.append(
                [tensor.param.size, place, seed, tensor.lane, len(chunks), *(array.address for array in tensor.written())]
            )
            chunks += [(row, first) for first in range(0, tensor.param.size, CHUNK)]
        self.blocks = len(chunks)
        self.numbers = np.concatenate([np.array(part, np.int64).reshape(-1) for part in (rows, chunks)])

    def place(self, like, stream):
        """Copy the table onto the GPU, where it stays."""
        self._table = memory.made(like, (max(1, len(self.numbers)),), "i64")
        device.put(self._table.address, self.numbers, stream)
        self.table = self._table.address
        self.chunks = self.table + 8 * len(self.members) * self.columns
        self.grads = Upload(like, len(self.members), "i64")
        count = SQUARES * len(self.variant.folds) * self.blocks
        self.sums = memory.made(like, (max(1, count),), self.mixture.precision.name)


class TensorTables:
    """The families of tensors for gradients of some dtypes and alignment, and where the blocks' sums of squares go."""

    def __init__(self, tensors, variants, grads, lanes, like, stream):
        families = {}
        for k, (tensor, grad) in enumerate(zip(tensors, grads, strict=True)):
            if tensor.param.size:
                families.setdefault((variants[tensor.lane], tensor.mixture(grad)), []).append(k)
        self.families = [Family(*key, members, tensors, lanes) for key, members in families.items()]
        self.blocks = {"f32": 0, "f64": 0}
        for family in self.families:
            family.place(like, stream)
            family.first = self.blocks[family.mixture.precision.name]
            self.blocks[family.mixture.precision.name] += family.blocks
        self.partials = {code: memory.made(like, (max(1, SQUARES * count),), code) for code, count in self.blocks.items()}


class Sweep:
    """The tensors of an optimizer, as the CPU engine's `Sweep` has them: (bucket, name, param, states, extras), all arrays on one GPU."""

    def __init__(self, kept, who, tensors):
        self.kept, self.who = kept, who
        self.tensors = [Tensor(*tensor) for tensor in tensors]
        self.first = self.tensors[0].param
        self.lanes = 1 + max(tensor.lane for tensor in self.tensors)
        self._check_apart()
        with device.on(self.first.device):
            self.numbers = Upload(self.first, self.lanes * ROOM, "f64")
            # Of lanes, and of tensors that a rule looks at as a whole.
            count = (self.lanes + len(self.tensors)) * ROOM
            self.uniforms = {code: memory.made(self.first, (count,), code) for code in ("f32", "f64")}
        self._layouts, self._taken = {}, [(None, None)] * len(self.tensors)

    def step(self, args):
        """Launch one step of these `StepOptions`: a result with the norm, or None, and whether it was left out: False or an array.

        Left out is None where the step was captured, and not taken yet. The counts are the caller's to replace.
        """
        variants = args.variants
        taken = [self._gradient(k, grad) for k, grad in enumerate(args.grads)]
        stream, first = self.first.library.stream(self.first.device), self.first
        with device.on(first.device):
            captures = device.captures(stream)
            if captures and any(variant.rule.carried for variant in variants):
                raise RuntimeError(f"{self.who}: a step must not be captured, for it carries numbers that the host computes")
            layout = self._layout(variants, taken, stream, captures)
            for family in layout.families:
                family.grads.write(np.array([taken[k].address for k in family.members], np.int64), stream, captures)
            kinds = list(dict.fromkeys(variants))
            self.numbers.write(self._numbers(variants, kinds, args), stream, captures)
            self.kept.count(args.step, args.skips, stream, captures)
            by = _inverse(args.grad_scale)
            norm, parts = self._measure(layout, by, stream) if args.measures else (None, None)
            skipped = memory.made(first, (), "i64") if args.skips else None
            step_numbers.advance(tuple(kinds)).launch(
                1,
                min(self.lanes, device.THREADS),
                stream,
                [
                    self.lanes,
                    self.numbers.array.address,
                    self.kept.tally.address,
                    *by,
                    int(args.measures),
                    int(args.skips),
                    args.max_norm,
                    *((norm.address, parts.address) if args.measures else [self.numbers.array.address] * 2),
                    skipped.address if args.skips else self.kept.tally.address,
                    *(self.uniforms[code].address for code in ("f32", "f64")),
                ],
            )
            for family in layout.families:
                if family.variant.is_whole:
                    self._look(family, args.clip_value, stream)
            for family in layout.families:
                self._update(family, args.clip_value, args.ema_weight, stream)
        return args.result(norm and norm.owner, skipped.owner if args.skips else None if captures else False, None)

    def _update(self, family, limit, ema_weight, stream):
        uniforms = self.uniforms[family.mixture.precision.name].address
        table = [family.chunks, family.table, family.grads.array.address]
        kernel = family.variant.kernel(family.mixture)
        kernel.launch(family.blocks, device.THREADS, stream, [*table, self.kept.tally.address, uniforms, limit, ema_weight])

    def _look(self, family, limit, stream):
        """Launch what looks at each tensor of a family as a whole: numbers of its own, sums, the numbers that these make."""
        variant, mixture, code = family.variant, family.mixture, family.mixture.precision.name
        uniforms = {each: array.address for each, array in self.uniforms.items()}
        for has_sums in range(1 + bool(variant.folds)):
            if has_sums:
                table = [family.chunks, family.table, family.grads.array.address, self.kept.tally.address]
                fold = variant.fold(mixture)
                fold.launch(family.blocks, device.THREADS, stream, [*table, uniforms[code], limit, family.sums.address])
            numbers = [self.numbers.array.address, self.kept.tally.address, has_sums, family.sums.address, *uniforms.values()]
            whole = step_numbers.whole(variant, mixture.precision)
            whole.launch(len(family.members), device.THREADS, stream, [family.table, family.columns, *numbers])

    def _measure(self, layout, by, stream):
        """Launch what makes the norm of all gradients: as it is told, and as parts that no power of a gradient is beyond."""
        norm, parts = memory.made(self.first, (), "f64"), memory.made(self.first, (2,), "f64")
        for family in layout.families:
            mixture = family.mixture
            partials = layout.partials[mixture.precision.name]
            kernel = squares.measure(mixture.precision, mixture.grad, mixture.width)
            place = partials.address + partials.itemsize * SQUARES * family.first
            table = [family.chunks, family.table, family.grads.array.address]
            kernel.launch(family.blocks, device.THREADS, stream, [*table, family.columns, place])
        sums = [x for code in ("f32", "f64") for x in (layout.blocks[code], layout.partials[code].address)]
        squares.total().launch(1, device.THREADS, stream, [*sums, *by, norm.address, parts.address])
        return norm, parts

    def _layout(self, variants, taken, stream, captures):
        key = (*variants, *((grad.code, grad.address % 16) for grad in taken))
        if key not in self._layouts:
            if captures:
                raise RuntimeError(
                    f"{self.who}: a step must have been taken, with gradients like these, before one is captured"
                )
            if len(self._layouts) >= _MOST_LAYOUTS:
                self._layouts.clear()
            self._layouts[key] = TensorTables(self.tensors, variants, taken, self.lanes, self.first, stream)
        return self._layouts[key]

    def _numbers(self, variants, kinds, args):
        """Of each bucket its variant, the sign of its gradients and its hyperparameters, as `advance` takes them."""
        numbers = np.zeros((self.lanes, ROOM))
        for row, variant, vector, sign in zip(numbers, variants, args.vectors, args.signs, strict=True):
            row[0], row[1] = kinds.index(variant), sign
            row[3 : 2 + len(vector)] = vector[1:]  # the step's number is the GPU's
        return numbers.reshape(-1)

    def _gradient(self, k, given):
        """A tensor's gradient, looked at if it is not the one of the last step."""
        last, array = self._taken[k]
        if given is last and not array.library.has_moved(given, array.address, array.shape):
            return array
        tensor = self.tensors[k]
        name = f"the gradient of {tensor.name}"
        array = memory.take(self.who, name, given)
        if array.code not in ("f32", "f64", "f16", "bf16"):
            raise TypeError(f"{self.who}: {name} must be a floating-point array, got dtype {STORAGES[array.code].raw}")
        if array.shape != tensor.param.shape:
            raise ValueError(f"{self.who}: {name} must have its shape {tensor.param.shape}, got {array.shape}")
        self.kept.check_place(name, array)
        if array.size and self._touches(array):
            raise arrays.overlap_error(self.who, name, "a parameter or its state")
        self._taken[k] = given, array
        return array

    def _check_apart(self):
        """No memory may be written twice in a step."""
        spans = [(*array.extent(), tensor.name) for tensor in self.tensors for array in tensor.written() if array.size]
        spans.sort(key=lambda span: span[:2])
        for (_, high, _), (low, _, name) in itertools.pairwise(spans):
            if low < high:
                raise arrays.overlap_error(self.who, name, "another parameter or state")
        self._starts, self._ends = [low for low, _, _ in spans], [high for _, high, _ in spans]

    def _touches(self, array):
        """Whether a gradient lies in memory that the step writes."""
        low, high = array.extent()
        k = bisect.bisect_right(self._ends, low)
        return k < len(self._starts) and self._starts[k] < high
