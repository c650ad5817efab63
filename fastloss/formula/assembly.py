"""From a graph to the text of LLVM's assembly language: tile kernels that are compiled at run time, for users' own formulas.

The kernels are those of `emit.py` to the bit: the same nodes, fused by the same rules, each one instruction. The text needs nothing
but LLVM, and is itself what a compiled form is kept by.
"""

import math
import struct
from dataclasses import dataclass

from .contract import contracted
from .definition import F32, F64, VECTOR_FUNCTIONS
from .emit import uniforms as uniforms_of
from .graph import BOOL, COMPARISONS, INT, REAL, walk

_OF_REALS = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_OF_INTEGERS = {"add": "add", "sub": "sub", "mul": "mul", "and": "and", "or": "or", "shl": "shl", "shr": "ashr"}
# Unordered where Python's comparison is: NaN != NaN.
_REAL_SIGNS = {name: "une" if name == "ne" else f"o{name}" for name in COMPARISONS.values()}
_INTEGER_SIGNS = {name: name if name in ("eq", "ne") else f"s{name}" for name in COMPARISONS.values()}
_CONVERSIONS = {"bits": "bitcast", "from_bits": "bitcast", "to_float": "sitofp"}
_INTRINSICS = {"sqrt": "llvm.sqrt", "absolute": "llvm.fabs", "fma": "llvm.fma"}

# A kernel with more calls of fastloss.vecmath than this calls them: inlined, a thousand of them take LLVM a minute.
_MOST_INLINED = 128

# No element is read that another repeat of the loop writes: what lies over an input lies exactly over it.
_PARALLEL = '!0 = distinct !{}\n!1 = distinct !{!1, !{!"llvm.loop.parallel_accesses", !0}}'


@dataclass(frozen=True)
class Processor:
    """What the text must know of the processor: whether it multiplies and adds in one rounding, and how LLVM is to see its vectors."""

    has_fma: bool
    attributes: str = "nounwind"


class Module:
    """Functions that are compiled together, and those of fastloss.vecmath that they call, each written once."""

    def __init__(self, processor):
        self.processor = processor
        self._inlines = True
        self._texts = []
        self._written = set()

    @property
    def text(self):
        declared = (
            f"declare {real} @{name}.{precision.name}({', '.join([real] * (3 if name == 'llvm.fma' else 1))})"
            for name in _INTRINSICS.values()
            for precision, real in ((F32, "float"), (F64, "double"))
        )
        return "\n\n".join([*self._texts, "\n".join(declared), _PARALLEL]) + "\n"

    def loop(self, name, inputs, outputs, uniforms, precision, source, numbers=(), in_place=False, apart=()):
        """Enter a tile kernel, as `emit.loop_text` writes one: in place or not, all that is read is read before a write."""
        leaves = list(inputs.values())
        nodes = contracted(outputs.values(), [*uniforms, *leaves], apart)
        needed = {id(node) for node in walk(nodes, stop=[*uniforms, *leaves])}
        self._inlines = sum(node.op in VECTOR_FUNCTIONS for node in walk(nodes)) <= _MOST_INLINED
        body = Body(self, precision)
        arrays = {array: k for k, array in enumerate(dict.fromkeys([*inputs, *outputs]))}
        for k in arrays.values():
            body.put(f"%array{k}", f"load ptr, ptr {body.at('ptr', '%arrays', k)}")
        for k, node in enumerate(uniforms):
            if id(node) in needed:
                body.values[id(node)] = body.number(f"load double, ptr {body.at('double', '%uniforms', k)}")
        for array, node in inputs.items():
            if array in numbers and id(node) in needed:
                body.values[id(node)] = body.new(f"load {body.real}, ptr %array{arrays[array]}")
        head, body.lines = body.lines, []
        for array, node in inputs.items():
            if array not in numbers and id(node) in needed:
                place = body.at(body.real, f"%array{arrays[array]}", "%i")
                body.values[id(node)] = body.new(f"load {body.real}, ptr {place}, !llvm.access.group !0")
        body.compute(nodes)
        for array, node in zip(outputs, nodes, strict=True):
            place = body.at(body.real, f"%array{arrays[array]}", "%i")
            body.lines.append(f"store {body.real} {body.operand(node)}, ptr {place}, !llvm.access.group !0")
        lines = ["entry:", *head, "%any = icmp sgt i64 %count, 0", "br i1 %any, label %loop, label %end"]
        lines += ["loop:", "%i = phi i64 [0, %entry], [%next, %loop]", *body.lines, "%next = add nuw nsw i64 %i, 1"]
        lines += ["%more = icmp slt i64 %next, %count", "br i1 %more, label %loop, label %end, !llvm.loop !1"]
        self._function(f'define void @"{name}"(i64 %count, ptr %arrays, ptr %uniforms)', source, [*lines, "end:", "ret void"])

    def uniforms(self, traced, source):
        """Enter the function that computes a variant's uniforms from its hyperparameters, in double."""
        nodes = uniforms_of(traced, list(traced.outputs.values()))
        body = Body(self, F64)
        places = {id(p): p.args[0] for p in traced.parameters}
        # The length of the row, or of the tensor, stands behind the hyperparameters, sums over the tensor behind it.
        places |= {id(n): len(traced.parameters) for n in walk(nodes) if n.op == "length"}
        places |= {id(fold): len(traced.parameters) + k for k, fold in enumerate(traced.folds.values(), start=1)}
        for node, k in places.items():
            body.values[node] = body.new(f"load double, ptr {body.at('double', '%parameters', k)}")
        body.compute(nodes)
        for k, node in enumerate(nodes):
            body.lines.append(f"store double {body.operand(node)}, ptr {body.at('double', '%uniforms', k)}")
        self._function(
            f'define void @"{traced.name}_uniforms"(ptr %parameters, ptr %uniforms)', source, [*body.lines, "ret void"]
        )

    def call(self, name, precision):
        """The symbol of a function of fastloss.vecmath, which is entered if it is not there yet."""
        symbol = f"@{name}_{precision.name}"
        if symbol not in self._written:
            self._written.add(symbol)
            definition = VECTOR_FUNCTIONS[name]
            traced = definition.trace(precision)
            nodes = contracted(traced.outputs.values())
            body = Body(self, precision)
            body.values = {id(node): f"%{argument}" for argument, node in traced.inputs.items()}
            body.compute(nodes)
            arguments = ", ".join(f"{body.real} %{argument}" for argument in traced.inputs)
            end = f"ret {body.real} {body.operand(nodes[0])}"
            # A call inside a kernel's loop keeps it from being vectorised.
            head = f"define internal {body.real} {symbol}({arguments}) {'alwaysinline' if self._inlines else 'noinline'}"
            self._function(head, definition.source, [*body.lines, end])
        return symbol

    def _function(self, head, source, lines):
        indented = (line if line.endswith(":") else f"  {line}" for line in lines)
        self._texts.append("\n".join([f"; {source}", f"{head} {self.processor.attributes} {{", *indented, "}"]))


