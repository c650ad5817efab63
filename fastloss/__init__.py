"""fastloss: loss functions and optimizer steps for scientific Python, at memory speed.

Losses (`fastloss.losses`) take NumPy arrays and return value, gradient and diagonal Hessian in one pass; optimizers
(`fastloss.optimizers`) rewrite parameters in place. Both are formulas, written once.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .api import *
from .api import __all__ as _api
from .formula import FormulaError
from .formula.domains import *
from .formula.domains import __all__ as _domains
from .losses import *
from .losses import __all__ as _losses
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
from .optimizers import UTILITIES as _utilities
from .optimizers._rules import *
from .optimizers._rules import __all__ as _optimizers
from .threads import get_num_threads, set_num_threads, threadpool_limits

if TYPE_CHECKING:
    from . import c_api, math
    from .adapters.scipy import as_least_squares_loss, as_low_level_callable, as_scipy
    from .api.own import loss, update_rule
    from .c_api import get_include
    from .checking import check_loss
    from .optimizers import schedules
    from .state import from_optax_state, from_torch_state, load_state, save_state, to_optax_state, to_torch_state

__version__ = "0.1.0"

# What not every program needs is imported at its first use: names, and modules.
_PLACES = {
    ".adapters.scipy": ("as_least_squares_loss", "as_low_level_callable", "as_scipy"),
    ".api.own": ("loss", "update_rule"),
    ".c_api": ("get_include",),
    ".checking": ("check_loss",),
    ".state": ("from_optax_state", "from_torch_state", "load_state", "save_state", "to_optax_state", "to_torch_state"),
}
_LAZY = {name: place for place, names in _PLACES.items() for name in names}
_MODULES = {"c_api": ".c_api", "math": ".math", "schedules": ".optimizers.schedules"}

_THREADS = ("get_num_threads", "set_num_threads", "threadpool_limits")

__all__ = [*_api, *_domains, *_losses, *_optimizers, *_utilities, *_THREADS, "FormulaError", *_LAZY, *_MODULES]


if not TYPE_CHECKING:  # or a type checker would believe in every name

    def __getattr__(name):
        if name in _MODULES:
            return import_module(_MODULES[name], __name__)
        if name in _LAZY:
            found = globals()[name] = getattr(import_module(_LAZY[name], __name__), name)
            return found
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__})
