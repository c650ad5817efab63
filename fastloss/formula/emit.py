"""From a graph to text: Cython for the ahead-of-time kernels. `python.py` writes Python, for Numba, `c.py` C.

A kernel has the tile signature `(count, arrays, uniforms)`: contiguous arrays of one precision, inputs first, then outputs, and
the numbers that are the same for all elements, computed beforehand in double by the variant's `uniforms` function.
"""

from collections import Counter
from dataclasses import dataclass

from .contract import contracted
from .graph import BOOL, COMPARISONS, ELEMENT, INT, walk
from .primitives import TABLE

_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", "and": "&", "or": "|", "shl": "<<", "shr": ">>"}
_INFIX |= {name: sign for sign, name in COMPARISONS.items()}
_STRENGTH = {"or": 1, "and": 2, "shl": 4, "shr": 4, "add": 5, "sub": 5, "mul": 6, "div": 6, "neg": 7}
_STRENGTH |= dict.fromkeys(COMPARISONS.values(), 0)
ATOM = 9
_LONGEST = 72  # a longer expression gets a name of its own


@dataclass(frozen=True)
class Cython:
    """How Cython spells numbers, calls and types in one precision."""

    precision: object

    def literal(self, node):
        value = node.args[0]
        if node.kind != "real":
            # Without the suffix Cython would make a Python object of a large integer.
            return f"{int(value)}LL" if abs(int(value)) >= 2**31 else str(int(value))
        text = {"inf": "INFINITY", "-inf": "-INFINITY", "nan": "NAN"}.get(repr(value), repr(value))
        return text if self.precision.name == "f64" and text[-1] not in "YN" else f"<{self.precision.c_name}>{text}"

    def function(self, node):
        suffix = self.precision.name if node.kind != INT or node.op == "bits" else f"i{self.precision.width}"
        return f"{node.op}_{suffix}"

    def c_type(self, kind):
        return {INT: self.precision.c_integer, BOOL: "bint"}.get(kind, self.precision.c_name)

    def declare(self, name, kind):
        return f"cdef {self.c_type(kind)} {name}"

    def calls(self, node):
        """Whether an operation is a function's call rather than a sign."""
        return False

    def infix(self, node, text, strength):
        return text, strength


class Body:
    """The statements that compute some nodes, in order; `text(node)` is the expression for a node once they ran."""

    def __init__(self, outputs, names, language, name_outputs=False):
        self.language = language
        self.statements = []
        self.locals = []
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
            name = f"t{len(self.locals)}"
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


def uniform_names(nodes):
    """How a kernel calls the numbers that it is handed: a hyperparameter by its own name."""
    return {node: node.args[1] if node.op == "parameter" else f"u{i}" for i, node in enumerate(nodes)}


def cost(outputs):
    """What computing these nodes costs per element, in additions."""
    varying = [node for node in walk(outputs) if node.level == ELEMENT]
    return sum(TABLE[node.op].cost if node.op in TABLE else 8 if node.op == "div" else 1 for node in varying)


def uniforms_text(traced, source, precision):
    """The function that computes a variant's uniforms from its hyperparameters, in double."""
    nodes = uniforms(traced, list(traced.outputs.values()))
    names = {p: f"parameters[{p.args[0]}]" for p in traced.parameters}
    # The length of the row, or of the tensor, stands behind the hyperparameters, sums over the tensor behind it.
    names |= {n: f"parameters[{len(traced.parameters)}]" for n in walk(nodes) if n.op == "length"}
    names |= {fold: f"parameters[{len(traced.parameters) + k}]" for k, fold in enumerate(traced.folds.values(), start=1)}
    body = Body(nodes, names, Cython(precision))
    lines = [
        f"# {source}",
        f"cdef void {traced.name}_uniforms(const double* parameters, double* uniforms) noexcept nogil:",
        *_declarations(body),
        *(f"    {statement}" for statement in body.statements),
        *(f"    uniforms[{i}] = {body.text(node)}" for i, node in enumerate(nodes)),
    ]
    return "\n".join(lines if len(lines) > 2 else [*lines, "    pass"])


