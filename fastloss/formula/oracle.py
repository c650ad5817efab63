"""The oracle: a traced formula's outputs to 50 digits, and the numerical derivatives of its value.

It knows no overflow and no rounding to speak of, so it says what the kernels should have said. mpmath is imported on use.
"""

import operator

from .graph import COMPARISONS
from .primitives import TABLE

DIGITS = 50

_SIGNS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne}
_OPERATORS = {name: _SIGNS[sign] for sign, name in COMPARISONS.items()}
_OPERATORS |= {"add": operator.add, "sub": operator.sub, "mul": operator.mul, "neg": operator.neg}
_OPERATORS |= {"and": operator.and_, "or": operator.or_}


def evaluate(traced, inputs, parameters):
    """Every output of a variant, {role: mpf}, for inputs by name and hyperparameters as the parameter vector holds them."""
    import mpmath

    with mpmath.workdps(DIGITS):
        return {role: _value(traced, node, inputs, parameters) for role, node in traced.outputs.items()}


def differentiate(traced, inputs, parameters):
    """Numerical first and second derivatives of a variant's value: {"grad_pred": mpf, "hess_pred": mpf, ...}."""
    import mpmath

    found = {}
    names = [role.removeprefix("grad_") for role in traced.outputs if role.startswith("grad_")]
    with mpmath.workdps(4 * DIGITS):  # a small curvature is the difference of large values
        for name in names:

            def along(x, name=name):
                return _value(traced, traced.outputs["value"], inputs | {name: x}, parameters)

            point = mpmath.mpf(inputs[name])
            found[f"grad_{name}"] = mpmath.diff(along, point)
            found[f"hess_{name}"] = mpmath.diff(along, point, 2)
    return found


def _value(traced, node, inputs, parameters):
    """One node's value, at mpmath's present precision."""
    import mpmath as mp

    known = {id(symbol): mp.mpf(inputs[name]) for name, symbol in traced.inputs.items()}
    known |= {id(symbol): mp.mpf(value) for symbol, value in zip(traced.parameters, parameters, strict=True)}

    def value(node):
        if id(node) not in known:
            known[id(node)] = compute(node)
        return known[id(node)]

    def compute(node):
        if node.op == "literal":
            return node.args[0] if node.kind == "bool" else mp.mpf(node.args[0])
        if node.op == "where":  # the branch not taken need not have a value
            condition, a, b = node.args
            return value(a if value(condition) else b)
        arguments = [value(a) for a in node.args]
        if any(isinstance(a, mp.mpf) and mp.isnan(a) for a in arguments) and node.kind == "real":
            return mp.nan
        if node.op == "div":
            return _quotient(mp, *arguments)
        if node.op in _OPERATORS:
            return _OPERATORS[node.op](*arguments)
        result = TABLE[node.op].exact(mp, *arguments)
        return result if isinstance(result, mp.mpf) else mp.nan  # a complex number is outside the domain

    return value(node)


def _quotient(mp, a, b):
    """a / b as IEEE 754 has it, but for the sign of zero."""
    if b:
        return a / b
    return mp.nan if not a else mp.inf * mp.sign(a)
