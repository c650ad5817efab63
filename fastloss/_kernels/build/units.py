"""The text of a unit of kernels: C that is compiled by itself, with the vector math that it calls and a table of what it holds."""

import re
from dataclasses import dataclass, field
from functools import cache

from fastloss.formula import F64, PRECISIONS, VECTOR_FUNCTIONS, RowFormula, UpdateRule, c
from fastloss.formula.emit import check_tensor_room, cost
from fastloss.formula.primitives import TABLE
from fastloss.formula.program import Program

HEAD = """/* Tile kernels, written by build/generate.py from the formulas: edit those. */

#include "kernels.h"
#include "tile.h"
"""


@dataclass
class Unit:
    """Kernels by name, in order, and what the engine is told of row formulas and of rules that look at whole tensors."""

    name: str
    texts: list = field(default_factory=list)
    entries: list = field(default_factory=list)
    layouts: dict = field(default_factory=dict)
    _written: dict = field(default_factory=dict)

    def enter(self, name, text, cost=0):
        """A function; what differs from another in names alone is written once."""
        shape = _without_names(text.partition(f" {name}(")[2])
        if shape not in self._written:
            self._written[shape] = name
            self.texts.append(text)
        self.entries.append((name, self._written[shape], cost))

    def enter_formula(self, formula):
        for choice in formula.choices():
            traced = formula.trace(choice)
            self.enter(f"{traced.name}_uniforms", c.uniforms_text(traced, formula.source, F64))
            enter = self._enter_programs if isinstance(formula, RowFormula) else self._enter_passes
            enter(formula, traced)

    def _enter_programs(self, formula, traced):
        for want in formula.wants:
            program = Program(traced, formula.roles(want))
            self.layouts[f"{traced.name}_{want}"] = layout = program.layout()
            program.check_room(layout)
            for precision in PRECISIONS:
                for name, text in program.kernels(want, precision, formula.source):
                    self.enter(name, text)

    def _enter_passes(self, formula, traced):
        if isinstance(formula, UpdateRule) and (layout := formula.layout(traced)):
            self.layouts[traced.name] = layout
            check_tensor_room(traced)
        for suffix, roles in formula.passes(traced):
            price = cost([traced.outputs[role] for role in roles])
            for precision in PRECISIONS:
                text = c.kernel_text(traced, suffix, roles, precision, formula.source, formula.in_place)
                self.enter(f"{traced.name}_{suffix}_{precision.name}", text, price)

    def enter_primitives(self):
        """The vector math by itself."""
        for primitive in TABLE.values():
            for precision in PRECISIONS:
                self.enter(f"{primitive.name}_map_{precision.name}", c.map_text(primitive, precision))

    @property
    def text(self):
        called = vector_functions("\n".join(self.texts))
        table = [f'    {{"{name}", (void *){function}, {cost}}},' for name, function, cost in self.entries]
        end = [f"const Kernel fastloss_{self.name}[] = {{", *table, "    {NULL, NULL, 0},", "};"]
        return "\n\n".join([HEAD.rstrip(), *called, *self.texts, "\n".join(end)]) + "\n"


def _without_names(text):
    """A kernel's text with numbers for the names that it gives what it is handed."""
    handed = re.findall(r"\b(\w+) = (?:arrays|\(\w+\)uniforms)\[", text)
    numbers = {name: f"#{k}" for k, name in enumerate(handed)}
    return re.sub(r"\b[A-Za-z_]\w*", lambda found: numbers.get(found[0], found[0]), text)


def vector_functions(text):
    """The functions of fastloss.vecmath that a text calls, those that they call before them."""
    found = {}

    def enter(text):
        for name in re.findall(r"\b\w+_f(?:32|64)\b(?=\()", text):
            if name in _vector_texts() and name not in found:
                enter(_vector_texts()[name].partition("{")[2])
                found[name] = _vector_texts()[name]

    enter(text)
    return list(found.values())


@cache
def _vector_texts():
    return {
        f"{name}_{precision.name}": c.function_text(function.trace(precision), precision, function.source)
        for name, function in VECTOR_FUNCTIONS.items()
        for precision in PRECISIONS
    }
