"""Pair losses on the CPU: rows, the columns that all share, and a row kernel, block by block."""

import numpy as np

from ... import interop
from ...formula import ColumnIndex, Fraction, Own, PerRow, RowIndex, Same, Shaped
from .. import arrays, request
from . import blocks
from .blocks import GRAD, VALUE
from .picked import Labelled, Nearest
from .similarities import SIMILARITIES


class PairPlan:
    """One variant of a pair formula with its hyperparameters; `kernel` is the plan of its row kernels, which takes `row_names`.

    `there` names the inputs that are given.
    """

    def __init__(self, formula, there, kernel, row_names, ignore_index=None):
        self.formula, self.who, self.inputs, self.kernel, self.row_names = formula, formula.name, there, kernel, row_names
        self.ignore_index = ignore_index

    def evaluate(self, want, inputs, sample_weight, reduction, normalizer, value_out, grad_out, hess_out, check):
        """As `Plan.evaluate` of the engine, without Hessians."""
        if interop.is_foreign(inputs, value_out, grad_out, hess_out):
            return interop.evaluate(
                self, want, inputs, sample_weight, reduction, normalizer, value_out, grad_out, hess_out, check
            )
        reduction = blocks.check_call(self.who, want, reduction, normalizer)
        with np.errstate(all="ignore"):  # infinity and NaN are results
            value, gradients, nothing = self._evaluate(
                want, inputs, sample_weight, reduction, normalizer, value_out, grad_out, check
            )
        if nothing and want & VALUE:
            request.warn_empty_mean(self.who)
        return tuple(result for result, bit in ((value, VALUE), (gradients, GRAD)) if want & bit)

    def _evaluate(self, want, inputs, sample_weight, reduction, normalizer, value_out, grad_out, check):
        """The value, the gradients, and whether the mean is that of nothing."""
        each = reduction == "none" and want & VALUE
        if reduction == "none" and not each:
            reduction = "sum"  # it has the same gradients
        call = _Call(self, inputs, sample_weight, check)
        divisor = call.divisor(reduction, normalizer)
        outputs = call.outputs()
        value = values = None
        if want & VALUE and (each or value_out is not None):
            value, values = outputs.take("value_out", value_out, call.rows.lead if each else (), call.first.dtype)
        gradients, targets = call.gradients(outputs, grad_out) if want & GRAD else (None, None)
        if divisor == 0:
            total = float("nan")
            for array in targets or ():
                array[...] = 0
        else:
            total = call.run(reduction, divisor, values if each else None, targets)
        if value is not None and not each:
            values[...] = total
        outputs.finish()
        return total if value is None else value, gradients, divisor == 0

    def assign(self, inputs):
        """The index of each row's nearest column."""
        with np.errstate(all="ignore"):
            call = _Call(self, inputs, None, True)
            labels = np.empty(call.rows.lead, np.intp)
            call.assign(blocks.Rows(labels, call.rows.lead))
        return interop.in_kind(labels, inputs[0])


class _Kernel:
    """The row kernel with a call's reduction: its arrays are the engine's own, so nothing is checked again."""

    def __init__(self, plan, reduction, divisor):
        self.plan, self.reduction, self.divisor = plan, reduction, divisor

    def value(self, inputs, weights, value_out):
        return self.plan.evaluate(VALUE, inputs, weights, self.reduction, self.divisor, value_out, None, None, False)[0]

    def value_and_grad(self, inputs, weights, value_out, grad_out):
        return self.plan.evaluate(
            VALUE | GRAD, inputs, weights, self.reduction, self.divisor, value_out, grad_out, None, False
        )[0]


