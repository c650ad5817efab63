"""Products that meet a sum become one `fma`.

The compiler would fuse them too, but in its own way in each kernel, in a loop's vectors and in its tail: the same element
would differ in its last bit with its place and with the outputs asked for. Chosen here, by what a node is and by nothing
around it, one rounding fewer costs nothing of that.
"""

from .graph import REAL, walk


def contracted(outputs, stop=()):
    """The outputs with every varying `a * b + c` fused; the nodes of `stop` stay as they are."""
    new = {id(node): node for node in stop}
    for node in walk(outputs, stop):
        if id(node) not in new:
            args = [new.get(id(a), a) for a in node.args]
            sum_of_reals = node.op in ("add", "sub") and node.kind == REAL and not node.uniform
            # An unchanged node is found again: equal expressions are one node.
            new[id(node)] = _sum(node, *args) if sum_of_reals else node.graph.node(node.op, *args, kind=node.kind)
    return [new[id(node)] for node in outputs]


def _sum(node, left, right):
    """`node`, the sum or difference of two sides, as `fma` where one of them is a product."""
    sign = 1 if node.op == "add" else -1
    if _is_product(right):
        a, b = right.args
        return node.graph.node("fma", a * sign, b, left)
    if _is_product(left):
        a, b = left.args
        return node.graph.node("fma", a, b, right * sign)
    return node.graph.node(node.op, left, right)


def _is_product(node):
    return node.op == "mul" and not node.uniform
