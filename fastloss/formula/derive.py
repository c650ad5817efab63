"""Derivatives of a graph, as more nodes of the same graph."""

from .graph import FOLDS, RUNS, combine, select, walk
from .primitives import TABLE


def derivative(node, wrt, memo=None):
    """d node / d wrt, by the forward-mode rule of each operation."""
    memo = {} if memo is None else memo
    stack = [node]
    while stack:  # not by recursion: a formula may be deeper than Python's stack
        inner = stack[-1]
        lacking = [] if id(inner) in memo else [a for a in _differentiated(inner, wrt) if id(a) not in memo]
        if lacking:
            stack += lacking
            continue
        stack.pop()
        if id(inner) not in memo:
            memo[id(inner)] = _rule(inner, wrt, lambda argument: memo[id(argument)])
    return memo[id(node)]


def _differentiated(node, wrt):
    """The nodes whose derivatives that of this node is made of."""
    if node is wrt or node.uniform or node.op in FOLDS or node.op in RUNS:
        return ()
    if id(node) in node.graph.slopes:
        return [x for x, _ in node.graph.slopes[id(node)]]
    if node.op == "where":
        return node.args[1:]
    if node.op in TABLE:
        return [a for a, rule in zip(node.args, TABLE[node.op].derivatives, strict=True) if rule]
    return node.operands


def _rule(node, wrt, d):
    literal = node.graph.literal
    if node is wrt:
        return literal(1)
    if node.uniform or not node.operands or node.op in FOLDS or node.op in RUNS:
        return literal(0)
    if id(node) in node.graph.slopes:
        return _sum(node.graph, (slope * d(x) for x, slope in node.graph.slopes[id(node)]))
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


def carries_nan(node, source):
    """Whether a NaN in `source` makes `node` NaN, whatever the other inputs are."""
    carries = {}
    for inner in walk([node]):
        branches = [carries[id(a)] for a in inner.operands]
        if inner is source:
            carries[id(inner)] = True
        elif inner.op == "where":
            carries[id(inner)] = branches[1] and branches[2]
        elif inner.op in FOLDS:
            carries[id(inner)] = inner.op != "pick" and branches[0]
        elif inner.op in ("power", "xlogy", "scaled_exp"):  # power(NaN, 0) is 1, xlogy(0, NaN) and scaled_exp(0, NaN) are 0
            carries[id(inner)] = False
        else:
            carries[id(inner)] = inner.op in _ARITHMETIC and any(branches)
    return carries[id(node)]


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
