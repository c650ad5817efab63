"""The slow twins of a kernel: its traced graph in plain NumPy, and in exact arithmetic with a bound on the rounding.

`evaluate` is what a NumPy user would have written, node by node, in the dtype of the call. `bounded` computes each node to 50
digits together with the largest error that correct rounding of every single operation may leave in it: the best that the
formula, as written, allows in a precision. Where a formula subtracts near-equal numbers the bound is relative to their size.
"""

import math
import operator

import mpmath as mp
import numpy as np

from fastloss.formula.graph import COMPARISONS, walk
from fastloss.formula.primitives import TABLE

DIGITS = 50
_SIGNS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne}
_OPERATORS = {name: _SIGNS[sign] for sign, name in COMPARISONS.items()}
_OPERATORS |= {"add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv, "neg": operator.neg}
_OPERATORS |= {"and": operator.and_, "or": operator.or_}
_FUNCTIONS = {
    "absolute": np.abs,
    "exp_nonpositive": np.exp,
    "sqrt1pm1": lambda x: x / (1 + np.sqrt(1 + x)),
    "log1pmx": lambda x: np.log1p(x) - x,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softplus": lambda x: np.logaddexp(0 * x, x),
    "log_sigmoid": lambda x: -np.logaddexp(0 * x, -x),
    "log_cosh": lambda x: np.logaddexp(x, -x) - np.log(x.dtype.type(2)),
    "xlogy": lambda x, y: np.where(x == 0, 0 * x, x * np.log(y)),
    "atan": np.arctan,
    "where": np.where,
}


def evaluate(traced, inputs, vector, dtype):
    """Every output of a variant, {role: array}, in plain NumPy of this dtype. What all elements share is computed in double."""
    real = np.dtype(dtype).type
    known = {id(symbol): np.asarray(inputs[name], dtype) for name, symbol in traced.inputs.items()}
    known |= {id(symbol): np.float64(value) for symbol, value in zip(traced.parameters, vector, strict=True)}

    def handed(node, user):
        value = known[id(node)]
        return real(value) if node.uniform and not user.uniform and node.kind == "real" else value

    with np.errstate(all="ignore"):
        for node in walk(list(traced.outputs.values())):
            if id(node) in known:
                continue
            if node.op == "literal":
                known[id(node)] = np.float64(node.args[0]) if node.kind == "real" else np.bool_(node.args[0])
                continue
            function = _OPERATORS.get(node.op) or _FUNCTIONS.get(node.op) or getattr(np, node.op, None) or _special(node.op)
            known[id(node)] = function(*(handed(a, node) for a in node.args))
    first = next(iter(known.values()))
    return {role: np.broadcast_to(np.asarray(known[id(node)], dtype), first.shape) for role, node in traced.outputs.items()}


def _special(name):
    from scipy import special

    trigamma = lambda x: special.polygamma(1, x)  # noqa: E731
    return {"lgamma": special.gammaln, "digamma": special.digamma, "trigamma": trigamma}[name]


# What the vector math promises, in units of half an ulp: 1 ulp for exp and log, 2 for the others; arithmetic and roots are
# correctly rounded.
_EXACT = {"absolute", "sign", "maximum", "minimum", "neg", "where"}
_PROMISED = {"add": 1, "sub": 1, "mul": 1, "div": 1, "sqrt": 1, "exp": 2, "log": 2}


def bounded(traced, point, vector, dtype, arithmetic=True):
    """{role: (value, bound)} at one point, both of mpmath; the bound is infinite where rounding may change everything.

    Without `arithmetic` only the functions' errors count: what the vector math may add to a formula in correct arithmetic.
    """
    with mp.workdps(DIGITS):
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
            value, error = self.handed(node, None)
            found[role] = value, error + self.tiny
        return found

    def handed(self, node, user):
        """A node as its user sees it: a uniform is rounded to the kernel's precision."""
        value, error = self.node(node)
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

    def node(self, node):
        if id(node) not in self.known:
            self.known[id(node)] = self.compute(node)
        return self.known[id(node)]

    def compute(self, node):
        if node.op == "literal":
            return (mp.mpf(node.args[0]), mp.mpf(0)) if node.kind == "real" else (bool(node.args[0]), True)
        if node.op == "where":
            return self.where(node)
        arguments = [self.handed(a, node) if a.kind == "real" else self.node(a) for a in node.args]
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
        truth, certain = self.node(condition)
        value, error = self.handed(branches[not truth], node)
        if not certain:
            other, other_error = self.handed(branches[truth], node)
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


def ulp(value, dtype):
    """The distance between the dtype's numbers at these (float64 or mpmath) values."""
    with np.errstate(all="ignore"):
        return np.spacing(np.abs(np.asarray(value, np.float64)).astype(dtype)).astype(np.float64)


def rounded(value, dtype):
    """An exact number as the dtype holds it: infinite beyond its largest."""
    with np.errstate(over="ignore"):
        return float(np.dtype(dtype).type(float(value))) if math.isfinite(value) else float(value)
