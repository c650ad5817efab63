"""Formulas of single elements as functions for a user's own CUDA kernels, in one precision, hyperparameters fixed."""

import numpy as np

from ...formula import F32, F64, UpdateRule
from .device import machine
from .plan import FormulaVariant
from .text import joined

_PRECISIONS = {"float32": F32, "float64": F64}
_WANTS = {
    "value": "v",
    "grad": "g",
    "hess": "h",
    "value_and_grad": "vg",
    "grad_and_hess": "gh",
    "value_grad_hess": "vgh",
}


class DeviceFunctions:
    """A formula's functions for code under `numba.cuda.jit`, inlined there.

    Of a loss `value(pred, target)`, `grad`, `hess`, `value_and_grad`, `grad_and_hess` and `value_grad_hess`: what the formula makes of
    the hyperparameters is part of the code. Of an update rule `step(param, grad, *states, numbers)`, where `numbers(step)` gives what
    is the same for all elements of a step, as a tuple to hand to the kernel.
    """

    def __init__(self, formula, dtype="float32", **hyperparameters):
        who = f"{formula.name}.jit.cuda"
        name = np.dtype(dtype).name
        if name not in _PRECISIONS:
            raise TypeError(f"{who}: dtype must be float32 or float64, got {name}")
        unknown = [given for given in hyperparameters if given not in formula.parameters or given == "step"]
        if unknown:
            known = ", ".join(parameter for parameter in formula.parameters if parameter != "step")
            raise TypeError(f"{who}: arguments must be among {known}, got {unknown[0]!r}")
        self._formula, self._precision = formula, _PRECISIONS[name]
        self._values = {n: d.check(who, n, hyperparameters.get(n, d.default)) for n, d in formula.parameters.items()}
        self._variant = FormulaVariant(formula, formula.choice(self._values))
        self._made = {}

    def __getattr__(self, name):
        names = ("step",) if isinstance(self._formula, UpdateRule) else tuple(_WANTS)
        if name.startswith("_") or name not in names:
            raise AttributeError(f"{self._formula.name}.jit.cuda: functions must be among {', '.join(names)}, got {name!r}")
        if name not in self._made:
            self._made[name] = self._step() if name == "step" else self._of_loss(name)
        return self._made[name]

    def numbers(self, step, **carried):
        """What an update rule's elements share in a step, counted from 1."""
        values = self._values | {"step": float(step)} | carried
        return tuple(self._variant.numbers(self._formula.vector(values)))

    def _of_loss(self, name):
        roles = self._formula.roles(_WANTS[name])
        numbers = self._variant.numbers(self._formula.vector(self._values))
        return self._define(name, roles, [f"real({number!r})" for number in numbers])

    def _step(self):
        traced, formula = self._variant.traced, self._formula
        count = len(self._variant.numbers(formula.vector(self._values)))
        return self._define("step", list(traced.outputs), [f"real(numbers[{k}])" for k in range(count)], ["numbers"])

    def _define(self, name, roles, numbers, more=()):
        own, inputs = machine(self._precision), list(self._variant.traced.inputs)
        scalar = own.compiled(own.define(self._variant.text(roles, "formula"), "formula"))
        arguments = ", ".join([*(f"real({n})" for n in inputs), *numbers])
        text = joined([f"def {name}({', '.join([*inputs, *more])}):", f"return formula({arguments})"], 4)
        return own.compiled(own.define(text, name, formula=scalar))
