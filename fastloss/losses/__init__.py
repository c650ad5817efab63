"""The losses, each a formula of a few lines, grouped as the field groups them.

To add one is to write it in one of these modules: the kernels, the derivatives, the documentation, the tests and the benchmarks
follow from it.
"""

from ..face import Loss
from . import binary, counts, distributions, regression

FAMILIES = {
    module.__name__.rpartition(".")[2]: {name: loss for name, loss in vars(module).items() if isinstance(loss, Loss)}
    for module in (regression, counts, binary, distributions)
}
for _family in FAMILIES.values():
    globals().update(_family)

__all__ = [name for family in FAMILIES.values() for name in family]
