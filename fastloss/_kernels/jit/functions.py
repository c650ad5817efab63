"""Formulas of single elements as functions that Numba compiles into a user's own code, inlined, in the precision of the arguments.

A function's text chooses the variant: what was fixed by a Python value is decided while it is written, the special values of other
hyperparameters (each has a kernel of its own) by comparisons that a user's loop does not repeat. What all elements share is computed
in double, as the engine does, so the results are the kernels' own to the bit.
"""

from numba import njit, types
from numba.extending import overload

from ...formula import F32, F64, Flag, Optional, UpdateRule
from ...formula.emit import uniforms
from ...formula.graph import FOLDS, walk
from ...formula.lazy import lazy
from ...formula.python import scalar_text
from .. import cuda
from . import loops, numba_types
from .machine import INLINED, compiled


class Functions:
    """The functions of one formula, with some hyperparameters fixed; an object that `@njit` code may mention."""

    names: tuple[str, ...] = ()

    def __init__(self, formula, fixed=None):
        self.formula = formula
        self.who = f"{formula.name}.jit"
        self.fixed = {}
        for name, value in (fixed or {}).items():
            if name not in formula.parameters or name == "step":
                raise TypeError(f"{self.who}: arguments must be among {', '.join(formula.parameters)}, got {name!r}")
            self.fixed[name] = formula.parameters[name].check(self.who, name, value)
        for name, domain in formula.parameters.items():
            if name not in self.fixed and isinstance(domain, Flag | Optional):
                self.fixed[name] = domain.default
        self._fix_more()
        self.arguments = {name: d.default for name, d in formula.parameters.items() if name not in self.fixed}
        self._scope = {}
        traced = formula.trace(self.choices[-1])
        if any(node.op in FOLDS for node in walk(list(traced.outputs.values()))):
            raise TypeError(f"{self.who}: must be of a formula of single elements, got one with sums over them")

    def _fix_more(self):
        """Fix what this kind of formula needs fixed besides."""

    def __call__(self, **fixed):
        """The same functions with these hyperparameters fixed: no arguments any more, but part of the code."""
        return type(self)(self.formula, {**self.fixed, **fixed})

    def __repr__(self):
        return f"<{self.who}({', '.join(f'{name}={value!r}' for name, value in self.fixed.items())}): {', '.join(self.names)}>"

    def cuda(self, dtype="float32", **hyperparameters):
        """The same for a user's own CUDA kernels, in one precision, all hyperparameters fixed: see `DeviceFunctions`."""
        cuda.require(f"{self.who}.cuda")
        from ..cuda.functions import DeviceFunctions

        return DeviceFunctions(self.formula, dtype, **{**self.fixed, **hyperparameters})

    @property
    def _numba_type_(self):
        return numba_types.ObjectType(self, self.names)

    @property
    def choices(self):
        """The variants to choose from at run time, the general one last."""
        chosen = {name: self.formula.parameters[name].choice(value) for name, value in self.fixed.items()}
        names = list(self.formula.parameters)
        return [
            choice
            for choice in self.formula.choices()
            if all(choice[names.index(name)] == value for name, value in chosen.items())
        ]

    @lazy
    def inputs(self):
        """The arguments that are elements, by name."""
        return self.formula.inputs

    def _element(self, want):
        """A function of elements as text may call it: `(*inputs, *hyperparameters) -> tuple`, made for each precision when used."""
        if want not in self._scope:
            arguments = [*self.inputs, *self.arguments]
            scope = {"_make": lambda first: self._compute(want, F32 if first == types.float32 else F64)}
            stub = _run(f"def {want}({', '.join(arguments)}):\n    raise NotImplementedError", want, {})
            choose = _run(f"def choose({', '.join(arguments)}):\n    return _make({arguments[0]})", "choose", scope)
            overload(stub, jit_options=INLINED)(choose)
            self._scope[want] = stub
        return self._scope[want]

    def _compute(self, want, precision):
        """`_element` in one precision."""
        machine, formula = compiled(precision), self.formula
        scope = {"_double": types.float64, "_real": machine.operations["real"], "inf": float("inf"), "nan": float("nan")}
        lines = [f"def compute({', '.join([*self.inputs, *self.arguments])}):"]
        given = ", ".join([*self._numbers(), "0.0"])
        for k, choice in enumerate(self.choices):
            traced = formula.trace(choice)
            shared, roles = uniforms(traced, list(traced.outputs.values())), self._roles(traced, want)
            scope[f"_shared{k}"] = machine.compiled(compiled(F64).define(_shared_text(traced, shared), "shared"))
            inputs = _numbered("x", traced.inputs.values()) | _numbered("c", shared)
            text = scalar_text("formula", inputs, [traced.outputs[role] for role in roles], [], formula.source)
            scope[f"_formula{k}"] = machine.compiled(machine.define(text, "formula"))
            arguments = [f"_real({name})" for name in traced.inputs] + [f"_real(_shared[{i}])" for i in range(len(shared))]
            body = [
                f"_shared = _shared{k}({given})",
                f"_results = _formula{k}({', '.join(arguments)})",
                f"return {self._shaped(roles)}",
            ]
            special = [
                f"{name} == {value!r}"
                for name, value in zip(formula.parameters, choice, strict=True)
                if name in self.arguments and value is not None
            ]
            lines += [f"    if {' and '.join(special)}:", *(f"        {line}" for line in body)] if special else []
            lines += [] if special else [f"    {line}" for line in body]
        return _run("\n".join(lines), "compute", scope)

    def _numbers(self):
        """The formula's parameters in order, as expressions: arguments, and what is fixed."""
        values = self.formula.vector({name: domain.default for name, domain in self.formula.parameters.items()} | self.fixed)
        for (name, i), value in zip(self.formula.slots(), values, strict=True):
            argument = name if i is None else f"{name}[{i}]"
            yield f"_double({argument if name in self.arguments else repr(value)})"

    def _roles(self, traced, want):
        raise NotImplementedError

    def _shaped(self, roles):
        """The expression for what is returned, from `_results`."""
        return "_results"

    def _function(self, name, arguments, lines, scope, defaults=None):
        """A function for users, compiled by Numba when first called."""
        defaults = self.arguments if defaults is None else defaults
        text = "\n".join([f"def {name}({', '.join([*arguments, *(f'{n}={v!r}' for n, v in defaults.items())])}):", *lines])
        function = _run(text, name, {"inf": float("inf"), **scope})
        function.__doc__ = f"`{name}` of {self.formula.name}, for `@njit` code."
        return njit(**INLINED)(function)

    def _scalar(self, name, want):
        arguments = self.inputs
        call = ", ".join([*arguments, *self.arguments])
        return self._function(name, arguments, [f"    return _compute({call})"], {"_compute": self._element(want)})


