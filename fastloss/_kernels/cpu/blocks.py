"""Rows in blocks, for losses whose rows meet arrays that all share: what is given of each row, and where results go.

A product of all rows with a matrix, and a gradient that is a sum over all rows, are no formulas of one row: they are written by
hand, in blocks of bounded memory, around a row loss whose kernels are derived. A `Step` says what happens in a block.
"""

import math

import numpy as np

from ...formula import Fraction
from .. import arrays

# What a call takes for its blocks, in bytes; if not even one row fits, that row. Measured, linear cross-entropy of 2048 rows of
# 512 with 32,000 classes, float32: 24 MiB 1.09 s, 32 1.07, 64 1.07; with 128,000 classes, 1024 rows of 256: 32 1.7 s, 64 1.5.
SCRATCH = 32 << 20
# Rows whose labels and weights are looked at together.
SCAN = 1 << 14


def check_call(who, want, reduction, normalizer):
    """Whether there is what is asked for."""
    if want & ~3:  # beside the value and gradients
        raise TypeError(f"{who}: what is asked for must be the value or gradients, got a call for a Hessian: there is none")
    if not isinstance(reduction, str) or reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{who}: reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    if normalizer is not None and reduction != "mean":
        raise ValueError(f"{who}: normalizer goes with reduction='mean', got reduction={reduction!r}")


def precision(dtype):
    """What numbers of this dtype are computed in."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def even_size(count, most):
    """The size of nearly equal blocks, `most` rows each at most and one at least."""
    number = -(-count // max(1, most))
    return -(-count // number) if number else 1


def spans(count, size):
    """(start, stop) of each block."""
    for start in range(0, count, size):
        yield start, min(start + size, count)


class Step:
    """What is done with a block of rows: abstract.

    `shared` are the arrays that all rows share; their gradients are added to `sums`, under the same names. `prepare` sets `size`,
    the rows of a block, and makes room for them; `row_loss` takes `settings` with every call.
    """

    sums_are_double = False
    # Whether there is one for arrays on a GPU too.
    is_on_device = False

    def __init__(self, row_loss, settings, shared, sums, count, real):
        self.row_loss, self.settings, self.shared, self.sums, self.real = row_loss, settings, shared, sums, real
        self.prepare(count)

    def buffer(self, *shape):
        return np.empty(shape, self.real)

    def prepare(self, count):
        raise NotImplementedError

    def value(self, x, target, weights):
        raise NotImplementedError

    def value_and_grad(self, x, target, weights):
        """The value and the gradient with respect to `x`, which may be written over."""
        raise NotImplementedError


class Rows:
    """The rows of an array whose leading dimensions have the shape `lead`, numbered as if those were one."""

    def __init__(self, array, lead):
        self.array, self.lead = array, lead
        self.flat = None
        if len(lead) < 2 or array.flags.c_contiguous:
            self.flat = array.reshape(math.prod(lead), *array.shape[len(lead) :])

    def take(self, start, stop):
        """A view where there is one, else a copy of these rows alone."""
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
        outside = ((labels < 0) | (labels >= self.length)) & (labels != self.ignore_index)
        if outside.any():
            raise arrays.label_error(self.who, self.name, self.length, self.array, self.lead, start + int(outside.argmax()))

    def split(self, start, stop):
        """The labels, and which of them count; the others are 0, and so is one that another thread has written since."""
        labels = self.take(start, stop).copy()  # what is checked is what is used
        counts = labels != self.ignore_index
        return np.where(counts & (labels >= 0) & (labels < self.length), labels, 0).astype(np.intp), counts


class Weights(Rows):
    """The rows' sample weights."""

    def __init__(self, who, array, lead):
        array = arrays.as_array(who, "sample_weight", array)
        super().__init__(arrays.as_shape(who, "sample_weight", array, "the rows' shape", lead), lead)
        self.who = who

    def check(self, start, stop):
        weights = self.take(start, stop)
        inside = (weights >= 0) & (weights < np.inf)
        if not inside.all():
            first = start + int(inside.argmin())
            raise arrays.domain_error(self.who, "sample_weight", arrays.WEIGHTS, self.array, self.lead, first)


