"""The optimizers: update rules, each written once, in modules by family; `methods` holds what some can do beside a step.

The other modules hold what stands around a step: gradients accumulated and clipped, the scale of a loss, averages, optimizers
around others, schedules; `arithmetic` what they are made of.
"""

from .accumulation import accumulate
from .adam import ADOPT, AdaBelief, Adam, Adamax, AdamW, Adan, AdEMAMix, NAdam, RAdam, Yogi
from .adaptive import FTRL, MADGRAD, Adadelta, Adagrad, RMSprop, Rprop
from .averaging import WeightAverage
from .clipping import clip_grad_adaptive, clip_grad_norm, clip_grad_value
from .gradient_descent import ASGD, SGD
from .layerwise import LAMB
from .lookahead import Lookahead
from .methods import ScheduleFreeAdamW, ScheduleFreeSGD, Sophia
from .scaling import LossScaler
from .sharpness import SAM
from .signs import Lion, Signum

# The optimizers that are rules: tests, benchmarks and docs go over them.
__all__ = [
    "ADOPT",
    "ASGD",
    "FTRL",
    "LAMB",
    "MADGRAD",
    "SGD",
    "AdEMAMix",
    "AdaBelief",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Adan",
    "Lion",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "Signum",
    "Sophia",
    "Yogi",
]
