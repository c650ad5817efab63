"""How far two engines may lie apart that compute a row formula alike but add up its folds in another order.

All operations but the folds round alike, so what differs starts at a fold: by a rounding of what it adds up. `slack` carries that
through the formula's graph, to first order, with a rounding of every number on its way. Where a formula subtracts near-equal
numbers, the slack of the difference is that of the numbers: of what entered it, not of what is left.
"""

import numpy as np

from fastloss.formula.graph import FOLDS, RUNS

from .twin import _FUNCTIONS, _OPERATORS

# Large enough for differences in float64 to show what it does to a function.
_UNIT = float(np.finfo(np.float32).eps)


def slack(traced, rows, vector, dtype):
    """{role: (value, slack)} of every output, in float64, for inputs by name of the shape (rows, length), (rows, 1) or (1, length)."""
    walk = _Walk(traced, rows, vector)
    with np.errstate(all="ignore"):
        found = {role: walk.node(node) for role, node in traced.outputs.items() if "hvp" not in role}
    return {role: (value, np.asarray(moved) * (np.finfo(dtype).eps / _UNIT)) for role, (value, moved) in found.items()}


class _Walk:
    def __init__(self, traced, rows, vector):
        self.known = {id(traced.inputs[name]): (array, np.float64(0)) for name, array in rows.items()}
        self.known |= {id(s): (np.float64(v), np.float64(0)) for s, v in zip(traced.parameters, vector, strict=True)}
        self.length = max(array.shape[-1] for array in rows.values())

    def node(self, node):
        """The node's value and slack."""
        if id(node) not in self.known:
            self.known[id(node)] = self.compute(node)
        return self.known[id(node)]

    def compute(self, node):
        if node.op in ("literal", "length"):
            return (self.length if node.op == "length" else node.args[0]), np.float64(0)
        values, slacks = zip(*map(self.node, node.args), strict=True)
        if node.op in FOLDS or node.op in RUNS:
            return self.fold(node.op, values, slacks)
        value = self.apply(node.op, values)
        if node.kind == "bool":
            return value, np.float64(0)
        if node.op == "where":
            return value, np.where(values[0], slacks[1], slacks[2])
        moved = self.carried(node.op, values, slacks, value)
        return value, moved + np.where(moved > 0, _UNIT * abs(value), 0)

    def apply(self, op, values):
        if op in ("exp_nonpositive", "sigmoid", "softplus", "log_sigmoid", "where") or op in _OPERATORS:
            return (_OPERATORS.get(op) or _FUNCTIONS[op])(*values)
        return (_FUNCTIONS.get(op) or getattr(np, op))(*values)

    def carried(self, op, values, slacks, value):
        """How far what moved the arguments moves the result."""
        total = np.zeros(np.shape(value))
        for k, moved in enumerate(slacks):
            if np.any(moved):
                sides = [self.apply(op, [*values[:k], values[k] + step, *values[k + 1 :]]) for step in (moved, -moved)]
                total = total + np.fmax(*(abs(side - value) for side in sides))
        return total

    def fold(self, op, values, slacks):
        if op == "pick":
            label = values[1].astype(int)
            picked = [
                np.take_along_axis(np.broadcast_to(a, (len(label), self.length)), label, 1) for a in (values[0], slacks[0])
            ]
            return picked[0], picked[1]
        value, moved = np.broadcast_arrays(values[0], slacks[0])
        if op in ("largest", "shift"):
            return value.max(-1, keepdims=True), moved.max(-1, keepdims=True)
        if op == "total":
            return value.sum(-1, keepdims=True), (moved + _UNIT * abs(value)).sum(-1, keepdims=True)
        side = slice(None) if op == "preceding" else slice(None, None, -1)

        def running(a):
            return (np.cumsum(a[..., side], -1) - a[..., side])[..., side]

        return running(value), running(moved + _UNIT * abs(value))