class _Call:
    """The arrays of one call, checked."""

    def __init__(self, plan, inputs, sample_weight, check):
        self.plan, self.formula, self.who = plan, plan.formula, plan.who
        self.given = self._arrays(inputs)
        own = [self.given.get(name) for name in self.formula.own]
        self.first, self.columns, self.bias = (*own, None)[:3]
        self.rows = self._rows(sample_weight)
        self.numbers = self._numbers()
        if check:
            for numbers in (self.rows.target, *self.numbers.values()):
                if numbers is not None:
                    numbers.check_all()

    def _arrays(self, inputs):
        """The inputs as plain arrays, by name; their shapes and dtypes agree."""
        who, domains = self.who, self.formula.input_domains
        given = {name: arrays.as_array(who, name, value) for name, value in zip(self.plan.inputs, inputs, strict=True)}
        first_name, first = next(iter(given.items()))
        lengths = {}
        for name, array in given.items():
            if not isinstance(domains[name], Shaped):
                continue
            arrays.check_floating(who, name, array)
            if array.dtype != first.dtype:
                raise TypeError(f"{who}: {name} must have {first_name}'s dtype {first.dtype}, got {array.dtype}")
            domains[name].check_shape(who, name, array.shape, lengths)
            if domains[name].is_finite and not np.isfinite(array).all():
                raise ValueError(f"{who}: {name} must be finite, got {array[~np.isfinite(array)][0]}")
        if (name := self.formula.column_weight) in given:
            length, real = len(given[self.formula.shared[0]]), blocks.precision(first.dtype)
            given[name] = arrays.class_weights(who, name, given[name], length, real)
        return given

    def _rows(self, sample_weight):
        """The inputs of each row that every loss has."""
        lead, name = self.first.shape[:-1], self.formula.label
        labels = target = weights = None
        if name:
            array, length = self.given[name], len(self.columns)
            if array.dtype.kind in "iub":
                labels = blocks.Labels(self.who, name, array, lead, length, self.plan.ignore_index)
            elif self.formula.is_soft and array.ndim == self.first.ndim:
                target = blocks.Numbers(self.who, name, array, arrays.Domain.of(Fraction()), lead, length)
            else:
                raise TypeError(f"{self.who}: {name} must hold whole numbers, got dtype {array.dtype}")
        if sample_weight is not None:
            array = arrays.as_array(self.who, "sample_weight", sample_weight)
            weights = blocks.Numbers(self.who, "sample_weight", array, arrays.WEIGHTS, lead)
        return blocks.RowInputs(self.first, lead, labels, target, weights)

    def _numbers(self):
        """The row formula's numbers of each row, and the groups of the rows, by name."""
        found, lead = {}, self.rows.lead
        for name, domain in self.formula.input_domains.items():
            if isinstance(domain, PerRow):
                limits = arrays.Domain.of(domain.domain) if domain.is_checked else None
                found[name] = blocks.Numbers(self.who, name, self.given[name], limits, lead)
        for domain in self.formula.structure.values():
            if isinstance(domain, Same):
                for name in (domain.rows, domain.columns):
                    if self.given[name].dtype.kind not in "iub":
                        raise TypeError(f"{self.who}: {name} must hold whole numbers, got dtype {self.given[name].dtype}")
                found[domain.rows] = blocks.Numbers(self.who, domain.rows, self.given[domain.rows], None, lead)
                if self.given[domain.columns].shape != (len(self.columns),):
                    shape = self.given[domain.columns].shape
                    raise ValueError(
                        f"{self.who}: {domain.columns} must have one number for each of the {len(self.columns)} columns, got shape {shape}"
                    )
        return found

    def divisor(self, reduction, normalizer):
        """What the sum is divided by, None if it is not. All labels and weights are checked, whatever the reduction."""
        total = self.rows.check(self.given.get(self.formula.column_weight))
        if reduction != "mean":
            return None
        divisor = total if normalizer is None else float(request.normalizer_of(self.who, normalizer, self.rows.count))
        arrays.check_divisor(self.who, divisor, normalizer, self.first)
        return divisor

    def outputs(self):
        weights = self.rows.weights
        return blocks.Outputs(self.who, [*self.given.values(), *([weights.array] if weights else [])])

    def gradients(self, outputs, grad_out):
        """The gradients as the caller gets them, and the arrays to write them to: the rows', then sums for the columns' and the bias's."""
        names = [name for name in self.formula.differentiable if name in self.given]
        if grad_out is None:
            grad_out = (None,) * len(names)
        elif not isinstance(grad_out, tuple | list) or len(grad_out) != len(names):
            raise TypeError(f"{self.who}: grad_out must be {len(names)} arrays, one for each of {', '.join(names)}")
        is_double = self.formula.picks or SIMILARITIES[self.formula.similarity_name].is_double
        inside = np.dtype(np.float64) if is_double else self.rows.real
        results, targets = [], []
        for index, (name, out) in enumerate(zip(names, grad_out, strict=True)):
            like, how = self.given[name], {"inside": inside} if index else {"may_be": self.first}
            result, target = outputs.take(f"grad_out[{index}]", out, like.shape, like.dtype, **how)
            results.append(result)
            targets.append(target)
        return tuple(results), targets

    def run(self, reduction, divisor, values, targets):
        """All blocks: the sum of their values, or each row's in `values`; the gradients, if there are `targets` for them."""
        rows, with_gradient = self.rows, targets is not None
        slopes, sums = (blocks.Rows(targets[0], rows.lead), targets[1:]) if with_gradient else (None, None)
        step = self._step(_Kernel(self.plan.kernel, reduction, divisor), sums)
        each = None
        if values is not None:
            values, each = blocks.Rows(values, rows.lead), np.empty(step.size, rows.real)
        walk = rows.blocks(step.size)
        block, total = next(walk, None), 0.0  # everything is allocated now, and nothing written
        for array in sums or ():
            array[...] = 0
        while block is not None:
            value, slope = step.run(block, None if each is None else each[: len(block.x)], with_gradient)
            if with_gradient:
                rows.remove(slope, block.weights)
                slopes.put(block.start, block.stop, slope)
            if values is None:
                total += value
            else:
                values.put(block.start, block.stop, value)
            block = next(walk, None)
        if with_gradient:
            step.finish()
        return total

    def assign(self, labels):
        step = self._step(None, None)
        for block in self.rows.blocks(step.size):
            labels.put(block.start, block.stop, step.assign(block.x))

    def _step(self, kernel, sums):
        """What is done with a block of rows."""
        columns, real, count = self.columns, self.rows.real, self.rows.count
        if self.formula.picks:
            kind = Nearest if self.formula.finds_nearest else Labelled
            return kind(columns, sums, real, count, kernel)
        return _Compared(self, kernel, sums)


