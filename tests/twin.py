"""The slow twins of a kernel: its traced graph in plain NumPy, and (`bounded`) in exact arithmetic with a bound on the rounding.

`evaluate` is what a NumPy user would have written, node by node, in the dtype of the call.
"""

import math
import operator

import numpy as np

from fastloss.checking.rounding import bounded  # noqa: F401
from fastloss.formula.graph import COMPARISONS, walk
from fastloss.formula.oracle import DIGITS  # noqa: F401

_SIGNS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne}
_OPERATORS = {name: _SIGNS[sign] for sign, name in COMPARISONS.items()}
_OPERATORS |= {"add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv, "neg": operator.neg}
_OPERATORS |= {"and": operator.and_, "or": operator.or_}
_FUNCTIONS = {
    "absolute": np.abs,
    "exp_nonpositive": np.exp,
    "scaled_exp": lambda scale, x: np.where(scale == 0, 0 * scale, scale * np.exp(x)),
    "out_of_range": lambda square: 0 * square,
    "range_scale": lambda code: 0 * code + 1,
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


def ulp(value, dtype):
    """The distance between the dtype's numbers at these (float64 or mpmath) values."""
    with np.errstate(all="ignore"):
        return np.spacing(np.abs(np.asarray(value, np.float64)).astype(dtype)).astype(np.float64)


def rounded(value, dtype):
    """An exact number as the dtype holds it: infinite beyond its largest."""
    with np.errstate(over="ignore"):
        return float(np.dtype(dtype).type(float(value))) if math.isfinite(value) else float(value)
