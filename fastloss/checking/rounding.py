"""A formula in exact arithmetic, with a bound on the rounding: the best that it, as written, allows in a precision.

`bounded` computes each node to 50 digits together with the largest error that correct rounding of every single operation may leave
in it. Where a formula subtracts near-equal numbers the bound is relative to their size.
"""

import operator

import mpmath as mp
import numpy as np

from ..formula.graph import COMPARISONS
from ..formula.oracle import DIGITS, computed
from ..formula.primitives import TABLE

_SIGNS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne}
_OPERATORS = {name: _SIGNS[sign] for sign, name in COMPARISONS.items()}
_OPERATORS |= {"add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv, "neg": operator.neg}
_OPERATORS |= {"and": operator.and_, "or": operator.or_}

# What the vector math promises, in units of half an ulp: 1 ulp for exp and log, 2 for the others; arithmetic and roots are
# correctly rounded.
_EXACT = {"absolute", "sign", "maximum", "minimum", "neg", "where"}
_PROMISED = {"add": 1, "sub": 1, "mul": 1, "div": 1, "sqrt": 1, "exp": 2, "log": 2}


def bounded(traced, point, vector, dtype, arithmetic=True):
    """{role: (value, bound)} at one point, both of mpmath; the bound is infinite where rounding may change everything.

    Without `arithmetic` only the functions' errors count: what the vector math may add to a formula in correct arithmetic.
    """
    with mp.workdps(DIGITS), np.errstate(over="ignore"):
        return _Bounded(traced, point, vector, np.dtype(dtype), arithmetic).outputs()


class _Bounded:
    def __init__(self, traced, point, vector, dtype, arithmetic):
        self.traced, self.real, self.arithmetic = traced, dtype.type, arithmetic
        self.unit = mp.mpf(float(np.finfo(dtype).eps)) / 2
        self.double = mp.mpf(2) ** -53
        self.tiny = mp.mpf(float(np.finfo(dtype).smallest_subnormal))
        self.known = {id(symbol): (mp.mpf(float(point[name])), mp.mpf(0)) for name, symbol in traced.inputs.items()}
        self.known |= {id(s): (mp.mpf(v), mp.mpf(0)) for s, v in zip(traced.parameters, vector, strict=True)}

    def outputs(self):
        found = {}
        for role, node in self.traced.outputs.items():
            value, error = self.handed(node, computed(node, self.compute, self.known, id), None)
            found[role] = value, error + self.tiny
        return found

    def handed(self, node, found, user):
        """What was found of a node, as the node's user sees it: a uniform is rounded to the kernel's precision."""
        if node.kind != "real":
            return found
        value, error = found
        if node.kind == "real" and node.uniform and not (user is not None and user.uniform):
            error = error + self.rounding(value, self.unit, node.op, error)
        return value, error

    def rounding(self, value, unit, op, error):
        if op in _EXACT or not mp.isfinite(value) or not (self.arithmetic or op in TABLE):
            return mp.mpf(0)
        if error == 0 and mp.mpf(float(self.real(float(value)))) == value and op in _OPERATORS:
            return mp.mpf(0)  # representable, from exact arguments: exact
        if op in ("literal", "parameter") and mp.mpf(float(self.real(float(value)))) == value:
            return mp.mpf(0)
        return _PROMISED.get(op, 1 if op in ("literal", "parameter") else 4) * unit * abs(value) + self.tiny

    def compute(self, node):
        """The node's value and the bound on its error, as `oracle.computed` takes it."""
        if node.op == "literal":
            return (mp.mpf(node.args[0]), mp.mpf(0)) if node.kind == "real" else (bool(node.args[0]), True)
        if node.op == "where":
            return (yield from self.where(node))
        arguments = []
        for argument in node.args:
            arguments.append(self.handed(argument, (yield argument), node))
        if node.op in ("and", "or"):
            return _OPERATORS[node.op](arguments[0][0], arguments[1][0]), arguments[0][1] and arguments[1][1]
        if node.kind == "bool":
            (a, ea), (b, eb) = arguments
            certain = mp.isnan(a) or mp.isnan(b) or not (ea + eb) or not abs(a - b) <= ea + eb
            return _OPERATORS[node.op](a, b), certain
        values, errors = zip(*arguments, strict=True)
        if any(mp.isnan(v) for v in values):
            return mp.nan, mp.mpf(0)
        value = self.apply(node.op, values)
        error = self.carried(node.op, values, errors, value)
        unit = self.double if node.uniform else self.unit
        return value, error + self.rounding(value, unit, node.op, error)

    def where(self, node):
        condition, *branches = node.args
        truth, certain = yield condition
        chosen, left = branches[not truth], branches[truth]
        value, error = self.handed(chosen, (yield chosen), node)
        if not certain:
            other, other_error = self.handed(left, (yield left), node)
            error = max(error, abs(other - value) + other_error) if not mp.isnan(other) else mp.inf
        return value, error

    def apply(self, op, values):
        if op == "div" and not values[1]:
            return mp.nan if not values[0] else mp.inf * mp.sign(values[0])
        result = _OPERATORS[op](*values) if op in _OPERATORS else TABLE[op].exact(mp, *values)
        return result if isinstance(result, mp.mpf) else mp.nan

    def carried(self, op, values, errors, value):
        """How far the arguments' errors move the result, to first order, sums of absolute values."""
        if not any(errors) or not mp.isfinite(value):
            return mp.mpf(0)
        if op in ("add", "sub", "neg", "absolute"):
            return mp.fsum(errors)
        if op == "mul":
            return abs(values[0]) * errors[1] + abs(values[1]) * errors[0] + errors[0] * errors[1]
        total = mp.mpf(0)
        for i, error in enumerate(errors):
            if not error:
                continue
            if not mp.isfinite(error):
                return mp.inf
            moved = []
            for step in (error, -error):
                there = self.apply(op, [*values[:i], values[i] + step, *values[i + 1 :]])
                moved.append(abs(there - value) if not mp.isnan(there) else mp.inf)
            total += max(moved)
        return total
