"""From a graph to C and to what Cython must know of it: scalar functions for other people's programs, nothing but C99.

A loss becomes one inlined function for its value and one for each derivative, `fastloss_huber_grad_f64(pred, target, delta)`, which
picks the variant that its hyperparameters ask for. What the kernels are handed as uniforms is computed inside, in double as there;
the compiler moves it out of the caller's loop.
"""

import re
from dataclasses import dataclass
from math import inf

from .contract import contracted
from .domains import Flag
from .emit import ATOM, Body, uniform_names, uniforms
from .graph import BOOL, INT

# Whole numbers wrap, which C leaves undefined for signed ones: include/fastloss_machine.h has functions for these.
_WRAPPING = ("add", "sub", "mul", "neg", "shl")


@dataclass(frozen=True)
class C:
    """How C spells numbers, calls and types in one precision."""

    precision: object

    def literal(self, node):
        value = node.args[0]
        if node.kind != "real":
            return f"INT64_C({int(value)})" if self.precision.width == 64 else f"(int32_t){int(value)}"
        text = {"inf": "INFINITY", "-inf": "-INFINITY", "nan": "NAN"}.get(repr(value), repr(value))
        return text if self.precision.name == "f64" and text[-1] not in "YN" else f"({self.precision.c_name}){text}"

    def function(self, node):
        suffix = self.precision.name if node.kind != INT or node.op == "bits" else f"i{self.precision.width}"
        return f"fastloss_math_{node.op}_{suffix}"

    def declare(self, name, kind):
        return f"{self.c_type(kind)} {name};"

    def c_type(self, kind):
        return {INT: self.precision.c_integer, BOOL: "int"}.get(kind, self.precision.c_name)

    def calls(self, node):
        return node.kind == INT and node.op in _WRAPPING

    def infix(self, node, text, strength):
        # In C these bind less than a comparison does.
        return (f"({text})", ATOM) if node.op in ("and", "or") else (text, strength)


def vector_text(traced, precision, source):
    """A function of fastloss.vecmath."""
    (result,) = contracted(traced.outputs.values())
    body = Body([result], {symbol: name for name, symbol in traced.inputs.items()}, C(precision))
    arguments = [(precision.c_name, name) for name in traced.inputs]
    lines = [*_statements(body), f"return {body.text(result)};"]
    return _function(f"fastloss_math_{traced.name}", arguments, lines, precision, source)


def loss_texts(formula, double, precision):
    """(name, arguments, text) of a loss's functions in one precision; `double` is that of its hyperparameters."""
    arguments = [(precision.c_name, n) for n in formula.inputs]
    arguments += [("int" if isinstance(d, Flag) else "double", n) for n, d in formula.parameters.items()]
    choices = list(formula.choices())
    for role in formula.roles("vgh"):
        name = function_name(formula, role, precision)
        texts, names = [], []
        for choice in choices:
            traced = formula.trace(choice)
            names.append(name if len(choices) == 1 else f"fastloss_of_{traced.name}_{role}_{precision.name}")
            texts.append(_variant_text(names[-1], arguments, formula, traced, role, double, precision))
        if len(choices) > 1:
            conditions = [_conditions(formula, choice) for choice in choices]
            texts.append(_dispatch_text(name, arguments, conditions, names, precision, formula.source))
        yield name, arguments, "\n\n".join(texts)


def function_name(formula, role, precision):
    """The public name: of a loss with one differentiable input its derivatives are called `grad` and `hess` alone."""
    if role == "value":
        return f"fastloss_{formula.name}_{precision.name}"
    kind = role.partition("_")[0] if len(formula.differentiable) == 1 else role
    return f"fastloss_{formula.name}_{kind}_{precision.name}"


def declaration(name, arguments, precision):
    """What Cython is told of a function."""
    listed = ", ".join(f"{'bint' if c_type == 'int' else c_type} {n}" for c_type, n in arguments)
    return f'{precision.c_name} {name.removeprefix("fastloss_")} "{name}"({listed}) noexcept'


def _variant_text(name, arguments, formula, traced, role, double, precision):
    node = traced.outputs[role]
    inputs, parameters = {symbol: n for n, symbol in traced.inputs.items()}, {p: p.args[1] for p in traced.parameters}
    # A hyperparameter is an argument of that name; what it is rounded to in single precision needs another.
    handed = {
        n: u if precision == double else f"u{i}" for i, (n, u) in enumerate(uniform_names(uniforms(traced, [node])).items())
    }
    before = Body(list(handed), parameters, C(double))
    computed = {n: u for n, u in handed.items() if before.text(n) != u}
    (result,) = contracted([node], [*handed, *inputs])
    body = Body([result], handed | inputs, C(precision))
    real = precision.c_name
    inside = [*_statements(before), *(f"{u} = ({real})({before.text(n)});" for n, u in computed.items())]
    # A block of its own: both sets of statements number their variables from 0.
    inside = ["{", *(f"    {line}" for line in inside), "}"] if before.statements else inside
    lines = [*([f"{real} {', '.join(computed.values())};"] if computed else []), *inside, *_statements(body)]
    lines.append(f"return {body.text(result)};")
    unused = [n for _, n in arguments if not any(re.search(rf"\b{n}\b", line) for line in lines)]
    return _function(name, arguments, [*(f"(void){n};" for n in unused), *lines], precision, formula.source)


def _dispatch_text(name, arguments, conditions, names, precision, source):
    """The function that asks for every variant's conditions, those with the most first; the last variant needs none."""
    listed = ", ".join(n for _, n in arguments)
    in_order = sorted(zip(conditions, names, strict=True), key=lambda variant: -len(variant[0]))
    lines = [f"if ({' && '.join(needed)}) return {variant}({listed});" for needed, variant in in_order[:-1]]
    return _function(name, arguments, [*lines, f"return {in_order[-1][1]}({listed});"], precision, source)


def _conditions(formula, choice):
    """What the arguments must be for this variant; NaN stands for a parameter that is None."""
    found = []
    for name, chosen in zip(formula.parameters, choice, strict=True):
        if isinstance(chosen, bool):
            found.append(name if chosen else f"!{name}")
        elif chosen == "none":
            found.append(f"{name} != {name}")
        elif chosen is not None:
            found.append(f"{name} == {'INFINITY' if chosen == inf else '-INFINITY' if chosen == -inf else repr(chosen)}")
    return found


def _function(name, arguments, lines, precision, source):
    head = f"FASTLOSS_INLINE {precision.c_name} {name}({', '.join(f'{c_type} {n}' for c_type, n in arguments)}) {{"
    return "\n".join([f"/* {source} */", head, *(f"    {line}" for line in lines), "}"])


def _statements(body):
    """Declarations, one line for each kind, and assignments."""
    kinds = dict.fromkeys(kind for _, kind in body.locals)
    declared = [body.language.declare(", ".join(n for n, k in body.locals if k == kind), kind) for kind in kinds]
    return [*declared, *(f"{statement};" for statement in body.statements)]
