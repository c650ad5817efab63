"""The losses, each a formula of a few lines, grouped as the field groups them.

To add one is to write it in one of these modules: the kernels, the derivatives, the documentation, the tests and the benchmarks
follow from it.
"""

from ..face import Loss, RowLoss
from . import binary, classification, counts, distributions, embeddings, regression

FAMILIES = {
    module.__name__.rpartition(".")[2]: {name: loss for name, loss in vars(module).items() if isinstance(loss, Loss)}
    for module in (regression, counts, binary, classification, distributions, embeddings)
}
for _family in FAMILIES.values():
    globals().update(_family)

__all__ = [name for family in FAMILIES.values() for name in family]
# The losses of whole rows, and those of single elements.
ROWS = [name for name in __all__ if isinstance(globals()[name], RowLoss)]
POINTWISE = [name for name in __all__ if name not in ROWS]
