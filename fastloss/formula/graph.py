"""Symbols: the nodes of a formula's graph.

Calling a formula with symbols records what it computes. Equal expressions are one node (hash-consing), so a common
subexpression is computed once however often the formula or its derivatives mention it.
"""

import math
import numbers
import operator

REAL, INT, BOOL = "real", "int", "bool"
# Where a node's value varies: not within a call, from row to row, from element to element.
CALL, ROW, ELEMENT = range(3)
# What makes one number of a row's elements; to derivatives each is a symbol of its own (see rows.py).
FOLDS = {"total", "largest", "shift", "pick", "iterate"}
# What makes of each element a sum of those on one side of it, and its mirror image.
RUNS = {"preceding": "following", "following": "preceding"}

_SHOWN_DEPTH = 5

COMPARISONS = {"<": "lt", "<=": "le", ">": "gt", ">=": "ge", "==": "eq", "!=": "ne"}


class FormulaError(TypeError):
    """A formula uses what the formula language does not have."""


class Graph:
    """The nodes of one traced formula, each expression held once.

    `reassociate` allows products to be regrouped, which may change a result's last bit: not in fastloss.vecmath. Folds are
    numbers of `fold_level`.
    """

    def __init__(self, reassociate=True, fold_level=ROW):
        self._nodes = {}
        self.members = None  # the elements that a row's list of labels names
        self.needs = []  # conditions on a row without which its value is NaN
        self.left_out = None  # the condition under which a row's results are 0, whatever its elements are
        self.slopes = {}  # what `with_derivative` declares: id(node) -> pairs of x and slope
        self.loops = {}  # what follows an `iterate` node's number: id(node) -> its step
        self.reassociate = reassociate
        self.fold_level = fold_level

    def node(self, op, *args, kind=REAL, level=None):
        # Keyed by identity: `==` between symbols builds a comparison.
        key = (op, kind, *(id(a) if isinstance(a, Symbol) else (type(a), repr(a)) for a in args))
        if key not in self._nodes:
            self._nodes[key] = Symbol(self, op, args, kind, level)
        return self._nodes[key]

    def literal(self, value):
        if isinstance(value, Symbol):
            return value
        if isinstance(value, bool):
            return self.node("literal", value, kind=BOOL)
        if isinstance(value, numbers.Real):  # NumPy's scalars too
            try:
                return self.node("literal", float(value))
            except OverflowError:
                raise FormulaError("numbers must be within the range of float64, got one beyond it") from None
        raise FormulaError(f"a formula holds numbers and symbols, got {value!r}")

    def integer(self, value):
        if isinstance(value, Symbol):
            return value
        if not -(2**63) <= value < 2**64:
            raise FormulaError("whole numbers must fit into 64 bits, got one that does not")
        return self.node("literal", value, kind=INT)


# Operators, as NumPy's scalars call them.
_UFUNCS = {"add": operator.add, "subtract": operator.sub, "multiply": operator.mul, "divide": operator.truediv}
_UFUNCS |= {"power": operator.pow, "less": operator.lt, "less_equal": operator.le, "greater": operator.gt}
_UFUNCS |= {"greater_equal": operator.ge, "equal": operator.eq, "not_equal": operator.ne}


class Symbol:
    """One node: an operation, its arguments, the kind of its result, and where that varies."""

    __slots__ = ("args", "graph", "kind", "level", "op")
    __hash__ = object.__hash__

    def __init__(self, graph, op, args, kind, level=None):
        self.graph, self.op, self.args, self.kind = graph, op, args, kind
        if level is None:
            level = ELEMENT if op == "input" else max((a.level for a in self.operands), default=CALL)
        self.level = level

    def __repr__(self):
        return self._shown(_SHOWN_DEPTH)

    def _shown(self, depth):
        """The expression, cut off below a depth: a formula may be too large to print."""
        if not depth:
            return "..."
        return f"{self.op}({', '.join(a._shown(depth - 1) if isinstance(a, Symbol) else repr(a) for a in self.args)})"

    def __bool__(self):
        raise FormulaError(
            "a formula cannot branch on a symbol: its value is not known while the formula is traced; "
            "write where(condition, a, b), maximum or minimum, and & and | between conditions"
        )

    def __float__(self):
        raise FormulaError(
            "a symbol has no value while the formula is traced; use the functions of fastloss.math, not those of math"
        )

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        """What NumPy makes of an operator beside one of its scalars; its functions have twins here."""
        if ufunc.__name__ in _UFUNCS and method == "__call__":
            scalars = (x.item() if getattr(x, "shape", None) == () else x for x in inputs)
            return _UFUNCS[ufunc.__name__](*map(self.graph.literal, scalars))
        return self.__array_function__(ufunc)

    def __array_function__(self, function, *_):
        from .primitives import __all__ as known

        name = function.__name__
        way = f"write fastloss.math.{name}" if name in known else "see fastloss.math for what it has instead"
        raise FormulaError(f"a formula cannot call NumPy's {name}: a symbol is no array; {way}")

    @property
    def uniform(self):
        """The same for all elements, so computed once per call, in double."""
        return self.level == CALL

    @property
    def operands(self):
        return tuple(a for a in self.args if isinstance(a, Symbol))

    def is_literal(self, value=None):
        return self.op == "literal" and (value is None or self.args[0] == value)

    def _binary(self, op, other, swapped=False):
        wrap = self.graph.integer if self.kind == INT else self.graph.literal
        sides = (wrap(other), self) if swapped else (self, wrap(other))
        if op in _FOLD:  # conditions count as 1 and 0 in sums and products
            sides = (select(side, 1, 0) if side.kind == BOOL else side for side in sides)
        return combine(op, *sides)

    def __add__(self, other):
        return self._binary("add", other)

    def __radd__(self, other):
        return self._binary("add", other, swapped=True)

    def __sub__(self, other):
        return self._binary("sub", other)

    def __rsub__(self, other):
        return self._binary("sub", other, swapped=True)

    def __mul__(self, other):
        return self._binary("mul", other)

    def __rmul__(self, other):
        return self._binary("mul", other, swapped=True)

    def __truediv__(self, other):
        return self._binary("div", other)

    def __rtruediv__(self, other):
        return self._binary("div", other, swapped=True)

    def __neg__(self):
        return combine("neg", self)

    def __abs__(self):
        return self.graph.node("absolute", self)

    def __and__(self, other):
        return self._binary("and", other)

    def __or__(self, other):
        return self._binary("or", other)

    def __lshift__(self, other):
        return self._binary("shl", other)

    def __rshift__(self, other):
        return self._binary("shr", other)

    def __lt__(self, other):
        return self._binary("lt", other)

    def __le__(self, other):
        return self._binary("le", other)

    def __gt__(self, other):
        return self._binary("gt", other)

    def __ge__(self, other):
        return self._binary("ge", other)

    def __eq__(self, other):
        return self._binary("eq", other)

    def __ne__(self, other):
        return self._binary("ne", other)

    def __pow__(self, exponent):
        from .primitives import power

        return power(self, exponent)

    def __rpow__(self, base):
        from .primitives import power

        return power(self.graph.literal(base), self)


