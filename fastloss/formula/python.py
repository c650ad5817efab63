"""From a graph to Python text: scalar functions for Numba to compile, for processors and for GPUs.

The text knows no precision: `real` and `whole` are its numbers, and the operations of the machine (`fma`, `bits`, `where`, ...) come
from the namespace that it is run in, as do the functions of fastloss.vecmath, written here for each precision.
"""

from .contract import contracted
from .emit import ATOM, Body, uniform_names, uniforms
from .graph import INT

# What the namespace must have beside the functions of fastloss.vecmath.
MACHINE = ("real", "whole", "where", "fma", "lesser", "greater", "absolute", "sqrt", "bits", "from_bits", "to_float", "rounded")


class Python:
    """How Numba's Python spells numbers and calls."""

    def literal(self, node):
        value = node.args[0]
        return f"whole({int(value)})" if node.kind != "real" else f"real({value!r})"

    def function(self, node):
        return node.op

    def calls(self, node):
        return False

    def infix(self, node, text, strength):
        # Numba widens integers as it adds them; where they wrap they must stay as wide as the floating-point numbers.
        return (f"whole({text})", ATOM) if node.kind == INT else (text, strength)


def scalar_text(name, inputs, outputs, uniforms, source="", apart=()):
    """A function `(*inputs, *uniforms) -> outputs`, inputs by name and nodes; several outputs as a tuple.

    Products in `apart` are rounded before anything is added to them, and so are those that are returned by whoever calls.
    """
    handed = uniform_names(uniforms)
    names = handed | {symbol: n for n, symbol in inputs.items()}
    nodes = contracted(outputs, list(names), apart)
    body = Body(nodes, names, Python())
    results = [f"rounded({body.text(node)})" if node.op == "mul" and node not in names else body.text(node) for node in nodes]
    lines = [
        *([f"# {source}"] if source else []),
        f"def {name}({', '.join([*inputs, *(handed[n] for n in uniforms)])}):",
        *(f"    {statement}" for statement in body.statements),
        f"    return {', '.join(results) or '()'}",
    ]
    return "\n".join(lines)


def variant_text(traced, roles, name, source=""):
    """The outputs of a variant as a scalar function `(*inputs, *uniforms) -> outputs`."""
    nodes = uniforms(traced, list(traced.outputs.values()))
    return scalar_text(name, traced.inputs, [traced.outputs[role] for role in roles], nodes, source)


def uniforms_text(traced, name, source=""):
    """The function `(*parameters, length, *sums) -> tuple` that computes a variant's uniforms.

    The length is that of a row, or of the tensor of an update rule, whose sums come after it.
    """
    nodes = uniforms(traced, list(traced.outputs.values()))
    inputs = {p.args[1]: p for p in traced.parameters} | {"length": traced.graph.node("length")}
    inputs |= {f"sum_{k}": fold for k, fold in enumerate(traced.folds.values())}
    text = scalar_text(name, inputs, nodes, [], source)
    return text if len(nodes) != 1 else f"{text},"


def function_text(definition, precision):
    """A function of fastloss.vecmath."""
    traced = definition.trace(precision)
    (result,) = traced.outputs.values()
    return scalar_text(definition.name, traced.inputs, [result], [], definition.source)
