"""The losses, each a formula of a few lines, grouped as the field groups them.

To add one is to write it in one of these modules: the kernels, the derivatives, the documentation, the tests and the benchmarks
follow from it.
"""

from ..api import BlockLoss, Loss, RowLoss
from . import binary, classification, clustering, counts, distributions, embeddings, linear, regression

FAMILIES = {
    module.__name__.rpartition(".")[2]: {
        name: loss for name, loss in vars(module).items() if isinstance(loss, Loss) and loss.__module__ == module.__name__
    }
    for module in (regression, counts, binary, classification, distributions, embeddings, linear, clustering)
}
for _family in FAMILIES.values():
    globals().update(_family)

__all__ = [name for family in FAMILIES.values() for name in family]
# The losses of whole rows, those of rows that share arrays, and those of single elements.
ROWS = [name for name in __all__ if isinstance(globals()[name], RowLoss)]
BLOCKS = [name for name in __all__ if isinstance(globals()[name], BlockLoss)]
POINTWISE = [name for name in __all__ if name not in (*ROWS, *BLOCKS)]