class LossFunctions(Functions):
    """A loss's functions of one element, and of arrays.

    `value`, `grad`, `hess`, `value_and_grad`, `grad_and_hess` and `value_grad_hess` take one element of each input and the
    hyperparameters. float32 is computed in float32, by the first input, all else in float64. Of several differentiable inputs the
    gradient is a tuple, as elsewhere. `mean` and `mean_value_and_grad` take one-dimensional arrays of one length; the latter writes
    the mean's gradient into its last array, or arrays. Hyperparameters are not checked against their domains.
    """

    names = ("value", "grad", "hess", "value_and_grad", "grad_and_hess", "value_grad_hess", "mean", "mean_value_and_grad")

    def _roles(self, traced, want):
        return self.formula.roles(want)

    def _shaped(self, roles):
        """One number as it is, several in the tuples that the loss's own methods return."""
        kinds = {}
        for k, role in enumerate(roles):
            kinds.setdefault(role.partition("_")[0], []).append("_results" if len(roles) == 1 else f"_results[{k}]")
        return ", ".join(each[0] if len(each) == 1 else f"({', '.join(each)})" for each in kinds.values())

    @lazy
    def value(self):
        return self._scalar("value", "v")

    @lazy
    def grad(self):
        return self._scalar("grad", "g")

    @lazy
    def hess(self):
        return self._scalar("hess", "h")

    @lazy
    def value_and_grad(self):
        return self._scalar("value_and_grad", "vg")

    @lazy
    def grad_and_hess(self):
        return self._scalar("grad_and_hess", "gh")

    @lazy
    def value_grad_hess(self):
        return self._scalar("value_grad_hess", "vgh")

    @lazy
    def mean(self):
        return self._over_arrays("mean", "v", gradients=[])

    @lazy
    def mean_value_and_grad(self):
        several = len(self.formula.differentiable) > 1
        gradients = [f"grad_{name}" for name in self.formula.differentiable] if several else ["grad_out"]
        return self._over_arrays("mean_value_and_grad", "vg", gradients)

    def _over_arrays(self, name, want, gradients):
        """A function of whole arrays. It works tile by tile, as the engine does, so that both the formula and the sum are vectorised."""
        inputs, arrays = self.inputs, [*self.inputs, *gradients]
        slopes = [f"_slope{k}" for k in range(len(gradients))]
        result = ", ".join(["_value", *([_tuple(slopes)] if slopes else [])])
        elements = ", ".join([*(f"{array}[_i]" for array in inputs), *self.arguments])
        lines = [
            f"    _count = {inputs[0]}.size",
            *(f"    _check({array!r}, {array}, _count)" for array in arrays[1:]),
            f"    _tile, _lanes = _scratch({inputs[0]})",
            "    _total, _scale = 0.0, _real_like(_tile, 1.0 / _max(_count, 1))",
            f"    for _start in _range(0, _count, {loops.TILE}):",
            f"        _stop = _min(_start + {loops.TILE}, _count)",
            "        for _i in _range(_start, _stop):",
            f"            {result} = _compute({elements})",
            "            _tile[_i - _start] = _value",
            *(f"            {gradient}[_i] = {slope} * _scale" for gradient, slope in zip(gradients, slopes, strict=True)),
            "        _total += _add_up(_tile, _lanes, _stop - _start)",
            "    return _total / _count if _count else _nan",
        ]
        scope = {"_check": loops.checker(self.who), "_scratch": loops.scratch}
        scope |= {"_real_like": loops.real_like, "_add_up": loops.add_up}
        scope |= {"_nan": float("nan"), "_range": range, "_min": min, "_max": max, "_compute": self._element(want)}
        return self._function(name, arrays, lines, scope)


