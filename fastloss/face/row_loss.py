"""The public object of a row loss."""

from collections.abc import Callable
from typing import Any

from .._kernels.engine import RowPlan, evaluate_rows
from ..formula import Class, ClassWeight, PerRow, RowFormula
from .loss import GRAD, HESS, MOST_PLANS, VALUE, Loss


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

    def __call__(
        self, *inputs, sample_weight=None, reduction="mean", normalizer=None, value_out=None, check=True, **parameters
    ):
        """The loss: a float, an array of the rows' losses under ``reduction="none"``."""
        return self._evaluate(VALUE, inputs, parameters, sample_weight, reduction, normalizer, value_out, None, None, check)[0]

    def value_and_grad(
        self,
        *inputs,
        sample_weight=None,
        reduction="mean",
        normalizer=None,
        value_out=None,
        grad_out=None,
        check=True,
        **parameters,
    ):
        """The loss and its gradient."""
        return self._evaluate(
            VALUE | GRAD, inputs, parameters, sample_weight, reduction, normalizer, value_out, grad_out, None, check
        )[:2]

    def value_grad_hess(
        self,
        *inputs,
        sample_weight=None,
        reduction="mean",
        normalizer=None,
        value_out=None,
        grad_out=None,
        hess_out=None,
        check=True,
        **parameters,
    ):
        """The loss, its gradient and the diagonal of its Hessian."""
        return self._evaluate(
            VALUE | GRAD | HESS, inputs, parameters, sample_weight, reduction, normalizer, value_out, grad_out, hess_out, check
        )

    def grad_and_hess(
        self,
        *inputs,
        sample_weight=None,
        reduction="mean",
        normalizer=None,
        grad_out=None,
        hess_out=None,
        check=True,
        **parameters,
    ):
        """The gradient and the diagonal of the Hessian."""
        return self._evaluate(
            GRAD | HESS, inputs, parameters, sample_weight, reduction, normalizer, None, grad_out, hess_out, check
        )[1:]

    def grad(self, *inputs, sample_weight=None, reduction="mean", normalizer=None, grad_out=None, check=True, **parameters):
        """The gradient."""
        return self._evaluate(GRAD, inputs, parameters, sample_weight, reduction, normalizer, None, grad_out, None, check)[1]

    def _evaluate(self, want, inputs, parameters, sample_weight, reduction, normalizer, value_out, grad_out, hess_out, check):
        options = {name: parameters.pop(name, default) for name, default in self.formula.options.items()}
        names = self.formula.inputs
        given = dict(zip(names, inputs, strict=False))
        given |= {name: parameters.pop(name) for name in names[len(inputs) :] if name in parameters}
        missing = [name for name in names if given.get(name) is None and name not in self.formula.optional]
        if missing:
            raise TypeError(f"{self.__name__}: takes {', '.join(names)}, got no {missing[0]}")
        if len(inputs) > len(names):
            raise TypeError(f"{self.__name__}: takes {len(names)} arrays ({', '.join(names)}), got {len(inputs)}")
        for name, value in options.items():
            if isinstance(value, bool) or not hasattr(value, "__index__") or not -(2**53) <= value.__index__() <= 2**53:
                raise TypeError(f"{self.__name__}: {name} must be a whole number within 2**53 of 0, got {value!r}")
        there = tuple(name for name in names if given.get(name) is not None)
        plan = self._row_plan(there, parameters)
        return evaluate_rows(
            plan,
            want,
            [given[name] for name in there],
            options["axis"],
            sample_weight,
            options.get("ignore_index", -100),
            reduction,
            normalizer,
            value_out,
            grad_out,
            hess_out,
            check,
        )

    def _row_plan(self, there, parameters):
        key = (there, *parameters.items(), *map(type, parameters.values()))
        try:
            return self._plans[key]
        except (KeyError, TypeError):
            plan = self._bind(there, parameters)
        try:
            if len(self._plans) > MOST_PLANS:
                self._plans.clear()
            self._plans[key] = plan
        except TypeError:
            pass
        return plan

    def _bind(self, there, parameters):
        formula = self.formula
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
        return RowPlan(formula.name, variant, there, kinds, domains, formula.differentiable, formula.vector(values))


def row_loss(**options: Any) -> Callable[[Callable], RowLoss]:
    """Make a loss of a row formula: see `fastloss.losses.classification` for what one looks like."""
    return lambda function: RowLoss(RowFormula.define(function, **options))
