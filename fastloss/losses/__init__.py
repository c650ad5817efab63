"""The losses, each a formula of a few lines, grouped as the field groups them.

To add one is to write it in one of these modules: the kernels, the derivatives, the documentation, the tests and the benchmarks
follow from it.
"""

from ..formula import PairFormula, RowFormula
from ..formula.registry import FORMULAS, of_module
from . import binary, classification, clustering, counts, distributions, embeddings, linear, regression

FAMILIES = {
    module.__name__.rpartition(".")[2]: {name: vars(module)[name] for name in of_module(module.__name__)}
    for module in (regression, counts, binary, classification, distributions, embeddings, linear, clustering)
}
for _family in FAMILIES.values():
    globals().update(_family)

__all__ = [name for family in FAMILIES.values() for name in family]
# The losses of whole rows, those of rows that share arrays, and those of single elements.
ROWS = [name for name in __all__ if isinstance(FORMULAS[name], RowFormula)]
BLOCKS = [name for name in __all__ if isinstance(FORMULAS[name], PairFormula)]
POINTWISE = [name for name in __all__ if name not in (*ROWS, *BLOCKS)]
