"""The public object of a pair loss: rows compared with columns that all of them share, block by block."""

from functools import cached_property
from typing import Any

import numpy as np

from .. import interop
from .._kernels.cpu.pairs import PairPlan
from ..formula import PROBABILITIES
from .loss import MOST_PLANS, Loss, load_cuda
from .row_loss import RowLoss, are_probabilities


class BlockLoss(Loss):
    documentation = """A loss of rows and arrays that all rows share: value and gradients, block by block.

    As `RowLoss`, with the rows along the last dimension. The first input's gradient is that of the reduced value, of each own row
    under ``reduction="none"``; those of the shared arrays are sums over the rows, under ``reduction="none"`` too. `grad_out` is a
    tuple in the inputs' order. There is no Hessian.

    Besides inputs and results a call allocates at most 32 MiB, or what one row needs, and what a loss says of itself. An output
    that shares memory with an input costs a copy, and so does an input that is a list or in another byte order.

    Parameters
    ----------
    ignore_index : int
        Rows with this label are left out, if the loss has labels.
    sample_weight : array_like, optional
        One for each row.
    """

    __doc__ = vars(Loss)["__doc__"]

    @cached_property
    def _row_loss(self) -> RowLoss:
        """The row loss whose kernels run."""
        return RowLoss(self.formula.kernels, self.library)

    def _plan(self, inputs, parameters):
        """The call's settings, and the inputs that are there, in order."""
        formula, who = self.formula, self.__name__
        given = self._named(inputs, parameters)
        first = next(iter(given))
        on_device = interop.on_device(given[first])
        stream = {"stream": parameters.pop("stream", None)} if on_device else {}
        is_soft = formula.is_soft and are_probabilities(who, formula.label, given[formula.label], given[first])
        if not on_device:
            key = (is_soft, *given, *parameters.items(), *map(type, parameters.values()))
            return PairPlan(formula, tuple(given), *self._bound(key, given, parameters, is_soft)), tuple(given.values())
        if formula.picks or formula.similarity_name != "dot" or formula.structure:
            raise TypeError(
                f"{who}: {first} must be an array in the host's memory, got a {type(given[first]).__name__} on a GPU"
            )
        there, rows, options = self._split(given, parameters, is_soft)
        kernel = self._row_loss._plan_on_device(rows | options, there, False)
        plan = load_cuda(who).pairs.PairPlan(formula, tuple(given), kernel, there, **options, **stream)
        return plan, tuple(given.values())

    def _named(self, inputs, parameters):
        """The inputs that are there by name, in the formula's order."""
        formula, who = self.formula, self.__name__
        if len(inputs) > len(formula.inputs):
            raise TypeError(f"{who}: takes {len(formula.inputs)} arrays ({', '.join(formula.inputs)}), got {len(inputs)}")
        given = dict(zip(formula.inputs, inputs, strict=False))
        given |= {name: parameters.pop(name) for name in formula.inputs[len(inputs) :] if name in parameters}
        given = {name: given[name] for name in formula.inputs if given.get(name) is not None}
        missing = [name for name in formula.inputs if name not in given and name not in formula.optional]
        if missing:
            raise TypeError(f"{who}: takes {', '.join(formula.inputs)}, got no {missing[0]}")
        return given

    def _bound(self, key, given, parameters, is_soft):
        """The plan of the row kernels, the names of their inputs, and `ignore_index`."""
        try:
            return self._plans[key]
        except (KeyError, TypeError):  # new, or not hashable
            there, rows, options = self._split(given, parameters, is_soft)
            names = tuple(name for name in there if name != PROBABILITIES)
            bound = self._row_loss._bind(there, rows, False), names, *options.values()
        try:
            if len(self._plans) > MOST_PLANS:
                self._plans.clear()
            self._plans[key] = bound
        except TypeError:
            pass
        return bound

    def _split(self, given, parameters, is_soft):
        """The row kernel's inputs that are there, its hyperparameters, and the options of the call."""
        formula, parameters = self.formula, dict(parameters)
        options = {name: self._option(name, parameters.pop(name, default)) for name, default in formula.options.items()}
        unknown = [name for name in parameters if name not in formula.parameters]
        if unknown:
            known = ", ".join([*formula.inputs, *formula.parameters, *formula.options])
            raise TypeError(f"{self.__name__}: arguments must be among {known}, got {unknown[0]!r}")
        values = {n: d.check(self.__name__, n, parameters.get(n, d.default)) for n, d in formula.parameters.items()}
        if formula.picks:
            return formula.kernels.inputs, {}, options
        there = [name for name in formula.rows.inputs if name in given or name not in formula.rows.optional]
        return (*there, PROBABILITIES) if is_soft else tuple(there), values, options

    _option = RowLoss._option


class NearestCenterLoss(BlockLoss):
    documentation = """A `BlockLoss` of rows and their nearest centers; `assign` returns which those are."""

    __doc__ = vars(Loss)["__doc__"]

    def assign(self, x: Any, centers: Any) -> np.ndarray:
        """The index of each row's nearest center, the first of equally near ones: an array of x's shape without the last."""
        plan, inputs = self._plan((x, centers), {})
        return plan.assign(inputs)
