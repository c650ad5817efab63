"""Derivatives of a graph, as more nodes of the same graph."""

from .graph import FOLDS, RUNS, combine, select
from .primitives import TABLE


def derivative(node, wrt, memo=None):
    """d node / d wrt, by the forward-mode rule of each operation."""
    memo = {} if memo is None else memo
    if id(node) not in memo:
        memo[id(node)] = _rule(node, wrt, lambda argument: derivative(argument, wrt, memo))
    return memo[id(node)]


def _rule(node, wrt, d):
    literal = node.graph.literal
    if node is wrt:
        return literal(1)
    if node.uniform or not node.operands or node.op in FOLDS or node.op in RUNS:
        return literal(0)
    if id(node) in node.graph.slopes:
        x, slope = node.graph.slopes[id(node)]
        return slope * d(x)
    if node.op == "where":
        condition, a, b = node.args
        return select(condition, d(a), d(b))
    if node.op in TABLE:
        rules = TABLE[node.op].derivatives
        slopes = ((d(a), rule) for a, rule in zip(node.args, rules, strict=True) if rule)
        return _sum(node.graph, (rule(node, *node.args) * slope for slope, rule in slopes if not slope.is_literal(0)))
    if node.op == "neg":
        return -d(node.args[0])
    a, b = node.args
    if node.op in ("add", "sub"):
        return combine(node.op, d(a), d(b))
    if node.op == "mul":
        return 2 * a * d(a) if a is b else d(a) * b + a * d(b)
    if node.op == "div":
        return d(a) / b if d(b).is_literal(0) else (d(a) - node * d(b)) / b
    raise NotImplementedError(node.op)


def _sum(graph, terms):
    total = graph.literal(0)
    for term in terms:
        total = total + term
    return total


_ARITHMETIC = {"add", "sub", "mul", "div", "neg", *TABLE}


def carries_nan(node, source, memo=None):
    """Whether a NaN in `source` makes `node` NaN, whatever the other inputs are."""
    memo = {} if memo is None else memo
    if id(node) not in memo:
        branches = [carries_nan(a, source, memo) for a in node.operands]
        if node is source:
            memo[id(node)] = True
        elif node.op == "where":
            memo[id(node)] = branches[1] and branches[2]
        elif node.op in FOLDS:
            memo[id(node)] = node.op != "pick" and branches[0]
        elif node.op in ("power", "xlogy"):  # power(NaN, 0) is 1, xlogy(0, NaN) is 0
            memo[id(node)] = False
        else:
            memo[id(node)] = node.op in _ARITHMETIC and any(branches)
    return memo[id(node)]


def guard_nan(node, sources):
    """`node`, made NaN where a source is: a comparison would otherwise pick a branch that forgets it."""
    forgotten = [source for source in sources if not carries_nan(node, source)]
    if not forgotten:
        return node
    # One select for all of them: a chain of selects tempts the compiler into branches.
    ordered, total = forgotten[0] == forgotten[0], forgotten[0]
    for source in forgotten[1:]:
        ordered, total = ordered & (source == source), total + source
    return select(ordered, node, total)
