"""How a loss and an optimizer come by their functions for `@njit` code."""

from typing import Any

from ..formula import PairFormula, RowFormula


class Jit:
    """The attribute `jit`: made when it is first used, for Numba is an extra."""

    def __init__(self, doc):
        self.__doc__ = doc

    def __get__(self, instance: Any, owner: Any) -> Any:
        holder = instance if hasattr(instance, "formula") else owner
        formula = getattr(holder, "formula", None) or getattr(holder, "rule", None)
        if formula is None:  # of the class itself: the documentation
            return self
        if "_jit" not in vars(holder):
            holder._jit = _functions(formula)
        return holder._jit


def _functions(formula):
    if isinstance(formula, RowFormula | PairFormula):
        raise AttributeError(f"{formula.name}: jit must be that of a loss of single elements, got one of whole rows")
    try:
        import numba  # noqa: F401  (first: our own module, failing half way, would leak at each attempt)

        from .._kernels.jit.functions import functions
    except ImportError as missing:
        raise ImportError(
            f"{formula.name}.jit: Numba must be installed (pip install 'fastloss[jit]'), got: {missing}"
        ) from missing
    try:
        return functions(formula)
    except TypeError as refused:  # what a class lacks, whoever looks over its attributes takes for missing
        raise AttributeError(str(refused)) from None
