"""What the processor has one instruction for becomes one node: a product that meets a sum, the lesser or greater of two.

The compiler would fuse products too, but in its own way in each kernel, in a loop's vectors and in its tail: the same element
would differ in its last bit with its place and with the outputs asked for. Chosen here, by what a node is and by nothing
around it, one rounding fewer costs nothing of that.
"""

from .graph import REAL, walk


def contracted(outputs, stop=(), apart=()):
    """The outputs with every varying `a * b + c` fused, and choices by comparison made extremes.

    The nodes of `stop` stay as they are, and are not looked into. Products in `apart` are rounded before they are added to anything.
    """
    new = {id(node): node for node in stop}
    whole, apart = set(new), {id(node) for node in apart}
    for node in walk(outputs, stop):
        if id(node) not in new:
            args = [new.get(id(a), a) for a in node.args]
            rewritten = _extreme(node, args) if node.op == "where" else _fused(node, args, whole)
            # An unchanged node is found again: equal expressions are one node.
            new[id(node)] = node.graph.node(node.op, *args, kind=node.kind) if rewritten is None else rewritten
            if id(node) in apart:
                whole.add(id(new[id(node)]))
    return [new[id(node)] for node in outputs]


def _fused(node, args, whole):
    """`node` as `fma`, if it is the sum or difference of a product and something else."""
    if node.op not in ("add", "sub") or node.kind != REAL or node.uniform:
        return None
    left, right = args
    signed = _negative if node.op == "sub" else _same
    if _is_product(right, whole):
        a, b = right.args
        return node.graph.node("fma", signed(a), b, left)
    if _is_product(left, whole):
        a, b = left.args
        return node.graph.node("fma", a, b, signed(right))
    return None


def _extreme(node, args):
    """`where(a < b, a, b)` and its kin as what the vector instructions for extremes give: `b` where either is NaN."""
    if args[0].op not in ("lt", "gt"):
        return None
    compared, chosen = args[0].args, args[1:]
    if not all(x is y for x, y in zip(compared, chosen, strict=True)):
        chosen = chosen[::-1]
        if not all(x is y for x, y in zip(compared, chosen, strict=True)):
            return None
    is_lesser = (args[0].op == "lt") == (compared[0] is args[1])
    return node.graph.node("lesser" if is_lesser else "greater", *args[1:], kind=node.kind)


def _is_product(node, whole):
    return node.op == "mul" and not node.uniform and id(node) not in whole


def _same(node):
    return node


def _negative(node):
    return node.graph.literal(-node.args[0]) if node.op == "literal" else node.graph.node("neg", node)
