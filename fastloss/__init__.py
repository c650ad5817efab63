"""fastloss: loss functions and optimizer steps for scientific Python, at memory speed.

Losses (`fastloss.losses`) take NumPy arrays and return value, gradient and diagonal Hessian in one pass; optimizers
(`fastloss.optimizers`) rewrite parameters in place. Both are formulas, written once.
"""

from .face import BlockLoss, Loss, NearestCenterLoss, Optimizer, RowLoss, SparseRows, StepResult
from .losses import *
from .losses import __all__ as _losses
from .optimizers import *
from .optimizers import (
    SAM,
    Lookahead,
    LossScaler,
    WeightAverage,
    accumulate,
    clip_grad_adaptive,
    clip_grad_norm,
    clip_grad_value,
    schedules,
)
from .optimizers import __all__ as _optimizers
from .state import *
from .state import __all__ as _state
from .threads import get_num_threads, set_num_threads, threadpool_limits

__version__ = "0.1.0"

__all__ = [
    "SAM",
    "BlockLoss",
    "Lookahead",
    "Loss",
    "LossScaler",
    "NearestCenterLoss",
    "Optimizer",
    "RowLoss",
    "SparseRows",
    "StepResult",
    "WeightAverage",
    "accumulate",
    "clip_grad_adaptive",
    "clip_grad_norm",
    "clip_grad_value",
    "get_num_threads",
    "schedules",
    "set_num_threads",
    "threadpool_limits",
    *_losses,
    *_optimizers,
    *_state,
]
