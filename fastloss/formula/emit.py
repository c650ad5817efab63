"""From a graph to text, as far as languages share it: the order of statements, what gets a name, what kernels are handed.

`c.py` writes C, for the kernels that are built and for the header; `python.py` writes Python, for Numba.
"""

from collections import Counter

from .graph import BOOL, COMPARISONS, ELEMENT, FormulaError, walk
from .primitives import TABLE

_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", "and": "&", "or": "|", "shl": "<<", "shr": ">>"}
_INFIX |= {name: sign for sign, name in COMPARISONS.items()}
_STRENGTH = {"or": 1, "and": 2, "shl": 4, "shr": 4, "add": 5, "sub": 5, "mul": 6, "div": 6, "neg": 7}
_STRENGTH |= dict.fromkeys(COMPARISONS.values(), 0)
ATOM = 9
_LONGEST = 72  # a longer expression gets a name of its own


class Body:
    """The statements that compute some nodes, in order; `text(node)` is the expression for a node once they ran."""

    def __init__(self, outputs, names, language, name_outputs=False):
        self.language = language
        self.statements = []
        self.locals = []
        self._taken = set(names.values())
        self._text = {id(node): (name, ATOM) for node, name in names.items()}
        order = [node for node in walk(outputs, stop=names) if id(node) not in self._text]
        uses = Counter(id(argument) for node in order for argument in node.operands)
        uses.update((1 + name_outputs) * [id(node) for node in outputs])
        for node in order:
            self._emit(node, uses[id(node)])

    def _emit(self, node, uses):
        text, strength = self._expression(node)
        inline = node.op == "literal" or node.kind == BOOL or (uses == 1 and len(text) < _LONGEST)
        if not inline:
            name = _unused(f"t{len(self.locals)}", self._taken)
            self.locals.append((name, node.kind))
            self.statements.append(f"{name} = {text}")
            text, strength = name, ATOM
        self._text[id(node)] = text, strength

    def _expression(self, node):
        op = node.op
        if op == "literal":
            text = self.language.literal(node)
            return text, ATOM if text[0] not in "-<" else _STRENGTH["neg"]
        if op == "neg" and not self.language.calls(node):
            return self.language.infix(node, f"-{self.text(node.args[0], _STRENGTH['neg'])}", _STRENGTH["neg"])
        if op in _INFIX and not self.language.calls(node):
            strength = _STRENGTH[op]
            left, right = node.args
            text = f"{self.text(left, strength)} {_INFIX[op]} {self.text(right, strength + 1)}"
            return self.language.infix(node, text, strength)
        return f"{self.language.function(node)}({', '.join(self.text(a) for a in node.args)})", ATOM

    def text(self, node, strength=-1):
        text, own = self._text[id(node)]
        return f"({text})" if own < strength else text


def uniforms(traced, outputs):
    """The uniform nodes that the outputs use directly: what the kernel is handed."""
    found = []
    stack = list(reversed(outputs))
    seen = set()
    while stack:
        node = stack.pop()
        if id(node) in seen or node.op == "literal":
            continue
        seen.add(id(node))
        if node.uniform and node.kind != BOOL:
            found.append(node)
        else:
            stack.extend(reversed(node.operands))
    return found


def check_tensor_room(traced):
    """Whether the engine's fixed tables (_kernels/sweep.pxi) hold what a rule's variant asks of its tensor as a whole."""
    for what, count, most in (
        ("arrays and sums", len(traced.inputs) + len(traced.folds), 12),
        ("parameters and sums", len(traced.parameters) + 1 + len(traced.folds), 32),
        ("uniform numbers", len(uniforms(traced, list(traced.outputs.values()))), 32),
    ):
        if count > most:
            raise FormulaError(f"{traced.name}: an update rule must need at most {most} {what}, got {count}")


def uniform_names(nodes):
    """How a kernel calls the numbers that it is handed: a hyperparameter by its own name."""
    own = {node: node.args[1] for node in nodes if node.op == "parameter"}
    return {node: own.get(node) or _unused(f"u{i}", own.values()) for i, node in enumerate(nodes)}


def _unused(name, taken):
    """The name, longer if an argument of the formula is called so."""
    while name in taken:
        name += "_"
    return name


def cost(outputs):
    """What computing these nodes costs per element, in additions."""
    varying = [node for node in walk(outputs) if node.level == ELEMENT]
    return sum(TABLE[node.op].cost if node.op in TABLE else 8 if node.op == "div" else 1 for node in varying)
