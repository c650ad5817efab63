"""From a graph to C: the tile kernels of the build, and scalar functions for other people's programs, nothing but C99.

A kernel has the tile signature `(count, arrays, uniforms)`: contiguous arrays of one precision, inputs first, then outputs, and
the numbers that are the same for all elements, computed beforehand in double by the variant's `uniforms` function. Kernels are
written in the functions of `_kernels/cpu/tile.h`.

In the header a loss becomes one inlined function for its value and one for each derivative, `fastloss_huber_grad_f64(pred, target,
delta)`, which picks the variant that its hyperparameters ask for. What the kernels are handed as uniforms is computed inside, in
double as there; the compiler moves it out of the caller's loop. It is written in the functions of `include/fastloss_machine.h`.
"""

import re
from dataclasses import dataclass
from math import inf

from .contract import contracted
from .domains import Flag
from .emit import ATOM, Body, uniform_names, uniforms
from .graph import BOOL, INT, walk

# Signed whole numbers wrap where kernels are compiled; elsewhere C leaves it undefined, and the header has functions for these.
_WRAPPING = ("add", "sub", "mul", "neg", "shl")


@dataclass(frozen=True)
class C:
    """How kernels spell numbers, calls and types in one precision."""

    precision: object

    prefix = ""

    def literal(self, node):
        value = node.args[0]
        if node.kind != "real":
            return f"INT64_C({int(value)})" if self.precision.width == 64 else f"(int32_t){int(value)}"
        text = {"inf": "INFINITY", "-inf": "-INFINITY", "nan": "NAN"}.get(repr(value), repr(value))
        return text if self.precision.name == "f64" and text[-1] not in "YN" else f"({self.precision.c_name}){text}"

    def function(self, node):
        suffix = self.precision.name if node.kind != INT or node.op == "bits" else f"i{self.precision.width}"
        return f"{self.prefix}{node.op}_{suffix}"

    def declare(self, name, kind):
        return f"{self.c_type(kind)} {name};"

    def c_type(self, kind):
        return {INT: self.precision.c_integer, BOOL: "int"}.get(kind, self.precision.c_name)

    def calls(self, node):
        """Whether an operation is a function's call rather than a sign."""
        return False

    def infix(self, node, text, strength):
        # In C these bind less than a comparison does.
        return (f"({text})", ATOM) if node.op in ("and", "or") else (text, strength)


class PortableC(C):
    """How the header does, whose users compile as they like."""

    prefix = "fastloss_math_"

    def calls(self, node):
        return node.kind == INT and node.op in _WRAPPING


# --- kernels ----------------------------------------------------------------------------------------------------------------


def kernel_text(traced, suffix, roles, precision, source, in_place=False):
    """The tile kernel that computes these outputs of a variant."""
    return loop_text(
        f"{traced.name}_{suffix}_{precision.name}",
        traced.inputs,
        {role: traced.outputs[role] for role in roles},
        uniforms(traced, list(traced.outputs.values())),
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
    body = Body(nodes, named | leaves, C(precision), name_outputs=in_place)
    real = precision.c_name
    lines = [
        *(f"{real} {n} = arrays[{k}][0];" if n in numbers else f"{real}_tile {n} = arrays[{k}];" for k, n in enumerate(arrays)),
        *(f"{real} {named[n]} = ({real})uniforms[{k}];" for k, n in enumerate(uniforms) if id(n) in needed),
        *_declarations(body),
        "for (ptrdiff_t i = 0; i < count; i++) {",
        *(f"    {statement};" for statement in body.statements),
        *(f"    {output}[i] = {body.text(node)};" for output, node in zip(outputs, nodes, strict=True)),
        "}",
    ]
    return _text(f"static void {name}(ptrdiff_t count, {real} **arrays, const double *uniforms)", lines, source)


def uniforms_text(traced, source, double):
    """The function that computes a variant's uniforms from its hyperparameters, in double."""
    nodes = uniforms(traced, list(traced.outputs.values()))
    names = {p: f"parameters[{p.args[0]}]" for p in traced.parameters}
    # The length of the row, or of the tensor, stands behind the hyperparameters, sums over the tensor behind it.
    names |= {n: f"parameters[{len(traced.parameters)}]" for n in walk(nodes) if n.op == "length"}
    names |= {fold: f"parameters[{len(traced.parameters) + k}]" for k, fold in enumerate(traced.folds.values(), start=1)}
    body = Body(nodes, names, C(double))
    lines = [*_statements(body), *(f"uniforms[{i}] = {body.text(node)};" for i, node in enumerate(nodes))]
    return _text(f"static void {traced.name}_uniforms(const double *parameters, double *uniforms)", lines, source)


def map_text(primitive, precision):
    """The tile kernel that applies one primitive: how the vector math is tested and measured."""
    real, count = precision.c_name, len(primitive.derivatives)
    function, arguments = f"{primitive.name}_{precision.name}", ", ".join(f"x{k}[i]" for k in range(count))
    lines = [
        *(f"{real}_tile x{k} = arrays[{k}];" for k in range(count)),
        f"{real}_tile result = arrays[{count}];",
        f"for (ptrdiff_t i = 0; i < count; i++) result[i] = {function}({arguments});",
    ]
    head = f"static void {primitive.name}_map_{precision.name}(ptrdiff_t count, {real} **arrays, const double *uniforms)"
    return _text(head, lines, f"fastloss/vecmath: {primitive.name}")


def function_text(traced, precision, source, language=C):
    """A function of fastloss.vecmath, to be inlined."""
    (result,) = contracted(traced.outputs.values())
    language = language(precision)
    body = Body([result], {symbol: name for name, symbol in traced.inputs.items()}, language)
    arguments = [(precision.c_name, name) for name in traced.inputs]
    lines = [*_statements(body), f"return {body.text(result)};"]
    return _function(f"{language.prefix}{traced.name}", arguments, lines, precision, source)


# --- the header -------------------------------------------------------------------------------------------------------------


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
    before = Body(list(handed), parameters, PortableC(double))
    computed = {n: u for n, u in handed.items() if before.text(n) != u}
    (result,) = contracted([node], [*handed, *inputs])
    body = Body([result], handed | inputs, PortableC(precision))
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
    listed = ", ".join(f"{c_type} {n}" for c_type, n in arguments)
    return _text(f"FASTLOSS_INLINE {precision.c_name} {name}({listed})", lines, source)


def _text(head, lines, source):
    return "\n".join([f"/* {source} */", f"{head} {{", *(f"    {line}" for line in lines), "}"])


def _statements(body):
    return [*_declarations(body), *(f"{statement};" for statement in body.statements)]


def _declarations(body):
    """One line for the variables of each kind."""
    kinds = dict.fromkeys(kind for _, kind in body.locals)
    return [body.language.declare(", ".join(n for n, k in body.locals if k == kind), kind) for kind in kinds]
