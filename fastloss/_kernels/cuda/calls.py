"""Calls on a GPU: laid out while it is not said yet where arrays lie, then launched on some, again and again.

To lay a call out takes some hundred microseconds of Python; what it comes to depends on its arrays' forms alone.
"""

import math
from contextlib import nullcontext

from ...formula.definition import F32, F64
from . import async_errors, device, folds, memory, sums, walk

_REAL_SIZES = {"f32": 4, "f64": 8}
_ALIGNMENT = 256


class RelativeAddress(int):
    """An address while a call is laid out: so far behind the beginning of the array of that number."""

    def __new__(cls, address, number, offset=0):
        place = super().__new__(cls, address)
        place.number, place.offset = number, offset
        return place


class Prepared:
    """A call that was looked at and laid out: calling it launches it again on the same arrays, and returns the same results."""

    def __init__(self, layout, stream, addresses, kept, results):
        self._number, self._library, self._stream, self._kept, self.results = (
            layout.number,
            layout.library,
            stream,
            kept,
            results,
        )
        self._launches = []
        for kernel, blocks, arguments, shared, places in layout.launches:
            own = arguments.copy()
            for k, number, offset in places:
                own[k] = addresses[number] + offset
            self._launches.append((kernel, blocks, own, shared))

    def __call__(self):
        async_errors.raise_reported(self._number)
        with device.on(self._number):
            self.launch()
        if not self._library.has_streams:
            device.wait(self._stream)
        return self.results

    def launch(self):
        for kernel, blocks, arguments, shared in self._launches:
            kernel.launch(blocks, device.THREADS, self._stream, arguments, shared)


class CallLayout:
    """What a call comes to for arrays of certain forms, wherever they lie: which memory is new, and the launches."""

    def __init__(self, call, results):
        self.number, self.library, self.results = call.number, call.library, results
        self.is_of_nothing = call.is_of_nothing
        self.new = [(array.shape, array.code) for array in call.new]
        if call.room:
            # The numbers beside results, in one piece.
            self.new.append(((-(-call.room // _REAL_SIZES[call.precision.name]),), call.precision.name))
        room = len(call.given) + len(call.new)
        self.launches = []
        for kernel, blocks, arguments, shared in call.launches:
            places = [
                (k, room if one.number is None else one.number, one.offset)
                for k, one in enumerate(arguments)
                if isinstance(one, RelativeAddress)
            ]
            self.launches.append((kernel, blocks, list(arguments), shared, places))

    def bound(self, given, stream):
        """The call on these arrays, and on new ones for what is new."""
        first, library = given[0], self.library
        owners, addresses = [array.owner for array in given], [array.address for array in given]
        own = library.stream(first.device)
        with nullcontext() if stream is None or stream == own else library.on(self.number, stream):
            for shape, code in self.new:
                new = memory.made(first, shape, code)
                owners.append(new.owner)
                addresses.append(new.address)
        return Prepared(self, own if stream is None else stream, addresses, owners, _filled(self.results, owners))


def _filled(results, owners):
    """What the caller gets, arrays where their numbers are."""
    if isinstance(results, int):
        return owners[results]
    if isinstance(results, tuple):
        return tuple(None if one is None else _filled(one, owners) for one in results)
    return {name: owners[number] for name, number in results.items()}


class Call:
    """One call while it is laid out, its arrays' addresses as places."""

    def __init__(self, want, given, inputs, check):
        self.want, self.inputs, self.checks = want, given[:inputs], check
        first = self.inputs[0]
        self.library, self.number = first.library, first.device
        self.precision = F64 if first.code == "f64" else F32
        self.outputs, self.weights, self.by_weights = {}, None, False
        self.scale, self.total_weight, self.sums, self.is_of_nothing = 1.0, None, False, False
        self.given, self.new, self.room, self.launches = given, [], 0, []
        self.count = first.size
        self._expanded = []

    def arrays(self):
        return [*self.inputs, *([self.weights] if self.weights else []), *self.outputs.values()]

    @property
    def flags(self):
        return async_errors.page(self.number).address

    def add(self, kernel, blocks, arguments, shared=0):
        self.launches.append((kernel, blocks, arguments, shared))

    def blocks(self, width, count=None):
        """So many blocks for so many elements, never more than are at work at once."""
        count = self.count if count is None else count
        return max(1, min(-(-count // (width * device.THREADS)), device.blocks_at_once(self.number)))

    def result(self, shape, code):
        """A new array that the caller gets; its owner is its number."""
        number, shape = len(self.given) + len(self.new), tuple(shape)
        array = memory.Array(
            number, self.library, RelativeAddress(0, number), shape, memory.contiguous(shape), code, self.number
        )
        self.new.append(array)
        return array

    def scratch(self, count):
        """The address of new memory for so many numbers."""
        offset = self.room
        # As far apart as any load from it wants.
        self.room += -(-count * _REAL_SIZES[self.precision.name] // _ALIGNMENT) * _ALIGNMENT
        return RelativeAddress(0, None, offset)

    def expanded(self, result):
        """An array of the first input's shape, in its place of computation, whose sums over what a smaller input was broadcast over
        become the result: the elements of each sum lie side by side."""
        shape = self.inputs[0].shape
        missing = len(shape) - len(result.shape)
        summed = [d for d, n in enumerate(shape) if d < missing or (result.shape[d - missing] == 1 and n != 1)]
        order = [d for d in range(len(shape)) if d not in summed] + summed
        strides = dict(zip(order, memory.contiguous([shape[d] for d in order]), strict=True))
        place, steps = self.scratch(max(1, math.prod(shape))), tuple(strides[d] for d in range(len(shape)))
        full = memory.Array(None, self.library, place, shape, steps, self.precision.name, self.number)
        self._expanded.append((full, result, math.prod(shape[d] for d in summed)))
        return full

    def reduce_expanded(self):
        """Lay out the sums of what was expanded."""
        for full, result, terms in self._expanded:
            spans, (steps,) = memory.collapsed(result.shape, [result.strides])
            lanes = 1 if terms <= folds.WARP else device.THREADS
            kernel = sums.sum_rows(self.precision, result.code, len(spans), lanes)
            blocks = max(1, min(-(-result.size * lanes // device.THREADS), device.blocks_at_once(self.number)))
            arguments = [result.size, terms, *walk.values(spans, [steps]), full.address, result.address]
            self.add(kernel, blocks, arguments)

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
        kernel = sums.finish(self.precision, result.code, "weights" if self.by_weights else "number")
        weights = self.total_weight if self.by_weights else self.pairs
        self.add(kernel, 1, [self.folded, self.pairs, divisor, weights, result.address])