class _Compared:
    """A row kernel of the similarities between a block's rows and all columns."""

    def __init__(self, call, kernel, sums):
        formula, rows = call.formula, call.rows
        self.call, self.kernel, self.names = call, kernel, call.plan.row_names
        made = [name for name, domain in formula.structure.items() if isinstance(domain, Same | Own)]
        similarity = SIMILARITIES[formula.similarity_name]
        self.similarity = similarity(call.columns, call.bias, sums, rows.real, rows.count, len(made))
        self.size = self.similarity.size
        self.room = {name: np.empty((self.size, len(call.columns)), rows.real) for name in made}
        if formula.structure:
            self.indices = np.arange(self.size)
            self.numbers = np.arange(len(call.columns), dtype=rows.real)

    def run(self, block, value_out, with_gradient):
        """The value, and the gradient of the block's rows, which may be written over."""
        similarities = self.similarity.forward(block.x)
        inputs = self._inputs(block, similarities)
        if not with_gradient:
            return self.kernel.value(inputs, block.weights, value_out), None
        value = self.kernel.value_and_grad(inputs, block.weights, value_out, similarities)
        return value, self.similarity.backward(block.x, similarities)

    def finish(self):
        self.similarity.finish()

    def _inputs(self, block, similarities):
        """What the row kernel takes."""
        call, found = self.call, {self.names[0]: similarities}
        for name in self.names[1:]:
            if name == call.formula.label:
                found[name] = block.target
            elif name in call.formula.structure:
                found[name] = self._structure(name, call.formula.structure[name], block)
            elif name in call.numbers:
                found[name] = call.numbers[name].take(block.start, block.stop)
            else:
                found[name] = call.given[name]
        return tuple(found.values())

    def _structure(self, name, domain, block):
        """One number for each of the block's rows and columns, or what broadcasts to that."""
        count, columns = len(block.x), len(self.numbers)
        if isinstance(domain, ColumnIndex):
            return np.broadcast_to(self.numbers, (count, columns))
        if isinstance(domain, RowIndex):
            return np.arange(block.start, block.stop, dtype=np.float64)
        made = self.room[name][:count]
        if isinstance(domain, Same):
            groups = self.call.numbers[domain.rows].take(block.start, block.stop)
            return np.equal(groups[:, None], self.call.given[domain.columns], out=made)
        made[...] = 0
        there = self.indices[: max(0, min(block.stop, columns) - block.start)]
        made[there, block.start + there] = 1
        return made
