"""The decorators that enter formulas into one table: a decorator is all that a built-in loss or rule takes.

The build prints kernels, header and stubs of what the table holds. The program says beforehand what public object a formula becomes
(`publish`, in `fastloss.api`), and the decorators give that; the build says nothing, and they give the formula itself.
"""

from collections.abc import Callable
from typing import Any

from .definition import Formula, RowFormula, UpdateRule
from .pairs import PairFormula

# Every built-in formula by its name, in the order of definition.
FORMULAS: dict[str, Formula] = {}
_public: dict[type[Formula], Callable[[Any], Any]] = {}


def publish(kind: type[Formula], make: Callable[[Any], Any]) -> None:
    """From now on the decorators give what `make` makes of a formula of this kind."""
    _public[kind] = make


def of_module(name: str) -> dict[str, Formula]:
    """The formulas that a module defines."""
    return {formula.name: formula for formula in FORMULAS.values() if formula.module == name}


def loss(**options: Any) -> Callable[[Callable], Any]:
    """A loss of single elements."""
    return _entering(Formula, options)


def row_loss(**options: Any) -> Callable[[Callable], Any]:
    """A loss of rows."""
    return _entering(RowFormula, options)


def pair_loss(**options: Any) -> Callable[[Callable], Any]:
    """A loss of a similarity between rows and a formula of one row of similarities."""
    return _entering(PairFormula, options)


def update_rule(**options: Any) -> Callable[[Callable], Any]:
    """An optimizer's rule."""
    return _entering(UpdateRule, options)


def _entering(kind, options):
    def enter(function):
        formula = kind.define(function, **options)
        there = FORMULAS.get(formula.name, formula)
        if there.source != formula.source:
            raise ValueError(f"{formula.name}: a formula must have a name of its own, got that of {there.source}")
        FORMULAS[formula.name] = formula
        return _public[kind](formula) if kind in _public else formula

    return enter