class Probabilities(Rows):
    """The rows' probabilities of their classes."""

    def __init__(self, who, name, array, shape):
        super().__init__(arrays.as_shape(who, name, array, "the rows' shape", shape), shape[:-1])
        self.who, self.name, self.domain = who, name, arrays.Domain.of(Fraction())

    def check(self):
        count, length = math.prod(self.lead), self.array.shape[-1]
        for start, stop in spans(count, max(1, 16 * SCAN // max(1, length))):
            part = self.take(start, stop)
            outside = (part < 0) | (part > 1)
            if outside.any():
                first = start * length + int(outside.argmax())
                raise arrays.domain_error(self.who, self.name, self.domain, self.array, self.array.shape, first)


class RowInputs:
    """What is given of each row: x; its label, or its row of `target`; its weight. A row left out has label 0 and weight 0."""

    def __init__(self, x, lead, labels, target, weights):
        self.x, self.lead, self.labels, self.target, self.weights = Rows(x, lead), lead, labels, target, weights
        self.count, self.real = math.prod(lead), precision(x.dtype)

    def check(self, class_weight):
        """Look at all labels and weights; returns what the rows count in a mean: their weights, by their classes', added up."""
        total = 0.0
        for start, stop in spans(self.count, SCAN):
            for numbers in filter(None, (self.labels, self.weights)):
                numbers.check(start, stop)
            labels, weights = self.numbers(start, stop)
            counted = np.ones(stop - start) if weights is None else weights
            if class_weight is not None and labels is not None:
                counted = counted * class_weight[labels]
            total += float(counted.sum())
        return total

    def numbers(self, start, stop):
        """Labels and weights (in double) of these rows, None where there are none: without weights all count alike."""
        labels = weights = None
        if self.weights:
            weights = self.weights.take(start, stop).astype(np.float64)
        if self.labels:
            labels, counts = self.labels.split(start, stop)
            if not counts.all():
                weights = counts * (1.0 if weights is None else weights)
        return labels, weights

    def blocks(self, step):
        """(start, stop, x, label or row of the target, weight) of each block, x in the computation's precision."""
        room = step.buffer(step.size, self.x.array.shape[-1])
        for start, stop in spans(self.count, step.size):
            labels, weights = self.numbers(start, stop)
            x = room[: stop - start]
            x[...] = self.x.take(start, stop)
            if weights is not None:
                x[weights == 0] = 0  # whatever they hold: 0 times infinity is NaN
            yield start, stop, x, labels if self.target is None else self.target.take(start, stop), weights

    def run(self, step, values, slopes):
        """All blocks: the sum of their values, or each row's in `values`; the gradients of x in `slopes`, unless that is None."""
        values = None if values is None else Rows(values, self.lead)
        slopes = None if slopes is None else Rows(slopes, self.lead)
        for array in step.sums.values():
            array[...] = 0
        total = 0.0
        for start, stop, x, target, weights in self.blocks(step):
            if slopes is None:
                value = step.value(x, target, weights)
            else:
                value, slope = step.value_and_grad(x, target, weights)
                if weights is not None:
                    slope[weights == 0] = 0
                slopes.put(start, stop, slope)
            if values is None:
                total += value
            else:
                values.put(start, stop, value)
        return total

    def assign(self, step, labels):
        """To which of the shared rows each row belongs."""
        labels = Rows(labels, self.lead)
        for start, stop, x, _, _ in self.blocks(step):
            labels.put(start, stop, step.assign(x))


class Outputs:
    """The arrays that results go into: given ones, checked, or new ones. `inputs` must not be written over before the end."""

    def __init__(self, who, inputs):
        self.who, self.inputs = who, inputs
        self.taken, self.copies = [], []

    def take(self, name, out, shape, dtype, may_be=None, inside=None):
        """The result, and where to write it.

        That is an array of its own where the computation's dtype is another one (`inside`), and where the result lies over an
        input: unless it is `may_be`, element for element.
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
