"""Targets for emitted Python: interpreted, compiled for this processor, or compiled for a GPU.

A machine provides the operations that the text uses (`formula.python.MACHINE`) and compiles its functions. The functions of
fastloss.vecmath are defined on each machine once.
"""

import linecache

from ...formula import definition
from ...formula.lazy import lazy
from ...formula.python import function_text


class Machine:
    """The operations of one precision, by name, and `compiled(function)`, which makes of a Python function what others can call."""

    def __init__(self, precision, operations, compiled=lambda function: function):
        self.precision, self.compiled = precision, compiled
        self.operations = {**operations, "inf": float("inf"), "nan": float("nan")}

    def define(self, text, name, **more):
        """The function of that name that the text defines, as Python has it; `more` is what else the text may call."""
        return self.run(text, name, {**self.scope, **more})

    @lazy
    def scope(self):
        """Everything that a formula's text may call."""
        from ... import vecmath  # noqa: F401  (enters its functions)

        scope = dict(self.operations)
        for function in definition.VECTOR_FUNCTIONS.values():
            # They call each other, so they share the scope.
            name = function.name
            scope[name] = self.compiled(self.run(function_text(function, self.precision), name, scope))
        return scope

    def run(self, text, name, scope):
        """The function of that name that the text defines in the scope."""
        file = f"<fastloss {self.precision.name} {name}>"
        exec(compile(text, file, "exec"), scope)
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)  # for whoever shows a traceback
        return scope[name]
