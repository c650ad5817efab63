"""The kernels of a user's formula, compiled when the engine asks for them."""

from functools import cache

from ...formula import PRECISIONS, FormulaError, RowFormula, UpdateRule
from ...formula.assembly import Module
from ...formula.emit import check_tensor_room, cost, uniforms
from ...formula.lazy import lazy
from ...formula.located import located
from ...formula.program import Program
from . import native

# The engine's fixed tables (driver.pxi, rows.pxi, engine.pyx).
_MOST_ARRAYS, _MOST_ROWS, _MOST_UNIFORMS = 12, 8, 32


def check_room(formula):
    """FormulaError if the formula takes more than the engine has room for: to be asked before a plan is made of it."""
    results = 1 + 2 * len(formula.differentiable)
    arrays = ("arrays, counting results", len(formula.inputs) + (0 if formula.in_place else results), _MOST_ARRAYS)
    if isinstance(formula, RowFormula):
        arrays = ("arrays", len(formula.inputs) + formula.curvature + formula.has_lists, _MOST_ROWS)
    for what, count, most in (arrays, ("hyperparameters", len(list(formula.slots())), _MOST_UNIFORMS - 1)):
        if count > most:
            raise FormulaError(f"{formula.name}: the formula must need at most {most} {what}, got {count}")


class Kernels:
    """For a user's formula what the compiled tables are for built-in ones: addresses and costs of kernels, layouts of programs.

    Each pass of each variant is compiled by itself, in one precision, so that a first call compiles only what it uses.
    """

    def __init__(self, formula):
        self.formula = formula
        self._addresses = {}
        self._libraries = []
        self._traced, self._program = cache(self._trace), cache(self._make_program)

    def address(self, name):
        """Where the function of that name is, as an integer; valid for as long as this object lives."""
        with native.compiling:
            if name not in self._addresses:
                self._compile(name)
            return self._addresses[name]

    def cost(self, name):
        """What a kernel costs per element, in additions."""
        variant, want, _ = name.rsplit("_", 2)
        with native.compiling:
            return cost([self._traced(variant).outputs[role] for role in self._roles(variant, want)])

    def layout(self, name):
        """What the engine is told of a row formula's program, or of an update rule that looks at whole tensors; None of other rules."""
        with native.compiling:
            if isinstance(self.formula, UpdateRule):
                return self.formula.layout(self._traced(name))
            program = self._program(*name.rsplit("_", 1))
            layout = program.layout()
            program.check_room(layout)
            return layout

    def _compile(self, name):
        from ... import vecmath  # noqa: F401  (enters its functions)

        module = Module(native.processor())
        variant, _, pass_name = name.rpartition("_uniforms")
        if variant and not pass_name:
            names = [name]
            module.uniforms(self._traced(variant), self.formula.name)
        else:
            names = list(self._write(module, name))
        library = native.Library(module.text, names)
        self._libraries.append(library)
        self._addresses |= {each: library.address(each) for each in names}

    def _write(self, module, name):
        """Write the kernel of that name, and those that are always used with it; their names."""
        formula = self.formula
        precision = next(p for p in PRECISIONS if name.endswith(f"_{p.name}"))
        if isinstance(formula, RowFormula):
            variant, want, *_ = name.rsplit("_", 3)
            for each, _ in self._program(variant, want).kernels(want, precision, formula.name, module.loop):
                yield each
            return
        variant, want, _ = name.rsplit("_", 2)
        traced = self._traced(variant)
        outputs = {role: traced.outputs[role] for role in self._roles(variant, want)}
        handed = uniforms(traced, list(traced.outputs.values()))
        module.loop(name, traced.inputs, outputs, handed, precision, formula.name, in_place=formula.in_place)
        yield name

    @lazy
    def _choices(self):
        return {self.formula.variant_name(choice): choice for choice in self.formula.choices()}

    def _trace(self, variant):
        with located(self.formula.name):
            traced = self.formula.trace(self._choices[variant])
        if self.formula.in_place:
            check_tensor_room(traced)
        shared = len(uniforms(traced, list(traced.outputs.values())))
        if shared >= _MOST_UNIFORMS:
            raise FormulaError(f"{self.formula.name}: the formula must need at most {_MOST_UNIFORMS - 1} numbers, got {shared}")
        return traced

    def _make_program(self, variant, want):
        return Program(self._traced(variant), self.formula.roles(want))

    def _roles(self, variant, want):
        return dict(self.formula.passes(self._traced(variant)))[want]
