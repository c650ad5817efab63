"""The optimizers: update rules, each written once, in modules by family.

The other modules hold what stands around a step: gradients accumulated and clipped, the scale of a loss, averages, optimizers
around others, schedules; `arithmetic` what they are made of.
"""

from ._rules import *
from ._rules import __all__
from .accumulation import accumulate
from .averaging import WeightAverage
from .clipping import clip_grad_adaptive, clip_grad_norm, clip_grad_value
from .lookahead import Lookahead
from .scaling import LossScaler
from .sharpness import SAM

# What stands around a step; the optimizers are in `__all__`.
UTILITIES = [
    "SAM",
    "Lookahead",
    "LossScaler",
    "WeightAverage",
    "accumulate",
    "clip_grad_adaptive",
    "clip_grad_norm",
    "clip_grad_value",
]
