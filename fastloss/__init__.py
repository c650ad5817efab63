"""fastloss: loss functions and optimizer steps for scientific Python, at memory speed.

Losses (`fastloss.losses`) take NumPy arrays and return value, gradient and diagonal Hessian in one pass; optimizers
(`fastloss.optimizers`) rewrite parameters in place. Both are formulas, written once.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .api import (
    BlockLoss,
    LinePoint,
    Loss,
    NearestCenterLoss,
    Optimizer,
    RowLoss,
    SparseRows,
    StepResult,
    check_device,
    line_search,
)
from .api.own import loss, update_rule
from .formula import (
    Class,
    Classes,
    ClassWeight,
    Decay,
    Each,
    Flag,
    FormulaError,
    Fraction,
    Interval,
    Label,
    NonNegative,
    Optional,
    PerRow,
    Positive,
    Real,
)
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
    from . import c_api, math
    from .adapters.scipy import as_least_squares_loss, as_low_level_callable, as_scipy
    from .c_api import get_include
    from .checking import check_loss
    from .optimizers import schedules
    from .state import from_optax_state, from_torch_state, load_state, save_state, to_optax_state, to_torch_state

__version__ = "0.1.0"

# Where to find what not every program needs: imported at its first use.
_STATE = ("from_optax_state", "from_torch_state", "load_state", "save_state", "to_optax_state", "to_torch_state")
_SCIPY = ("as_least_squares_loss", "as_low_level_callable", "as_scipy")
_MODULES = {"c_api": ".c_api", "math": ".math", "schedules": ".optimizers.schedules"}

# The domains of a formula's arguments.
_DOMAINS = (
    "Class",
    "ClassWeight",
    "Classes",
    "Decay",
    "Each",
    "Flag",
    "Fraction",
    "Interval",
    "Label",
    "NonNegative",
    "Optional",
    "PerRow",
    "Positive",
    "Real",
)

__all__ = [
    "SAM",
    "BlockLoss",
    "LinePoint",
    "FormulaError",
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
    "check_device",
    "check_loss",
    "clip_grad_adaptive",
    "clip_grad_norm",
    "clip_grad_value",
    "c_api",
    "get_include",
    "get_num_threads",
    "line_search",
    "loss",
    "math",
    "schedules",
    "set_num_threads",
    "threadpool_limits",
    "update_rule",
    *_DOMAINS,
    *_losses,
    *_optimizers,
    *_SCIPY,
    *_STATE,
]


if not TYPE_CHECKING:  # or a type checker would believe in every name

    def __getattr__(name):
        if name in _MODULES:
            return import_module(_MODULES[name], __name__)
        if name == "get_include":
            return import_module(".c_api", __name__).get_include
        if name in _SCIPY:
            return getattr(import_module(".adapters.scipy", __name__), name)
        if name == "check_loss":
            return import_module(".checking", __name__).check_loss
        if name in _STATE:
            return getattr(import_module(".state", __name__), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__})
