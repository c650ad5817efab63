"""fastloss: loss functions and optimizer steps for scientific Python, at memory speed.

Losses (`fastloss.losses`) take NumPy arrays and return value, gradient and diagonal Hessian in one pass; optimizers
(`fastloss.optimizers`) rewrite parameters in place. Both are formulas, written once.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .face import BlockLoss, LinePoint, Loss, NearestCenterLoss, Optimizer, RowLoss, SparseRows, StepResult, line_search
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
)
from .optimizers import __all__ as _optimizers
from .threads import get_num_threads, set_num_threads, threadpool_limits

if TYPE_CHECKING:
    from . import c_api
    from .adapters.scipy import as_least_squares_loss, as_low_level_callable, as_scipy
    from .c_api import get_include
    from .optimizers import schedules
    from .state import from_optax_state, from_torch_state, load_state, save_state, to_optax_state, to_torch_state

__version__ = "0.1.0"

# Where to find what not every program needs: imported at its first use.
_STATE = ("from_optax_state", "from_torch_state", "load_state", "save_state", "to_optax_state", "to_torch_state")
_SCIPY = ("as_least_squares_loss", "as_low_level_callable", "as_scipy")

__all__ = [
    "SAM",
    "BlockLoss",
    "LinePoint",
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
    "c_api",
    "get_include",
    "get_num_threads",
    "line_search",
    "schedules",
    "set_num_threads",
    "threadpool_limits",
    *_losses,
    *_optimizers,
    *_SCIPY,
    *_STATE,
]


if not TYPE_CHECKING:  # or a type checker would believe in every name

    def __getattr__(name):
        if name == "schedules":
            return import_module(".optimizers.schedules", __name__)
        if name == "c_api":
            return import_module(".c_api", __name__)
        if name == "get_include":
            return import_module(".c_api", __name__).get_include
        if name in _SCIPY:
            return getattr(import_module(".adapters.scipy", __name__), name)
        if name in _STATE:
            return getattr(import_module(".state", __name__), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__})
