"""The kernels of a formula that was not there when the engine was built: compiled when the engine asks for them."""

import threading
from functools import cache, cached_property

from ...formula import PRECISIONS, FormulaError, RowFormula
from ...formula.assembly import Module
from ...formula.emit import cost, uniforms
from ...formula.program import Program
from . import native

# The engine's fixed tables (driver.pxi, engine.pyx).
_MOST_ARRAYS, _MOST_UNIFORMS = 12, 32


class Kernels:
    """What the build's tables are for the built-in formulas: where a kernel is, what it costs, what a program needs.

    Each pass of each variant is compiled alone, in one precision: a first call waits for nothing but what it uses.
    """

    def __init__(self, formula):
        self.formula = formula
        self._addresses = {}
        self._libraries = []
        self._lock = threading.RLock()
        self._traced, self._program = cache(self._trace), cache(self._make_program)

    def address(self, name):
        """Where the function of that name is, as an integer."""
        with self._lock:
            if name not in self._addresses:
                self._compile(name)
            return self._addresses[name]

    def cost(self, name):
        """What a kernel costs per element, in additions."""
        variant, want, _ = name.rsplit("_", 2)
        return cost([self._traced(variant).outputs[role] for role in self._roles(variant, want)])

    def layout(self, name):
        """What the engine is told of a row formula's program."""
        return self._program(*name.rsplit("_", 1)).layout()

    def _compile(self, name):
        from ... import vecmath  # noqa: F401  (enters its functions)

        module = Module(native.processor())
        variant, _, pass_name = name.rpartition("_uniforms")
        if variant and not pass_name:
            names = [name]
            module.uniforms(self._traced(variant), self.formula.source)
        else:
            names = list(self._write(module, name))
        library = native.Library(module.text)
        self._libraries.append(library)
        self._addresses |= {each: library.address(each) for each in names}

    def _write(self, module, name):
        """Write the kernel of that name, and those that are always used with it; their names."""
        formula = self.formula
        precision = next(p for p in PRECISIONS if name.endswith(f"_{p.name}"))
        if isinstance(formula, RowFormula):
            variant, want, *_ = name.rsplit("_", 3)
            for each, _ in self._program(variant, want).kernels(want, precision, formula.source, module.loop):
                yield each
            return
        variant, want, _ = name.rsplit("_", 2)
        traced = self._traced(variant)
        outputs = {role: traced.outputs[role] for role in self._roles(variant, want)}
        handed = uniforms(traced, list(traced.outputs.values()))
        module.loop(name, traced.inputs, outputs, handed, precision, formula.source, in_place=formula.in_place)
        yield name

    @cached_property
    def _choices(self):
        return {self.formula.variant_name(choice): choice for choice in self.formula.choices()}

    def _trace(self, variant):
        traced = self.formula.trace(self._choices[variant])
        handed = uniforms(traced, list(traced.outputs.values()))
        for what, count, most in (
            ("arrays, results included,", len({*traced.inputs, *traced.outputs}), _MOST_ARRAYS),
            ("hyperparameters", len(traced.parameters), _MOST_UNIFORMS),
            ("numbers that are the same for all elements", len(handed), _MOST_UNIFORMS),
        ):
            if count > most and not isinstance(self.formula, RowFormula):
                raise FormulaError(f"{self.formula.name}: a formula must need at most {most} {what}, got {count}")
        return traced

    def _make_program(self, variant, want):
        return Program(self._traced(variant), self.formula.roles(want))

    def _roles(self, variant, want):
        return dict(self.formula.passes(self._traced(variant)))[want]
