"""The public object of a row loss."""

from collections.abc import Callable
from typing import Any

from .._kernels.engine import RowPlan
from ..formula import Class, ClassWeight, PerRow, RowFormula
from .loss import MOST_PLANS, Loss


class RowLoss(Loss):
    documentation = """A loss of whole rows: value, gradient and diagonal Hessian of one formula, in one pass.

    As `Loss`, and the inputs are rows along `axis` with any number of dimensions besides. The losses, weights and labels have
    the shape that is left without it. Rows of fewer than 64 elements, and rows that lie side by side in memory, are summed in
    another order than long rows that lie one after the other: between those the last bits may differ.

    Parameters
    ----------
    axis : int
        The dimension that the rows lie along, the last one by default; 1 for PyTorch's ``(N, C, d1, ...)``.
    ignore_index : int
        Where there are labels: rows of this one are left out.
    sample_weight : array_like, optional
        One for each row.
    """

    __doc__ = vars(Loss)["__doc__"]

    def __init__(self, formula: RowFormula) -> None:
        super().__init__(formula)
        kinds = {Class: "label", ClassWeight: "class weight", PerRow: "number"}
        self._kinds = {name: kinds.get(type(domain), "row") for name, domain in formula.input_domains.items()}

    def _plan(self, inputs, parameters):
        """The bound programs for these hyperparameters and options, and the inputs that are there, in order."""
        names, count = self.formula.inputs, len(inputs)
        if count > len(names):
            raise TypeError(f"{self.__name__}: takes {len(names)} arrays ({', '.join(names)}), got {count}")
        given = dict(zip(names, inputs, strict=False))
        given |= {name: parameters.pop(name) for name in names[count:] if name in parameters}
        there = tuple(name for name in names if given.get(name) is not None)
        key = (there, *parameters.items(), *map(type, parameters.values()))
        inputs = tuple(given[name] for name in there)
        try:
            return self._plans[key], inputs
        except (KeyError, TypeError):  # new, or not hashable
            plan = self._bind(there, parameters)
        try:
            if len(self._plans) > MOST_PLANS:
                self._plans.clear()
            self._plans[key] = plan
        except TypeError:
            pass
        return plan, inputs

    def _bind(self, there, parameters):
        formula = self.formula
        missing = [name for name in formula.inputs if name not in there and name not in formula.optional]
        if missing:
            raise TypeError(f"{formula.name}: takes {', '.join(formula.inputs)}, got no {missing[0]}")
        options = {name: self._option(name, parameters.pop(name, default)) for name, default in formula.options.items()}
        unknown = [name for name in parameters if name not in formula.parameters]
        if unknown:
            known = ", ".join([*formula.inputs, *formula.parameters, *self.formula.options])
            raise TypeError(f"{formula.name}: arguments must be among {known}, got {unknown[0]!r}")
        values = {
            name: domain.check(formula.name, name, parameters.get(name, domain.default))
            for name, domain in formula.parameters.items()
        }
        variant = formula.variant_name(formula.choice(values, there))
        kinds = tuple(self._kinds[name] for name in there)
        domains = tuple(self._domains[formula.inputs.index(name)] for name in there)
        vector, ignore_index = formula.vector(values), options.get("ignore_index", 0)
        return RowPlan(
            formula.name, variant, there, kinds, domains, formula.differentiable, vector, options["axis"], ignore_index
        )

    def _option(self, name, value):
        if isinstance(value, bool) or not hasattr(value, "__index__") or not -(2**53) <= value.__index__() <= 2**53:
            raise TypeError(f"{self.__name__}: {name} must be a whole number within 2**53 of 0, got {value!r}")
        return min(max(value.__index__(), -(2**31)), 2**31 - 1) if name == "axis" else value.__index__()


def row_loss(**options: Any) -> Callable[[Callable], RowLoss]:
    """Make a loss of a row formula: see `fastloss.losses.classification` for what one looks like."""
    return lambda function: RowLoss(RowFormula.define(function, **options))