def kernel_text(traced, suffix, roles, precision, source, in_place=False):
    """The tile kernel that computes these outputs of a variant."""
    nodes = uniforms(traced, list(traced.outputs.values()))
    return loop_text(
        f"{traced.name}_{suffix}_{precision.name}",
        traced.inputs,
        {role: traced.outputs[role] for role in roles},
        nodes,
        precision,
        source,
        in_place=in_place,
    )


def loop_text(name, inputs, outputs, uniforms, precision, source, numbers=(), in_place=False, apart=()):
    """A tile kernel: `outputs` by name from `inputs` by name; those in `numbers` hold one number for the whole tile."""
    named = uniform_names(uniforms)
    leaves = {symbol: n if n in numbers else f"{n}[i]" for n, symbol in inputs.items()}
    arrays = dict.fromkeys([*inputs, *outputs])
    nodes = contracted(outputs.values(), [*uniforms, *leaves], apart)
    needed = {id(n) for n in walk(nodes, stop=[*uniforms, *leaves])}
    # In place, an output's element may be another output's input: all are computed before any is written.
    body = Body(nodes, named | leaves, Cython(precision), name_outputs=in_place)
    real = precision.c_name
    tiles = {
        n: f"cdef {real} {n} = arrays[{k}][0]" if n in numbers else f"cdef {real}_tile {n} = arrays[{k}]"
        for k, n in enumerate(arrays)
    }
    lines = [
        f"# {source}",
        f"cdef void {name}(Py_ssize_t count, {real}** arrays, const double* uniforms) noexcept nogil:",
        *(f"    {tile}" for tile in tiles.values()),
        *(f"    cdef {real} {named[n]} = <{real}>uniforms[{k}]" for k, n in enumerate(uniforms) if id(n) in needed),
        "    cdef Py_ssize_t i",
        *_declarations(body),
        "    for i in range(count):",
        *(f"        {statement}" for statement in body.statements),
        *(f"        {output}[i] = {body.text(node)}" for output, node in zip(outputs, nodes, strict=True)),
    ]
    return "\n".join(lines)


def function_text(traced, precision, source):
    """An inlined function of fastloss.vecmath."""
    (result,) = contracted(traced.outputs.values())
    body = Body([result], {symbol: name for name, symbol in traced.inputs.items()}, Cython(precision))
    real = precision.c_name
    arguments = ", ".join(f"{real} {name}" for name in traced.inputs)
    lines = [
        f"# {source}",
        f"cdef inline {real} {traced.name}({arguments}) noexcept nogil:",
        *_declarations(body),
        *(f"    {statement}" for statement in body.statements),
        f"    return {body.text(result)}",
    ]
    return "\n".join(lines)


def map_text(primitive, precision):
    """The tile kernel that applies one primitive: how the vector math is tested and measured."""
    real, count = precision.c_name, len(primitive.derivatives)
    arguments = ", ".join(f"x{k}[i]" for k in range(count))
    lines = [
        f"cdef void {primitive.name}_map_{precision.name}(Py_ssize_t count, {real}** arrays, const double* uniforms) noexcept nogil:",
        *(f"    cdef {real}_tile x{k} = arrays[{k}]" for k in range(count)),
        f"    cdef {real}_tile result = arrays[{count}]",
        "    cdef Py_ssize_t i",
        "    for i in range(count):",
        f"        result[i] = {primitive.name}_{precision.name}({arguments})",
    ]
    return "\n".join(lines)


def _declarations(body):
    """One `cdef` line for the locals of each kind."""
    for kind in dict.fromkeys(kind for _, kind in body.locals):
        yield "    " + body.language.declare(", ".join(n for n, k in body.locals if k == kind), kind)