class RuleFunctions(Functions):
    """An update rule's `step(param, grad, *states, step, *hyperparameters)`, for one element: the new parameter and states, a tuple.

    A rule with numbers that are carried from step to step takes them after `step`. float32 is computed in float32, by the parameter.
    A hyperparameter whose default decides which states there are is fixed at it, unless it is fixed at something else.
    """

    names = ("step",)

    def _fix_more(self):
        for name, domain in self.formula.parameters.items():
            if name not in self.fixed and domain.choice(domain.default) is not None:
                self.fixed[name] = domain.default

    @property
    def choices(self):
        values = {name: domain.default for name, domain in self.formula.parameters.items()} | self.fixed
        return [self.formula.choice(values)]

    @lazy
    def inputs(self):
        return tuple(self.formula.trace(self.choices[0]).inputs)

    def _roles(self, traced, want):
        return list(traced.outputs)

    @lazy
    def step(self):
        arguments = [*self.inputs, *(name for name in self.arguments if name == "step" or name in self.formula.carried)]
        call = ", ".join([*self.inputs, *self.arguments])
        defaults = {name: value for name, value in self.arguments.items() if name not in arguments}
        lines = [f"    return _compute({call})"]
        return self._function("step", arguments, lines, {"_compute": self._element("step")}, defaults)


def functions(formula):
    """The functions of a formula, none of its hyperparameters fixed but those that decide what is computed."""
    return RuleFunctions(formula) if isinstance(formula, UpdateRule) else LossFunctions(formula)


def _run(text, name, scope):
    """The function that the text defines."""
    exec(compile(text, f"<fastloss {name}>", "exec"), scope)
    return scope[name]


def _numbered(letter, nodes):
    """Names that cannot be those of functions and of other numbers, as an author's own may be."""
    return {f"{letter}{k}": node for k, node in enumerate(nodes)}


def _shared_text(traced, nodes):
    """The function `(*parameters, length) -> tuple` that computes what all elements share."""
    text = scalar_text("shared", _numbered("p", [*traced.parameters, traced.graph.node("length")]), nodes, [])
    return text if len(nodes) != 1 else f"{text},"


def _tuple(parts):
    parts = list(parts)
    return parts[0] if len(parts) == 1 else f"({', '.join(parts)})"