class Parameter(Symbol):
    """A hyperparameter. Its `special` values have kernels of their own, so `parameter == special` is plain False here."""

    __slots__ = ("special",)
    __hash__ = object.__hash__

    def __eq__(self, other):
        return False if other in self.special else Symbol.__eq__(self, other)

    def __ne__(self, other):
        return True if other in self.special else Symbol.__ne__(self, other)


_FOLD = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b if b else math.nan if a == 0 or a != a else math.copysign(math.inf, a),
}


def combine(op, *args):
    """The node for `op` on `args`, simplified where that changes no value (a factor 0 stands for a derivative that is 0)."""
    a, b = (*args, None)[:2]
    graph = a.graph
    if op == "neg":
        if a.is_literal():
            return a if a.is_literal(0) else graph.literal(-a.args[0])  # one zero: it stands for a derivative that is 0
        return a.args[0] if a.op == "neg" else graph.node("neg", a, kind=a.kind)
    if op in COMPARISONS.values():
        return graph.node(op, a, b, kind=BOOL)
    if a.kind == REAL:
        if a.is_literal() and b.is_literal():
            return graph.literal(_FOLD[op](a.args[0], b.args[0]))
        if op == "add":
            if a.is_literal(0):
                return b
            if b.is_literal(0):
                return a
            if b.op == "neg":
                return combine("sub", a, b.args[0])
            if a.op == "neg":
                return combine("sub", b, a.args[0])
        if op == "sub":
            if b.is_literal(0):
                return a
            if a.is_literal(0):
                return -b
            if b.op == "neg":
                return combine("add", a, b.args[0])
        if op == "mul":
            if a.is_literal(0) or b.is_literal(0):
                return graph.literal(0)
            if a.is_literal(1):
                return b
            if b.is_literal(1):
                return a
            if a.is_literal(-1):
                return -b
            if b.is_literal(-1):
                return -a
            if a.op == "neg" and b.op == "neg":
                return combine("mul", a.args[0], b.args[0])
            if a.op == "neg":
                return -combine("mul", a.args[0], b)
            if b.op == "neg":
                return -combine("mul", a, b.args[0])
            if b.is_literal():
                a, b = b, a
            if graph.reassociate:
                return _product(a, b)
        if op == "div":
            if b.is_literal(1):
                return a
            if a.is_literal(0):
                return a
            if a.op == "neg":
                return -combine("div", a.args[0], b)
    return graph.node(op, a, b, kind=a.kind)


def _product(a, b):
    """`a * b` with literal factors gathered in front, and what a derivative tends to hold taken together."""
    factor = 1.0
    if a.is_literal():
        a, factor = a.graph.literal(1), a.args[0]
    for side in (a, b):
        if side.op == "mul" and side.args[0].is_literal():
            factor *= side.args[0].args[0]
    a, b = (side.args[1] if side.op == "mul" and side.args[0].is_literal() else side for side in (a, b))
    if a.is_literal(1):
        product = b
    elif {a.op, b.op} == {"sign", "absolute"} and a.args[0] is b.args[0]:
        product = a.args[0]
    else:
        product = a.graph.node("mul", a, b)
    if factor == 1:
        return product
    if product.op == "where" and all(x.is_literal() for x in product.args[1:]):
        return select(product.args[0], factor * product.args[1], factor * product.args[2])
    return a.graph.node("mul", a.graph.literal(factor), product)


def select(condition, a, b):
    """`a` where the condition holds, `b` elsewhere."""
    graph = condition.graph
    if INT in (getattr(a, "kind", None), getattr(b, "kind", None)):
        a, b = graph.integer(a), graph.integer(b)
    else:
        a, b = graph.literal(a), graph.literal(b)
    if condition.is_literal():
        return a if condition.args[0] else b
    return a if a is b else graph.node("where", condition, a, b, kind=a.kind)


def walk(outputs, stop=(), into=lambda node: True):
    """Every node that the outputs need, arguments first; not what lies behind a node of `stop`, or one that `into` turns down."""
    order, seen = [], set()
    stop = {id(node) for node in stop}
    stack = [(node, False) for node in reversed(outputs)]
    while stack:
        node, ready = stack.pop()
        if ready:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            if id(node) in stop or not into(node):
                continue
            stack.extend((a, False) for a in reversed(node.operands) if id(a) not in seen)
    return order
