"""The public face: what a loss and an optimizer do when they are called.

The decorators (`loss`, `row_loss`, `update_rule`, …) turn a formula into the object that users call. While the kernels are being built they
stand bare, and only the formula remains (see `_kernels/generate.py`). Those that users are given, in `own`, compile at run time.
"""

from .block_loss import BlockLoss, NearestCenterLoss, pair_loss
from .line import LinePoint, line_search
from .loss import Loss, bound, check_device, loss
from .optimizer import Optimizer, StepResult, update_rule
from .parameters import SparseRows
from .row_loss import RowLoss, row_loss
