"""The public objects: what a loss and an optimizer do when they are called.

The decorators of `formula.registry` give these for built-in formulas. Those that users are given, in `own`, compile at run time.
"""

from ..formula import Formula, PairFormula, RowFormula, UpdateRule
from ..formula.registry import publish
from .block_loss import BlockLoss, NearestCenterLoss
from .line import LinePoint, line_search
from .loss import Loss, bound, check_device
from .optimizer import Optimizer, StepResult, optimizer_class
from .parameters import SparseRows
from .row_loss import RowLoss

publish(Formula, Loss)
publish(RowFormula, RowLoss)
publish(PairFormula, lambda formula: (NearestCenterLoss if formula.finds_nearest else BlockLoss)(formula))
publish(UpdateRule, optimizer_class)

# What `fastloss` itself gives of these.
__all__ = [
    "BlockLoss",
    "LinePoint",
    "Loss",
    "NearestCenterLoss",
    "Optimizer",
    "RowLoss",
    "SparseRows",
    "StepResult",
    "check_device",
    "line_search",
]
