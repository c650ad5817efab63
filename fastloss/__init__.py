"""fastloss: loss functions and optimizer steps for scientific Python, at memory speed.

Losses (`fastloss.losses`) take NumPy arrays and return value, gradient and diagonal Hessian in one pass; optimizers
(`fastloss.optimizers`) rewrite parameters in place. Both are formulas, written once.
"""

from .face import BlockLoss, Loss, NearestCenterLoss, Optimizer, RowLoss, SparseRows, StepResult
from .losses import *
from .losses import __all__ as _losses
from .optimizers import *
from .optimizers import __all__ as _optimizers
from .optimizers import schedules
from .state import *
from .state import __all__ as _state
from .threads import get_num_threads, set_num_threads, threadpool_limits

__version__ = "0.1.0"

__all__ = [
    "BlockLoss",
    "Loss",
    "NearestCenterLoss",
    "Optimizer",
    "RowLoss",
    "SparseRows",
    "StepResult",
    "get_num_threads",
    "schedules",
    "set_num_threads",
    "threadpool_limits",
    *_losses,
    *_optimizers,
    *_state,
]
