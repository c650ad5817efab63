"""Products that meet a sum become one `fma`.

The compiler would fuse them too, but in its own way in each kernel, in a loop's vectors and in its tail: the same element
would differ in its last bit with its place and with the outputs asked for. Chosen here, by what a node is and by nothing
around it, one rounding fewer costs nothing of that.
"""

from .graph import REAL, walk


def contracted(outputs, stop=(), apart=()):
    """The outputs with every varying `a * b + c` fused; the nodes of `stop` stay as they are, and are not looked into.

    Products in `apart` are rounded before they are added to anything.
    """
    new = {id(node): node for node in stop}
    whole, apart = set(new), {id(node) for node in apart}
    for node in walk(outputs, stop):
        if id(node) not in new:
            args = [new.get(id(a), a) for a in node.args]
            # An unchanged node is found again: equal expressions are one node.
            fused = _fused(node, args, whole)
            new[id(node)] = node.graph.node(node.op, *args, kind=node.kind) if fused is None else fused
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


def _is_product(node, whole):
    return node.op == "mul" and not node.uniform and id(node) not in whole


def _same(node):
    return node


def _negative(node):
    return node.graph.literal(-node.args[0]) if node.op == "literal" else node.graph.node("neg", node)