class Body:
    """The instructions that compute some nodes, in order, and the value that each node has then."""

    def __init__(self, module, precision):
        self.module, self.precision = module, precision
        self.real = "float" if precision.f32 else "double"
        self.types = {REAL: self.real, INT: f"i{precision.width}", BOOL: "i1"}
        self.lines = []
        self.values = {}
        self._count = 0

    def put(self, value, instruction):
        self.lines.append(f"{value} = {instruction}")
        return value

    def new(self, instruction):
        self._count += 1
        return self.put(f"%v{self._count}", instruction)

    def at(self, kind, pointer, index):
        return self.new(f"getelementptr {kind}, ptr {pointer}, i64 {index}")

    def number(self, instruction):
        """A double, in the kernel's own precision."""
        value = self.new(instruction)
        return self.new(f"fptrunc double {value} to float") if self.precision.f32 else value

    def compute(self, nodes):
        known = [node for node in walk(nodes) if id(node) in self.values]
        for node in walk(nodes, stop=known):
            if id(node) not in self.values and node.op != "literal":
                self.values[id(node)] = self._value(node)

    def operand(self, node):
        return self._literal(node) if node.op == "literal" else self.values[id(node)]

    def typed(self, node):
        return f"{self.types[node.kind]} {self.operand(node)}"

    def _literal(self, node):
        value = node.args[0]
        if node.kind == BOOL:
            return str(bool(value)).lower()
        if node.kind == INT:
            half = 1 << (self.precision.width - 1)
            return str((int(value) + half) % (2 * half) - half)
        if self.precision.f32:
            value = _single(value)
        return f"0x{struct.unpack('>Q', struct.pack('>d', value))[0]:016X}"

    def _value(self, node):
        op, args, kind = node.op, node.args, self.types[node.kind]
        if op in COMPARISONS.values():
            is_real = args[0].kind == REAL
            sign = (_REAL_SIGNS if is_real else _INTEGER_SIGNS)[op]
            return self.new(f"{'f' if is_real else 'i'}cmp {sign} {self.typed(args[0])}, {self.operand(args[1])}")
        if op in _OF_INTEGERS:
            name = (_OF_REALS if node.kind == REAL else _OF_INTEGERS)[op]
            return self.new(f"{name} {self.typed(args[0])}, {self.operand(args[1])}")
        if op == "div":
            return self.new(f"fdiv {self.typed(args[0])}, {self.operand(args[1])}")
        if op == "neg":
            return self.new(f"fneg {self.typed(args[0])}" if node.kind == REAL else f"sub {kind} 0, {self.operand(args[0])}")
        if op == "where":
            return self.new(f"select {', '.join(map(self.typed, args))}")
        if op in ("lesser", "greater"):
            compare = ("fcmp o" if node.kind == REAL else "icmp s") + ("lt" if op == "lesser" else "gt")
            condition = self.new(f"{compare} {self.typed(args[0])}, {self.operand(args[1])}")
            return self.new(f"select i1 {condition}, {self.typed(args[0])}, {self.typed(args[1])}")
        if op in _CONVERSIONS:
            return self.new(f"{_CONVERSIONS[op]} {self.typed(args[0])} to {kind}")
        if op == "fma" and not self.module.processor.has_fma:
            product = self.new(f"fmul {self.typed(args[0])}, {self.operand(args[1])}")
            return self.new(f"fadd {kind} {product}, {self.operand(args[2])}")
        intrinsic = f"@{_INTRINSICS.get(op)}.{self.precision.name}"
        symbol = intrinsic if op in _INTRINSICS else self.module.call(op, self.precision)
        return self.new(f"call {kind} {symbol}({', '.join(map(self.typed, args))})")


def _single(value):
    """The number as float32 holds it."""
    try:
        return struct.unpack("f", struct.pack("f", value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)
