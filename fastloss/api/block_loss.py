"""The public object of a loss whose rows meet arrays that all rows share."""

import operator
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import interop
from .._kernels import arrays
from .._kernels.cpu import blocks
from .._kernels.cpu.centers import NamedCenter, NearestCenter
from .._kernels.cpu.linear import Linear
from ..formula import BlockFormula, NearestCenterFormula, Shaped
from .loss import GRAD, VALUE, Loss, load_cuda


class BlockLoss(Loss):
    documentation = """A loss of rows that meet arrays which all rows share: value and gradients, block by block.

    As `RowLoss`, with the rows along the last dimension. The first input's gradient is that of the reduced value, of each own row
    under ``reduction="none"``; those of the shared arrays are sums over the rows, under ``reduction="none"`` too. `grad_out` is a
    tuple in the inputs' order. There is no Hessian.

    Beside inputs and results a call takes 32 MiB at most, or what one row needs, and what a loss says of itself. An output that
    lies over an input costs a copy of itself, and so does an input whose memory does not serve: a list, or in another byte order.

    Parameters
    ----------
    ignore_index : int
        Where there are labels: rows of this one are left out.
    sample_weight : array_like, optional
        One for each row.
    """

    __doc__ = vars(Loss)["__doc__"]

    def __init__(self, formula: BlockFormula, step: type[blocks.Step]) -> None:
        super().__init__(formula)
        self._step = step

    def _plan(self, inputs, parameters):
        """The call's settings, and the inputs that are there, in order."""
        formula, who = self.formula, self.__name__
        if len(inputs) > len(formula.inputs):
            raise TypeError(f"{who}: takes {len(formula.inputs)} arrays ({', '.join(formula.inputs)}), got {len(inputs)}")
        given = dict(zip(formula.inputs, inputs, strict=False))
        given |= {name: parameters.pop(name) for name in formula.inputs[len(inputs) :] if name in parameters}
        given = {name: given[name] for name in formula.inputs if given.get(name) is not None}
        missing = [name for name in formula.inputs if name not in given and name not in formula.optional]
        if missing:
            raise TypeError(f"{who}: takes {', '.join(formula.inputs)}, got no {missing[0]}")
        first, on_device = next(iter(given)), interop.on_device(next(iter(given.values())))
        stream = {"stream": parameters.pop("stream", None)} if on_device else {}
        options = {name: self._option(name, parameters.pop(name, default)) for name, default in formula.options.items()}
        unknown = [name for name in parameters if name not in formula.parameters]
        if unknown:
            known = ", ".join([*formula.inputs, *formula.parameters, *formula.options])
            raise TypeError(f"{who}: arguments must be among {known}, got {unknown[0]!r}")
        values = {n: domain.check(who, n, parameters.get(n, domain.default)) for n, domain in formula.parameters.items()}
        if not on_device:
            return BlockPlan(formula, self._step, tuple(given), values, **options), tuple(given.values())
        if not self._step.is_on_device:
            raise TypeError(
                f"{who}: {first} must be an array in the host's memory, got a {type(given[first]).__name__} on a GPU"
            )
        return load_cuda(who).linear.LinearPlan(formula, tuple(given), values, **options, **stream), tuple(given.values())

    def _option(self, name, value):
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(f"{self.__name__}: {name} must be a whole number, got {value!r}")
        return operator.index(value)


class NearestCenterLoss(BlockLoss):
    documentation = """A `BlockLoss` whose rows belong to their nearest centers; `assign` says to which."""

    __doc__ = vars(Loss)["__doc__"]

    def assign(self, x: Any, centers: Any) -> np.ndarray:
        """The number of each row's nearest center, the first of equally near ones: an array of x's shape without the last."""
        plan, inputs = self._plan((x, centers), {})
        return plan.assign(inputs)


