"""The oracle: a traced formula's outputs to 50 digits, and the numerical derivatives of its value.

It knows no overflow and no rounding to speak of, so it says what the kernels should have said. mpmath is imported on use.
"""

import copy
import operator

from .graph import COMPARISONS, ELEMENT, FOLDS, INT, RUNS, walk
from .primitives import TABLE

DIGITS = 50

_SIGNS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne}
_OPERATORS = {name: _SIGNS[sign] for sign, name in COMPARISONS.items()}
_OPERATORS |= {"add": operator.add, "sub": operator.sub, "mul": operator.mul, "neg": operator.neg}
_OPERATORS |= {"and": operator.and_, "or": operator.or_}


def evaluate(traced, inputs, parameters):
    """Every output of a variant, {role: mpf}, for inputs by name and hyperparameters as the parameter vector holds them.

    A row formula's inputs are lists, and so are its outputs, where they hold rows. Products with the Hessian are among them if
    the inputs hold their directions.
    """
    import mpmath

    with mpmath.workdps(DIGITS):
        at = Point(traced, inputs, parameters)
        lacking = [node for name, node in traced.directions.items() if name not in inputs]
        return {role: at.every(node) for role, node in traced.outputs.items() if not _needs(node, lacking)}


def differentiate(traced, inputs, parameters):
    """Numerical first and second derivatives of a variant's value: {"grad_pred": mpf, "hess_pred": mpf, ...}, lists for rows."""
    import mpmath

    found = {}
    names = [role.removeprefix("grad_") for role in traced.outputs if role.startswith("grad_")]
    with mpmath.workdps(4 * DIGITS):  # a small curvature is the difference of large values
        for name in names:
            row = inputs[name]

            def along(x, name=name, row=row, j=None):
                moved = x if j is None else [*row[:j], x, *row[j + 1 :]]
                return Point(traced, inputs | {name: moved}, parameters).value(traced.outputs["value"], 0)

            for role, order in ((f"grad_{name}", 1), (f"hess_{name}", 2)):
                if isinstance(row, list):
                    found[role] = [
                        mpmath.diff(lambda x, j=j: along(x, j=j), mpmath.mpf(row[j]), order) for j in range(len(row))
                    ]
                else:
                    found[role] = mpmath.diff(along, mpmath.mpf(row), order)
    return found


def computed(request, compute, known, key):
    """What `compute(request)`, a generator, returns; it yields requests for what it needs and is sent the answers.

    `known` holds all answers by `key(request)`. A graph may be deeper than Python's stack, so this does not call itself.
    """
    stack = [] if key(request) in known else [(key(request), compute(request))]
    answer = None
    while stack:
        own, generator = stack[-1]
        try:
            needed = generator.send(answer)
        except StopIteration as finished:
            answer = known[own] = finished.value
            stack.pop()
            continue
        answer = known.get(key(needed))
        if answer is None:
            stack.append((key(needed), compute(needed)))
    return known[key(request)]


def _needs(node, symbols):
    return bool(symbols) and any(inner is symbol for inner in walk([node]) for symbol in symbols)


class Point:
    """The values of nodes for given inputs, at mpmath's present precision."""

    def __init__(self, traced, inputs, parameters):
        import mpmath

        self.mp = mpmath
        symbols = traced.inputs | traced.directions
        self.rows = {id(symbols[name]): row for name, row in inputs.items() if isinstance(row, list)}
        self.length = next(map(len, self.rows.values()), 1)
        self.known = {id(symbol): mpmath.mpf(value) for symbol, value in zip(traced.parameters, parameters, strict=True)}
        for name, symbol in traced.inputs.items():
            if id(symbol) not in self.rows:
                self.known[id(symbol)] = inputs[name] if symbol.kind == INT else mpmath.mpf(inputs[name])

    def every(self, node):
        """A number, or a list of them where the node varies along a row."""
        if self.rows and node.level == ELEMENT:
            return [self.value(node, j) for j in range(self.length)]
        return self.value(node, 0)

    def value(self, node, j):
        """The node's value at the row's element j."""
        return computed((node, j), self.compute, self.known, self.key)

    def key(self, request):
        """What a value is known by."""
        node, j = request
        return (id(node), j) if self.rows and node.level == ELEMENT else id(node)

    def compute(self, request):
        node, j = request
        mp = self.mp
        if node.op == "literal":
            return node.args[0] if node.kind == "bool" else mp.mpf(node.args[0])
        if id(node) in self.rows:
            return mp.mpf(self.rows[id(node)][j])
        if node.op == "length":
            return mp.mpf(self.length)
        if node.op in FOLDS:
            return (yield from self.fold(node))
        if node.op in RUNS:
            elements = yield from _each(node.args[0], range(j) if node.op == "preceding" else range(j + 1, self.length))
            return mp.nan if any(map(mp.isnan, elements)) else mp.fsum(elements)
        if node.op == "where":  # the branch not taken need not have a value
            condition, a, b = node.args
            return (yield (a if (yield condition, j) else b), j)
        arguments = []
        for argument in node.args:
            arguments.append((yield argument, j))
        if any(isinstance(a, mp.mpf) and mp.isnan(a) for a in arguments) and node.kind == "real":
            return mp.nan
        if node.op == "div":
            return _quotient(mp, *arguments)
        if node.op in _OPERATORS:
            return _OPERATORS[node.op](*arguments)
        result = TABLE[node.op].exact(mp, *arguments)
        return result if isinstance(result, mp.mpf) else mp.nan  # a complex number is outside the domain

    def fold(self, node):
        if node.op == "pick":
            return (yield node.args[0], (yield node.args[1], 0))
        if node.op == "iterate":
            return self.iterated(node, (yield node.args[0], 0))
        elements = yield from _each(node.args[0], range(self.length))
        if any(map(self.mp.isnan, elements)):
            return self.mp.nan
        return self.mp.fsum(elements) if node.op == "total" else max(elements)

    def iterated(self, node, following):
        step = node.graph.loops[id(node)]
        reached = -self.mp.inf
        while following > reached:
            reached = following
            at = copy.copy(self)
            at.known = self.known | {id(node): reached}
            following = at.value(step, 0)
        return reached


def _each(node, elements):
    """The node's values at these elements."""
    values = []
    for j in elements:
        values.append((yield node, j))
    return values


def _quotient(mp, a, b):
    """a / b as IEEE 754 has it, but for the sign of zero."""
    if b:
        return a / b
    return mp.nan if not a else mp.inf * mp.sign(a)
