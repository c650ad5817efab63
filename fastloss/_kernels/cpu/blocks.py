"""Rows block by block: what is given for each row, and where results go.

Scratch memory is allocated before the first result is written, so that a call that runs out of memory leaves its outputs as they
were. What is read from the caller's arrays is copied before it is checked: another thread may write to them meanwhile.
"""

import math

import numpy as np

from .. import arrays, request

VALUE, GRAD = 1, 2
# Scratch memory of a call, in bytes; if not even one row fits, that of one row. Measured, linear cross-entropy of 2048 rows of
# 512 with 32,000 classes, float32: 24 MiB 1.09 s, 32 1.07, 64 1.07; with 128,000 classes, 1024 rows of 256: 32 1.7 s, 64 1.5.
SCRATCH = 32 << 20
# Rows whose labels and weights are checked together.
SCAN = 1 << 14


def check_call(who, want, reduction, normalizer):
    """The reduction as a plain string, if the call can be computed."""
    if want & ~(VALUE | GRAD):
        raise TypeError(f"{who}: results must be the value or gradients, got a call for a Hessian: there is none")
    return request.check_reduction(who, reduction, normalizer)


def precision(dtype):
    """The dtype that an array of this dtype is computed in."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def even_size(count, most):
    """The size of nearly equal blocks of at most `most` rows, and at least one."""
    number = -(-count // max(1, most))
    return -(-count // number) if number else 1


def spans(count, size):
    """(start, stop) of each block."""
    for start in range(0, count, size):
        yield start, min(start + size, count)


class Rows:
    """The rows of an array, numbered over its leading dimensions, which have the shape `lead`."""

    def __init__(self, array, lead):
        self.array, self.lead = array, lead
        self.flat = None
        if len(lead) < 2 or array.flags.c_contiguous:
            self.flat = array.reshape(math.prod(lead), *array.shape[len(lead) :])

    def take(self, start, stop):
        """These rows: a view if possible, else a copy."""
        if self.flat is not None:
            return self.flat[start:stop]
        return self.array[np.unravel_index(np.arange(start, stop), self.lead)]

    def put(self, start, stop, rows):
        if self.flat is not None:
            self.flat[start:stop] = rows
        else:
            self.array[np.unravel_index(np.arange(start, stop), self.lead)] = rows


class Labels(Rows):
    """The rows' labels, from 0 to `length` less one; rows of `ignore_index` are left out."""

    def __init__(self, who, name, array, lead, length, ignore_index):
        super().__init__(arrays.as_shape(who, name, array, "the rows' shape", lead), lead)
        if array.shape != lead[len(lead) - array.ndim :]:
            raise ValueError(f"{who}: {name} must hold one label for each row, in their shape {lead}, got {array.shape}")
        self.who, self.name, self.length, self.ignore_index = who, name, length, ignore_index

    def check(self, start, stop):
        labels = self.take(start, stop)
        if labels.min(initial=0) >= 0 and labels.max(initial=0) < self.length:
            return
        outside = ((labels < 0) | (labels >= self.length)) & (labels != self.ignore_index)
        if outside.any():
            raise arrays.label_error(self.who, self.name, self.length, self.array, self.lead, start + int(outside.argmax()))

    def copy(self, start, stop, labels, counts, outside):
        """Fill in the labels, and which of them count; returns whether all do, then `counts` is left alone.

        Labels that do not count are 0, and so are those that are invalid by now.
        """
        np.copyto(labels, self.take(start, stop), casting="unsafe")
        np.greater_equal(labels.view(np.uintp), self.length, out=outside)
        if not 0 <= self.ignore_index < self.length and not outside.any():
            return True
        np.not_equal(labels, self.ignore_index, out=counts)
        np.copyto(labels, 0, where=outside)
        np.copyto(labels, 0, where=np.logical_not(counts, out=outside))
        return bool(counts.all())


