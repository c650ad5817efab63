"""The public object of a row loss."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import interop
from .._kernels import arrays
from .._kernels.cpu.engine import RowPlan
from ..formula import PROBABILITIES, Class, Classes, ClassWeight, Fraction, PerRow, RowFormula
from .loss import GRAD, HESS, MOST_PLANS, VALUE, Loss, load_cuda

if TYPE_CHECKING:
    from .._kernels.cpu.engine import Library

HVP = 8
WANTED = {"value": VALUE, "grad": GRAD, "hess": HESS}
_PROBABILITY = arrays.Domain.of(Fraction())


class RowLoss(Loss):
    documentation = """A loss of whole rows: value, gradient and diagonal Hessian of one formula, in one pass.

    As `Loss`, and the inputs are rows along `axis` with any number of dimensions besides. The losses, weights and labels have
    the shape that is left without it; a label is never repeated along a dimension of length 1.
    Rows of fewer than 64 elements, and rows that lie side by side in memory, are summed in another order than long rows that lie
    one after the other: between those the last bits may differ.

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

    def __init__(self, formula: RowFormula, library: "Library | None" = None) -> None:
        super().__init__(formula, library)
        kinds = {Class: "label", Classes: "labels", ClassWeight: "class weight", PerRow: "number"}
        self._kinds = {name: kinds.get(type(domain), "row") for name, domain in formula.input_domains.items()}
        self._required = len(formula.inputs) - len(formula.optional)
        self._label = formula.inputs.index(formula.label) if formula.label else None

    def evaluate(
        self,
        *inputs: Any,
        outputs: Iterable[str],
        sample_weight: Any = None,
        reduction: str = "mean",
        normalizer: Any = None,
        value_out: Any = None,
        grad_out: Any = None,
        hess_out: Any = None,
        check: bool = True,
        **parameters: Any,
    ) -> dict[str, Any]:
        """Any results, in one pass: a dictionary of those that `outputs` names.

        Beside ``"value"``, ``"grad"`` and ``"hess"`` there are ``"predicted"``, the index of each row's first largest element;
        where there are labels ``"correct"``, how many rows that count (of weight above 0, not of `ignore_index`) have the label's
        element as that; and of `cross_entropy` ``"logsumexp"`` of the logits as the loss sees them, 0 for rows that do not count.
        """
        if isinstance(outputs, str):
            raise TypeError(f"{self.__name__}: outputs must be a collection of names, got {outputs!r}")
        outputs = tuple(outputs)
        plan, inputs = self._plan(inputs, parameters)
        want = sum(bit for name, bit in WANTED.items() if name in outputs)
        others = tuple(name for name in outputs if name not in WANTED)
        # Programs that compute the Hessian store the gradient.
        want = want | GRAD if want & HESS else want or VALUE
        results = plan.evaluate(
            want,
            inputs,
            sample_weight,
            reduction,
            normalizer,
            value_out,
            grad_out,
            hess_out,
            check,
            others,
        )
        found = dict(zip([name for name, bit in WANTED.items() if want & bit], results, strict=False))
        found |= results[-1] if others else {}
        return {name: found[name] for name in outputs}

    def hvp(
        self,
        *inputs: Any,
        vector: Any,
        sample_weight: Any = None,
        reduction: str = "mean",
        normalizer: Any = None,
        out: np.ndarray[Any, Any] | None = None,
        check: bool = True,
        **parameters: Any,
    ) -> np.ndarray[Any, Any]:
        """The Hessian times `vector`, in one pass: how the gradient moves along rows of the first input's shape."""
        if not self.formula.curvature:
            raise TypeError(f"{self.__name__}: has no Hessian-vector product")
        plan, inputs = self._plan(inputs, parameters, along=True)
        return plan.evaluate(HVP, (*inputs, vector), sample_weight, reduction, normalizer, None, out, None, check)[0]

    def _plan(self, inputs, parameters, along=False):
        """The bound programs for these hyperparameters and options, and the inputs that are there, in order."""
        count = len(inputs)
        # None stands for an optional input only: these come last.
        if parameters or along or not self._required <= count <= len(self.formula.inputs) or inputs[-1] is None:
            inputs, there = self._named(inputs, parameters)
            key = (there, along, *parameters.items(), *map(type, parameters.values()))
        else:
            there, key = self.formula.inputs[:count], count
        on_device = type(inputs[0]) is not np.ndarray and interop.on_device(inputs[0])
        if self.formula.is_soft and are_probabilities(self.__name__, self.formula.label, inputs[self._label], inputs[0]):
            there, key = (*there, PROBABILITIES), (PROBABILITIES, key)
        if on_device:
            return self._plan_on_device(parameters, there, along), inputs
        try:
            return self._plans[key], inputs
        except (KeyError, TypeError):  # new, or not hashable
            plan = self._bind(there, parameters, along)
        try:
            if len(self._plans) > MOST_PLANS:
                self._plans.clear()
            self._plans[key] = plan
        except TypeError:
            pass
        return plan, inputs

    def _named(self, inputs, parameters):
        """Inputs by position or name: those that are there, and their names."""
        names, count = self.formula.inputs, len(inputs)
        if count > len(names):
            raise TypeError(f"{self.__name__}: takes {len(names)} arrays ({', '.join(names)}), got {count}")
        given = dict(zip(names, inputs, strict=False))
        given |= {name: parameters.pop(name) for name in names[count:] if name in parameters}
        there = tuple(name for name in names if given.get(name) is not None)
        missing = [name for name in names if name not in there and name not in self.formula.optional]
        if missing:
            raise TypeError(f"{self.__name__}: takes {', '.join(names)}, got no {missing[0]}")
        return tuple(given[name] for name in there), there

    def _bind(self, there, parameters, along):
        formula, (values, options) = self.formula, self._settings(parameters)
        names, kinds, domains = self._inputs(there, along)
        return RowPlan(
            formula.name,
            formula.variant_name(formula.choice(values, there)),
            names,
            tuple(kinds[name] for name in names),
            tuple(domains[name] for name in names),
            formula.differentiable,
            formula.vector(values),
            options["axis"],
            options.get("ignore_index", 0),
            self.library,
        )

    def _bind_on_device(self, parameters, there, along):
        formula, (values, options) = self.formula, self._settings(parameters)
        names, kinds, domains = self._inputs(there, along)
        return load_cuda(formula.name).rows.RowPlan(
            formula.name,
            self._variant_on_device(formula.choice(values, there)),
            formula.vector(values),
            {name: domains[name] for name in names if domains[name]},
            names,
            {name: kinds[name] for name in names},
            options["axis"],
            options.get("ignore_index", 0),
        )

    def _settings(self, parameters):
        """All hyperparameters and options, looked at."""
        formula, parameters = self.formula, dict(parameters)
        options = {name: self._option(name, parameters.pop(name, default)) for name, default in formula.options.items()}
        unknown = [name for name in parameters if name not in formula.parameters]
        if unknown:
            known = ", ".join([*formula.inputs, *formula.parameters, *formula.options])
            raise TypeError(f"{formula.name}: arguments must be among {known}, got {unknown[0]!r}")
        return self._values(parameters), options

    def _inputs(self, there, along):
        """The names of the inputs that are there, and by name what they hold and must lie within."""
        label, kinds, domains = self.formula.label, self._kinds, dict(zip(self.formula.inputs, self._domains, strict=True))
        if PROBABILITIES in there:
            kinds, domains = kinds | {label: "row"}, domains | {label: _PROBABILITY}
        names = tuple(name for name in there if name != PROBABILITIES)
        if along:
            names, kinds, domains = (*names, "vector"), kinds | {"vector": "row"}, domains | {"vector": None}
        return names, kinds, domains

    def _option(self, name, value):
        if isinstance(value, bool) or not hasattr(value, "__index__") or not -(2**53) <= value.__index__() <= 2**53:
            raise TypeError(f"{self.__name__}: {name} must be a whole number within 2**53 of 0, got {value!r}")
        return min(max(value.__index__(), -(2**31)), 2**31 - 1) if name == "axis" else value.__index__()


def are_probabilities(who, name, target, logits):
    """Whether the target holds a number for each logit: as many dimensions, and floating."""
    if interop.on_device(target):
        take = load_cuda(who).memory.take
        taken, dims = (
            take(who, name, target),
            len(take(who, "", logits).shape) if interop.on_device(logits) else np.ndim(logits),
        )
        return taken.code[0] in "fb" and len(taken.shape) == dims
    if type(target) is not np.ndarray:
        target = arrays.as_array(who, name, target)
    if target.dtype.kind in "iub":
        return False
    return arrays.is_floating(target.dtype) and target.ndim > 0 and target.ndim == np.ndim(logits)