class BlockPlan:
    """One call's hyperparameters and options; it goes through the rows block by block."""

    def __init__(self, formula, step, there, hyperparameters, ignore_index=None):
        self.formula, self.who, self.step, self.inputs = formula, formula.name, step, there
        self.hyperparameters, self.ignore_index = hyperparameters, ignore_index

    def evaluate(self, want, inputs, sample_weight, reduction, normalizer, value_out, grad_out, hess_out, check):
        """As `Plan.evaluate` of the engine, without Hessians."""
        if interop.is_foreign(inputs, value_out, grad_out, hess_out):
            return interop.evaluate(
                self, want, inputs, sample_weight, reduction, normalizer, value_out, grad_out, hess_out, check
            )
        blocks.check_call(self.who, want, reduction, normalizer)
        with np.errstate(all="ignore"):  # infinity and NaN are results
            value, gradients, nothing = self._evaluate(
                want, inputs, sample_weight, str(reduction), normalizer, value_out, grad_out, check
            )
        if nothing and want & VALUE:
            said = "the mean of nothing is nan (no rows, or all weights are zero)"
            warnings.warn(f"{self.who}: {said}", RuntimeWarning, stacklevel=3)
        return value, gradients, None

    def _evaluate(self, want, inputs, sample_weight, reduction, normalizer, value_out, grad_out, check):
        """The value, the gradients, and whether the mean is that of nothing."""
        each = reduction == "none" and want & VALUE
        if reduction == "none" and not each:
            reduction = "sum"  # it has the same gradients
        given = self._arrays(inputs)
        rows = self._rows(given, sample_weight)
        if check and rows.target:
            rows.target.check()
        divisor = self._divisor(rows, given, reduction, normalizer)
        nothing = divisor == 0
        outputs = blocks.Outputs(self.who, [*given.values(), *([rows.weights.array] if rows.weights else [])])
        value = values = gradients = slopes = None
        sums = {}
        if want & VALUE and (each or value_out is not None):
            value, values = outputs.take("value_out", value_out, rows.lead if each else (), rows.x.array.dtype)
        if want & GRAD:
            gradients, slopes, sums = self._gradients(outputs, given, rows.real, grad_out)
        if nothing:
            total = float("nan")
            for array in (slopes, *sums.values()) if want & GRAD else ():
                array[...] = 0
        else:
            step = self._start(given, self._settings(given, reduction, divisor), sums, rows)
            total = rows.run(step, values if each else None, slopes)
        if value is not None and not each:
            values[...] = total
        outputs.finish()
        return total if value is None else value, gradients, nothing

    def assign(self, inputs):
        """Which of the shared rows each row belongs to."""
        with np.errstate(all="ignore"):
            given = self._arrays(inputs)
            rows = self._rows(given, None)
            labels = np.empty(rows.lead, np.intp)
            rows.assign(self._start(given, {}, {}, rows), labels)
        return interop.in_kind(labels, inputs[0])

    def _arrays(self, inputs):
        """The inputs as plain arrays, by name; their shapes and dtypes agree."""
        who, domains = self.who, self.formula.input_domains
        given = {name: arrays.as_array(who, name, value) for name, value in zip(self.inputs, inputs, strict=True)}
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
        if "class_weight" in given:
            length, real = len(given[self.formula.shared[0]]), blocks.precision(first.dtype)
            given["class_weight"] = arrays.class_weights(who, "class_weight", given["class_weight"], length, real)
        return given

    def _rows(self, given, sample_weight):
        """What is given for each row."""
        x = given[self.formula.inputs[0]]
        lead = x.shape[:-1]
        labels = target = weights = None
        if self.formula.label:
            array, length = given[self.formula.label], len(given[self.formula.shared[0]])
            if array.dtype.kind in "iub":
                labels = blocks.Labels(self.who, self.formula.label, array, lead, length, self.ignore_index)
            elif self.formula.is_soft and array.ndim == x.ndim:
                target = blocks.Probabilities(self.who, self.formula.label, array, (*lead, length))
            else:
                raise TypeError(f"{self.who}: {self.formula.label} must hold whole numbers, got dtype {array.dtype}")
        if sample_weight is not None:
            weights = blocks.Weights(self.who, sample_weight, lead)
        return blocks.RowInputs(x, lead, labels, target, weights)

    def _divisor(self, rows, given, reduction, normalizer):
        """What the sum is divided by, None where it is not. All labels and weights are looked at, whatever the reduction."""
        total = rows.check(given.get("class_weight"))
        if reduction != "mean":
            return None
        if normalizer is None:
            divisor = total
        elif isinstance(normalizer, str) and normalizer == "samples":
            divisor = float(rows.count)
        else:
            divisor = arrays.check_normalizer(self.who, normalizer)
        arrays.check_divisor(self.who, divisor, normalizer, rows.x.array)
        return divisor

    def _gradients(self, outputs, given, real, grad_out):
        """The gradients as the caller gets them, where to write that of the rows, and where to add up the others, by name."""
        names = [name for name in self.formula.differentiable if name in given]
        if grad_out is None:
            grad_out = (None,) * len(names)
        elif not isinstance(grad_out, tuple | list) or len(grad_out) != len(names):
            raise TypeError(f"{self.who}: grad_out must be {len(names)} arrays, one for each of {', '.join(names)}")
        results, targets = [], {}
        for index, (name, out) in enumerate(zip(names, grad_out, strict=True)):
            like, title = given[name], f"grad_out[{index}]"
            if index == 0:
                result, targets[name] = outputs.take(title, out, like.shape, like.dtype, may_be=like)
            else:
                inside = np.dtype(np.float64) if self.step.sums_are_double else real
                result, targets[name] = outputs.take(title, out, like.shape, like.dtype, inside=inside)
            results.append(result)
        return tuple(results), targets.pop(names[0]), targets

    def _settings(self, given, reduction, divisor):
        """What the row loss is told with every block; the data have been looked at."""
        settings = self.hyperparameters | {"reduction": reduction, "check": False}
        settings |= {name: given[name] for name in self.formula.row_inputs if name in given}
        return settings | {"normalizer": divisor} if reduction == "mean" else settings

    def _start(self, given, settings, sums, rows):
        shared = {name: given[name] for name in self.formula.shared if name in given}
        return self.step(self.formula.rows, settings, shared, sums, rows.count, rows.real)


def linear_loss(**options: Any) -> Callable[[Callable], BlockLoss]:
    """Make a loss of a linear layer's output and the row loss `rows`: see `fastloss.losses.linear`."""
    return lambda function: BlockLoss(BlockFormula.define(function, **options), Linear)


def center_loss(**options: Any) -> Callable[[Callable], BlockLoss]:
    """Make a loss of rows and the centers that labels name: see `fastloss.losses.clustering`."""
    return lambda function: BlockLoss(BlockFormula.define(function, **options), NamedCenter)


def nearest_center_loss(**options: Any) -> Callable[[Callable], NearestCenterLoss]:
    """Make a loss of rows and their nearest centers."""
    return lambda function: NearestCenterLoss(NearestCenterFormula.define(function, **options), NearestCenter)