class Numbers(Rows):
    """Numbers of each row, such as its weight or its probabilities: of the shape `lead` and, if given, `length`."""

    def __init__(self, who, name, array, domain, lead, length=None):
        shape = lead if length is None else (*lead, length)
        super().__init__(arrays.as_shape(who, name, array, "the rows' shape", shape), lead)
        self.who, self.name, self.domain, self.length = who, name, domain, 1 if length is None else length

    def check(self, start, stop):
        """Raise ValueError for the first number outside of the domain."""
        part, (low, high) = self.take(start, stop), self.domain.ends64
        outside = ~((part >= low) & (part <= high)) if self.domain.nan_is_outside else (part < low) | (part > high)
        if outside.any():
            first = start * self.length + int(outside.argmax())
            raise arrays.domain_error(self.who, self.name, self.domain, self.array, self.array.shape, first)

    def check_all(self):
        if self.domain is not None:
            for start, stop in spans(math.prod(self.lead), max(1, 16 * SCAN // max(1, self.length))):
                self.check(start, stop)


class Block:
    """The rows from `start` to `stop`: x in the computation's precision, labels or probabilities, and weights; None if not given."""

    def __init__(self, start, stop, x, target, weights):
        self.start, self.stop, self.x, self.target, self.weights = start, stop, x, target, weights


class RowInputs:
    """The inputs of each row: x, its label or probabilities (`target`), its weight. A row left out has label 0 and weight 0."""

    def __init__(self, x, lead, labels, target, weights):
        self.x, self.lead, self.labels, self.target, self.weights = Rows(x, lead), lead, labels, target, weights
        self.count, self.real, self._reserved = math.prod(lead), precision(x.dtype), -1

    def check(self, class_weight):
        """Check all labels and weights; returns the sum of the rows' weights, times those of their classes, that a mean divides by."""
        self.reserve(min(SCAN, self.count))
        total = 0.0
        for start, stop in spans(self.count, SCAN):
            for numbers in filter(None, (self.labels, self.weights)):
                numbers.check(start, stop)
            labels, weights = self.numbers(start, stop)
            if class_weight is not None and labels is not None:
                weights = class_weight[labels] * (1.0 if weights is None else weights)
            total += stop - start if weights is None else float(weights.sum(dtype=np.float64))
        return total

    def reserve(self, size):
        """Allocate what `numbers` fills in for up to `size` rows."""
        if size <= self._reserved:
            return
        self._reserved = size
        self._labels, self._weights = np.empty(size, np.intp), np.empty(size)
        self._counts, self._mask = np.empty(size, np.bool_), np.empty(size, np.bool_)

    def numbers(self, start, stop):
        """The labels of these rows and their weights in double, None if all rows count alike."""
        rows, labels, weights = slice(stop - start), None, None
        if self.weights:
            weights = self._weights[rows]
            np.copyto(weights, self.weights.take(start, stop), casting="unsafe")
        if self.labels:
            labels, counts = self._labels[rows], self._counts[rows]
            if not self.labels.copy(start, stop, labels, counts, self._mask[rows]):
                weights = np.multiply(counts, 1.0 if weights is None else weights, out=self._weights[rows])
        return labels, weights

    def blocks(self, size):
        """Each `Block` of up to `size` rows. Rows of weight 0 are 0, whatever they hold: 0 times infinity is NaN."""
        room = np.empty((size, self.x.array.shape[-1]), self.real)
        self.reserve(size)
        for start, stop in spans(self.count, size):
            labels, weights = self.numbers(start, stop)
            x = room[: stop - start]
            x[...] = self.x.take(start, stop)
            self.remove(x, weights)
            yield Block(start, stop, x, labels if self.target is None else self.target.take(start, stop), weights)

    def remove(self, rows, weights):
        """Set the rows of weight 0 to 0."""
        if weights is not None:
            np.copyto(rows, 0, where=np.equal(weights, 0, out=self._mask[: len(rows)])[:, None])


class Outputs:
    """The arrays for the results: the caller's, checked, or new ones. `inputs` are read until the end."""

    def __init__(self, who, inputs):
        self.who, self.inputs = who, inputs
        self.taken, self.copies = [], []

    def take(self, name, out, shape, dtype, may_be=None, inside=None):
        """The result, and the array to write it to.

        They differ if the result is accumulated in another dtype (`inside`), or if it shares memory with an input: unless that is
        `may_be`, element for element.
        """
        result = np.empty(shape, dtype) if out is None else out
        arrays.check_output(self.who, name, result, shape, dtype)
        if arrays.overlaps_itself(result):
            raise arrays.overlap_error(self.who, name, "itself")
        if any(arrays.share_memory(result, other) for other in self.taken):
            raise arrays.overlap_error(self.who, name, "another output")
        self.taken.append(result)
        apart = inside is not None and (inside != dtype or not result.flags.c_contiguous)
        for array in self.inputs:
            same = array is may_be and arrays.same_elements(result, array)
            apart |= not same and arrays.share_memory(result, array)
        target = np.empty(shape, inside or dtype) if apart else result
        if apart:
            self.copies.append((result, target))
        return result, target

    def finish(self):
        for result, target in self.copies:
            result[...] = target
